"""What a measure of likeness looks at where values are compared: deviations, values, or how often each was given.

Shapes: N people, I items, T values, L levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from segue.core.types import Scores
from segue.similarity.sparse_rows import Table

__all__ = ["by_item", "level_table", "levels_of"]

MOST_LEVELS = 100
"""Distinct values up to which there is a distribution of levels."""


def levels_of(values_T: Scores, measure: str) -> Scores:
    """``(L,)`` the distinct values.

    Raises:
        ValueError: they are so many that hardly two rows share one; ``measure`` is named.
    """
    levels_L = np.unique(values_T)
    if len(levels_L) > MOST_LEVELS:
        raise ValueError(
            f"'{measure}' compares how often each value was given, and there are {len(levels_L):,} distinct values, "
            f"expected at most {MOST_LEVELS}"
        )
    return levels_L


def level_table(rows: csr_array[Any], levels_L: Scores, beside: Table | None = None) -> Table:
    """How often each row has each level; a value between two counts for the nearer one."""
    middles = (levels_L[1:].astype(np.float64) + levels_L[:-1]) / 2
    codes, ones = np.searchsorted(middles, rows.data).astype(np.int32), np.ones(len(rows.data), np.float32)
    counts = csr_array((ones, codes, rows.indptr), shape=(rows.shape[0], len(levels_L)), copy=True)
    counts.sum_duplicates()
    return Table.of(counts, beside)


def by_item(table_NI: csr_array[Any]) -> csr_array[Any]:
    """The same table with items for rows."""
    return csr_array(table_NI.T)
