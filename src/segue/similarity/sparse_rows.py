"""Sparse rows and the transformations of their cells that similarity measures use.

A row holds interactions, ratings or weights; absent cells are 0.

Shapes: R rows, C columns, T cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.types import Codes, Events, Scores

__all__ = ["CellTransform", "ColumnLists", "SparseRows"]

CellTransform: TypeAlias = Literal[
    "values", "centered", "ranks", "proportions", "sqrt_proportions", "smoothed_proportions", "log_proportions"
]
"""Transformations of the cells: properties of :class:`SparseRows` by name."""

SMOOTHING = 0.1
"""Share of the uniform distribution that is mixed in before logarithms are taken."""

ROUNDING = 1e-6
"""Differences below this share of their operands are rounding errors."""


class ColumnLists(NamedTuple):
    """The cells of a matrix by column."""

    offsets: NDArray[np.int64]
    """``(C + 1,)``"""
    rows: Codes
    """``(T,)`` ascending within a column."""
    order: NDArray[np.int64]
    """``(T,)`` indices of the cells in row order."""


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows of a sparse matrix, with cached properties for similarity measures."""

    offsets: NDArray[np.int64]
    """``(R + 1,)`` the cells of row r are ``offsets[r]:offsets[r + 1]``."""
    columns: Codes
    """``(T,)`` ascending within a row, each at most once."""
    values: Scores
    """``(T,)``"""
    n_columns: int
    reference: SparseRows | None = None
    """The rows these are compared with, whose column statistics are used; none: these rows."""
    histories: Events | None = None
    """The rows as event sequences, for sequence measures."""
    _by_column: dict[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def from_csr(
        cls, rows_RC: csr_array[Any], reference: SparseRows | None = None, histories: Events | None = None
    ) -> SparseRows:
        """Convert a sparse matrix; explicit zeros remain stored cells."""
        if not rows_RC.has_sorted_indices:
            rows_RC = rows_RC.sorted_indices()
        return cls(
            rows_RC.indptr.astype(np.int64),
            np.ascontiguousarray(rows_RC.indices, np.int32),
            np.ascontiguousarray(rows_RC.data, np.float32),
            int(rows_RC.shape[1]),
            reference,
            histories,
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.offsets) - 1

    def take(self, rows: NDArray[np.integer[Any]]) -> SparseRows:
        """Select rows by index; their reference rows remain the same."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        cells = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        histories = None if self.histories is None else self.histories.take(rows)
        return SparseRows(
            offsets, self.columns[cells], self.values[cells], self.n_columns, self.reference or self, histories
        )

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Return the ``(T,)`` row of each cell."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def by_column(self) -> ColumnLists:
        """Return the cells by column."""
        cells = csr_array((np.arange(len(self.columns)), self.columns, self.offsets), shape=(len(self), self.n_columns))
        transposed = cells.tocsc()
        return ColumnLists(
            transposed.indptr.astype(np.int64), transposed.indices.astype(np.int32), transposed.data.astype(np.int64)
        )

    @cached_property
    def column_counts(self) -> NDArray[np.int64]:
        """Return the ``(C,)`` number of cells of each column."""
        return np.diff(self.by_column.offsets)

    def transformed(self, transform: CellTransform) -> Scores:
        """Return ``(T,)`` transformed values, in row order."""
        values: Scores = getattr(self, transform)
        return values

    def values_by_column(self, transform: CellTransform) -> Scores:
        """Return ``(T,)`` transformed values, in column order."""
        if transform not in self._by_column:
            self._by_column[transform] = self.transformed(transform)[self.by_column.order]
        return self._by_column[transform]

    @cached_property
    def counts(self) -> Scores:
        """Return the ``(R,)`` number of cells of each row."""
        return np.diff(self.offsets).astype(np.float32)

    @cached_property
    def sums(self) -> NDArray[np.float64]:
        """Return the ``(R,)`` sums of the rows."""
        return _sum_by_code(self.rows, self.values, len(self))

    @cached_property
    def l1_norms(self) -> NDArray[np.float64]:
        """Return the ``(R,)`` sums of absolute values."""
        return _sum_by_code(self.rows, np.abs(self.values), len(self))

    @cached_property
    def squared_norms(self) -> NDArray[np.float64]:
        """Return the ``(R,)`` sums of squares."""
        return _sum_by_code(self.rows, np.square(self.values, dtype=np.float64), len(self))

    @cached_property
    def l2_norms(self) -> Scores:
        """Return the ``(R,)`` Euclidean norms."""
        return np.sqrt(self.squared_norms).astype(np.float32)

    @cached_property
    def is_binary(self) -> bool:
        """Return whether every cell holds 1."""
        return bool((self.values == 1.0).all())

    @cached_property
    def has_negative_values(self) -> bool:
        """Return whether a cell is below 0."""
        return bool((self.values < 0.0).any())

    @cached_property
    def n_nonempty_columns(self) -> int:
        """Return the number of columns that have a cell in the reference rows."""
        return int(((self.reference or self).column_counts > 0).sum())

    @cached_property
    def column_means(self) -> NDArray[np.float64]:
        """Return ``(C,)`` means over the cells of each column; 0 for an empty one."""
        return _sum_by_code(self.columns, self.values, self.n_columns) / np.maximum(self.column_counts, 1)

    @cached_property
    def centered(self) -> Scores:
        """Return ``(T,)`` values minus their column mean in the reference rows."""
        means_T = (self.reference or self).column_means[self.columns]
        deviations_T = self.values - means_T
        deviations_T[np.abs(deviations_T) <= ROUNDING * np.abs(means_T)] = 0.0
        return deviations_T.astype(np.float32)

    @cached_property
    def ranks(self) -> Scores:
        """Return the ``(T,)`` ranks of values within their row, from 1.

        Ties share their mean rank.
        """
        order = np.lexsort((self.values, self.rows))
        values, rows = self.values[order], self.rows[order]
        first = np.ones(len(order), np.bool_)
        first[1:] = (rows[1:] != rows[:-1]) | (values[1:] != values[:-1])
        begin = np.flatnonzero(first)
        sizes = np.diff(np.append(begin, len(order)))
        ranks_T = np.empty(len(order), np.float32)
        ranks_T[order] = np.repeat(begin - self.offsets[rows[begin]] + (sizes + 1) / 2, sizes)
        return ranks_T

    @cached_property
    def proportions(self) -> Scores:
        """Return ``(T,)`` values divided by the sum of their row.

        Raises:
            ValueError: a value is negative.
        """
        if len(self.values) and self.values.min() < 0:
            raise ValueError(
                f"similarity of distributions: got a value of {self.values.min():g}, expected values of at least 0"
            )
        sums_T = self.sums[self.rows]
        proportions_T = np.divide(self.values, sums_T, out=np.zeros(len(sums_T)), where=sums_T > 0)
        return proportions_T.astype(np.float32)

    @cached_property
    def sqrt_proportions(self) -> Scores:
        """Return ``(T,)`` square roots of the proportions."""
        return np.sqrt(self.proportions)

    @cached_property
    def smoothed_proportions(self) -> Scores:
        """Return ``(T,)`` smoothed proportions minus that of an empty cell."""
        return np.float32(1.0 - SMOOTHING) * self.proportions

    @cached_property
    def log_proportions(self) -> Scores:
        """Return the ``(T,)`` log-ratios of smoothed proportions to that of an empty cell."""
        logs_T: Scores = np.log1p(self.smoothed_proportions * (self.n_columns / SMOOTHING)).astype(np.float32)
        return logs_T

    @cached_property
    def information(self) -> NDArray[np.float64]:
        """Return ``(R,)`` sums of ``smoothed_proportions * log_proportions``."""
        return _sum_by_code(self.rows, self.smoothed_proportions * self.log_proportions.astype(np.float64), len(self))


def _sum_by_code(codes: NDArray[np.integer[Any]], values: NDArray[Any], count: int) -> NDArray[np.float64]:
    return np.bincount(codes, values, minlength=count).astype(np.float64)
