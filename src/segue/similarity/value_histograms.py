"""Count how often each row has each distinct value.

Measures that compare distributions use these counts.

Shapes: N users, I items, T values, L distinct values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from segue.core.types import Scores
from segue.similarity.sparse_rows import SparseRows

__all__ = ["distinct_values", "transpose", "value_histograms"]

MAX_LEVELS = 100
"""Largest number of distinct values of which histograms are made."""


def distinct_values(values_T: Scores, measure: str) -> Scores:
    """Return the ``(L,)`` distinct values.

    Raises:
        ValueError: there are too many for histograms; the message names ``measure``.
    """
    values_L = np.unique(values_T)
    if len(values_L) > MAX_LEVELS:
        raise ValueError(
            f"similarity '{measure}' compares histograms of values: got {len(values_L):,} distinct values, "
            f"expected at most {MAX_LEVELS}; use another measure, or round the values"
        )
    return values_L


def value_histograms(rows: csr_array[Any], values_L: Scores, reference: SparseRows | None = None) -> SparseRows:
    """Count how often each row has each value; other values count as the nearest one."""
    thresholds = (values_L[1:].astype(np.float64) + values_L[:-1]) / 2
    codes, ones = np.searchsorted(thresholds, rows.data).astype(np.int32), np.ones(len(rows.data), np.float32)
    counts = csr_array((ones, codes, rows.indptr), shape=(rows.shape[0], len(values_L)), copy=True)
    counts.sum_duplicates()
    return SparseRows.from_csr(counts, reference)


def transpose(table_NI: csr_array[Any]) -> csr_array[Any]:
    """Return the matrix with items as rows."""
    return csr_array(table_NI.T)
