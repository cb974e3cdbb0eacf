"""Sparse-dense products are bit-identical to SciPy's product for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from segue.solvers.items import sparse_product
from segue.solvers.items.sparse_product import sum_rows


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 700), (65, 1), (200, 256), (131, 701)])
def test_sums_equal_the_product(rows: int, columns: int, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    rng = np.random.default_rng(rows)
    ones = csr_array((rng.random((rows, 50)) < rng.random((rows, 1)) * 0.5).astype(np.float32))
    dense = rng.normal(size=(50, columns)).astype(np.float32)
    np.testing.assert_array_equal(sum_rows(ones, dense), ones @ dense)


def test_rows_without_entries_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_product, "SCIPY_ROWS", 0)
    assert not sum_rows(csr_array((3, 4), dtype=np.float32), np.ones((4, 5), np.float32)).any()
