"""Arrays that do not fit in memory raise an error before they are allocated."""

from types import SimpleNamespace

import psutil
import pytest

from segue.core.memory_check import check_memory


def test_too_large_an_array_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    check_memory("ease: the matrix", 2**26, "keep fewer items")  # small arrays are not checked
    check_memory("ease: the matrix", 240_000_000, "keep fewer items")
    with pytest.raises(
        ValueError, match=r"^ease: the matrix needs 1\.0 GiB, 1\.0 GiB are available; keep fewer items$"
    ):
        check_memory("ease: the matrix", 2**28, "keep fewer items")
