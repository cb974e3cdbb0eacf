"""A sparse table of numbers as measures of likeness read it: who had what, ratings, shares; absent cells are 0.

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

__all__ = ["Cells", "Lists", "Table"]

Cells: TypeAlias = Literal["values", "centred", "ranks", "shares", "roots", "lifts", "logs"]
"""Numbers of a table's cells, one way or another."""

SMOOTH = 0.1
"""Share of a distribution that is spread evenly over all columns before logarithms are taken of it."""

NOTHING = 1e-6
"""Share of the numbers that are subtracted below which their difference is rounding."""


class Lists(NamedTuple):
    """The cells of a table column by column."""

    offsets: NDArray[np.int64]
    """``(C + 1,)``"""
    rows: Codes
    """``(T,)`` ascending within a column."""
    order: NDArray[np.int64]
    """``(T,)`` places of the cells in the table."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows to be compared."""

    offsets: NDArray[np.int64]
    """``(R + 1,)`` cells of row r are ``offsets[r]:offsets[r + 1]``."""
    columns: Codes
    """``(T,)`` ascending within a row, each at most once."""
    values: Scores
    """``(T,)``"""
    n_columns: int
    beside: Table | None = None
    """The table these rows are compared with, whose columns are spoken of; none: itself."""
    histories: Events | None = None
    """The rows as they happened, for measures of sequences."""
    _listed: dict[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows_RC: csr_array[Any], beside: Table | None = None, histories: Events | None = None) -> Table:
        """The table of a sparse matrix, whose cells may hold 0: such a cell is there all the same."""
        if not rows_RC.has_sorted_indices:
            rows_RC = rows_RC.sorted_indices()
        return cls(
            rows_RC.indptr.astype(np.int64),
            np.ascontiguousarray(rows_RC.indices, np.int32),
            np.ascontiguousarray(rows_RC.data, np.float32),
            int(rows_RC.shape[1]),
            beside,
            histories,
        )

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.offsets) - 1

    def take(self, rows: NDArray[np.integer[Any]]) -> Table:
        """Rows by index, to be compared with all rows of this table, or of the one it stands beside."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        histories = None if self.histories is None else self.histories.take(rows)
        return Table(offsets, self.columns[at], self.values[at], self.n_columns, self.beside or self, histories)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """``(T,)`` the row of each cell."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def by_column(self) -> Lists:
        """The cells column by column."""
        places = csr_array(
            (np.arange(len(self.columns)), self.columns, self.offsets), shape=(len(self), self.n_columns)
        )
        found = places.tocsc()
        return Lists(found.indptr.astype(np.int64), found.indices.astype(np.int32), found.data.astype(np.int64))

    @cached_property
    def column_counts(self) -> NDArray[np.int64]:
        """``(C,)`` cells of each column."""
        return np.diff(self.by_column.offsets)

    def cells(self, kind: Cells) -> Scores:
        """``(T,)`` numbers of the cells, in the order of the table."""
        found: Scores = getattr(self, kind)
        return found

    def listed(self, kind: Cells) -> Scores:
        """``(T,)`` the same, column by column."""
        if kind not in self._listed:
            self._listed[kind] = self.cells(kind)[self.by_column.order]
        return self._listed[kind]

    @cached_property
    def counts(self) -> Scores:
        """``(R,)`` cells of each row."""
        return np.diff(self.offsets).astype(np.float32)

    @cached_property
    def sums(self) -> NDArray[np.float64]:
        """``(R,)``"""
        return _sums(self.rows, self.values, len(self))

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """``(R,)`` sums of absolute values."""
        return _sums(self.rows, np.abs(self.values), len(self))

    @cached_property
    def squares(self) -> NDArray[np.float64]:
        """``(R,)`` sums of squares."""
        return _sums(self.rows, np.square(self.values, dtype=np.float64), len(self))

    @cached_property
    def norms(self) -> Scores:
        """``(R,)`` lengths of the rows."""
        return np.sqrt(self.squares).astype(np.float32)

    @cached_property
    def binary(self) -> bool:
        """Whether every cell holds 1."""
        return bool((self.values == 1.0).all())

    @cached_property
    def occupied(self) -> int:
        """Columns of the table, or of the one it stands beside, that have a cell."""
        return int(((self.beside or self).column_counts > 0).sum())

    @cached_property
    def column_means(self) -> NDArray[np.float64]:
        """``(C,)`` means over the cells of each column; 0 where there is none."""
        return _sums(self.columns, self.values, self.n_columns) / np.maximum(self.column_counts, 1)

    @cached_property
    def centred(self) -> Scores:
        """``(T,)`` what values are above their column's mean; what is left of rounding is 0."""
        means_T = (self.beside or self).column_means[self.columns]
        above_T = self.values - means_T
        above_T[np.abs(above_T) <= NOTHING * np.abs(means_T)] = 0.0
        return above_T.astype(np.float32)

    @cached_property
    def ranks(self) -> Scores:
        """``(T,)`` places of values among those of their row, from 1; equal values share their mean place."""
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
    def shares(self) -> Scores:
        """``(T,)`` values as shares of their row's sum.

        Raises:
            ValueError: a value below 0.
        """
        if len(self.values) and self.values.min() < 0:
            raise ValueError(f"shares of a distribution: got a value of {self.values.min():g}, expected none below 0")
        sums_T = self.sums[self.rows]
        shares_T = np.divide(self.values, sums_T, out=np.zeros(len(sums_T)), where=sums_T > 0)
        return shares_T.astype(np.float32)

    @cached_property
    def roots(self) -> Scores:
        """``(T,)`` square roots of shares."""
        return np.sqrt(self.shares)

    @cached_property
    def lifts(self) -> Scores:
        """``(T,)`` what smoothed shares are above those of an empty cell."""
        return np.float32(1.0 - SMOOTH) * self.shares

    @cached_property
    def logs(self) -> Scores:
        """``(T,)`` logarithms of smoothed shares over those of an empty cell."""
        logs_T: Scores = np.log1p(self.lifts * (self.n_columns / SMOOTH)).astype(np.float32)
        return logs_T

    @cached_property
    def information(self) -> NDArray[np.float64]:
        """``(R,)`` sums of ``lifts * logs``."""
        return _sums(self.rows, self.lifts * self.logs.astype(np.float64), len(self))


def _sums(codes: NDArray[np.integer[Any]], numbers: NDArray[Any], count: int) -> NDArray[np.float64]:
    return np.bincount(codes, numbers, minlength=count).astype(np.float64)
