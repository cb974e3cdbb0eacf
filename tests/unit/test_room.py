"""A table that does not fit is refused before it is made."""

from types import SimpleNamespace

import psutil
import pytest

from segue.core.memory_check import need


def test_a_table_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    need("ease: the matrix", 2**26, "keep fewer items")  # as little as is always there
    need("ease: the matrix", 240_000_000, "keep fewer items")
    with pytest.raises(ValueError, match=r"^ease: the matrix needs 1\.0 GiB, 1\.0 GiB are free; keep fewer items$"):
        need("ease: the matrix", 2**28, "keep fewer items")
