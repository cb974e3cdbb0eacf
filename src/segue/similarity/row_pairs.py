"""Pairs of rows with a column in common, and sums over the columns that both have: all that likeness is made of.

Shapes: B rows of a block, R other rows, P pairs, T cells, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Codes, Scores
from segue.similarity import pair_kernels
from segue.similarity.sparse_rows import Cells, Table

__all__ = ["BLOCK_PAIRS", "Moments", "Pairs", "meetings", "pairs_of"]

BLOCK_PAIRS = 262_144
"""Pairs that are worked on at once: what is computed of them stays in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the columns that both rows have, x of the row that is asked about and y of the other; ``(P,)`` each."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    xx: NDArray[np.float64]
    yy: NDArray[np.float64]
    xy: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows ``first:stop`` of one table, each with every row of another that it has a column in common with."""

    asked: Table
    table: Table
    """The other rows."""
    first: int
    stop: int
    offsets: NDArray[np.int64]
    """``(B + 1,)`` where the pairs of each row are."""
    others: Codes
    """``(P,)`` rows of ``table``, ascending for each row."""
    both: Scores
    """``(P,)`` columns in common, at least 1."""

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """``(P,)`` rows of ``asked``."""
        return np.repeat(np.arange(self.first, self.stop), np.diff(self.offsets))

    def own(self, name: str) -> NDArray[Any]:
        """``(P,)`` what :class:`Table` calls ``name``, by row, of the row that is asked about."""
        return np.repeat(getattr(self.asked, name)[self.first : self.stop], np.diff(self.offsets))

    def other(self, name: str) -> NDArray[Any]:
        """``(P,)`` likewise of the other row."""
        found: NDArray[Any] = getattr(self.table, name)[self.others]
        return found

    @cached_property
    def dot(self) -> NDArray[Any]:
        """``(P,)`` inner products of the rows."""
        return self.both if self.asked.binary and self.table.binary else self.products("values", "values")

    def products(self, own: Cells, other: Cells) -> NDArray[np.float64]:
        """``(P,)`` sums of the products of cells of the row and of the other."""
        out = np.empty(len(self.others))
        pair_kernels.multiply(*self._walk(own, other, out))
        return out

    def moments(self, kind: Cells) -> Moments:
        """Sums, sums of squares and of products of the cells."""
        out = np.empty((5, len(self.others)))
        pair_kernels.moments(*self._walk(kind, kind, out))
        return Moments(*out)

    def terms(self, what: Literal["overlap", "equal", "apart", "shared"], kind: Cells) -> NDArray[np.float64]:
        """``(P,)`` sums over the columns in common.

        Args:
            what: ``overlap``: |x| + |y| - |x - y|; ``equal``: 1 where x = y; ``apart``: (x - y)²; ``shared``, for x and
                y of at least 0: (x + y) / 2 less the share of one bit by which they tell the rows apart.
        """
        out = np.empty(len(self.others))
        pair_kernels.terms(*self._walk(kind, kind, pair_kernels.TERMS[what], out))
        return out

    def _walk(self, own: Cells, other: Cells, *more: Any) -> tuple[Any, ...]:
        lists = self.table.by_column
        asked = self.asked.offsets, self.asked.columns, self.asked.cells(own)
        others = lists.offsets, lists.rows, self.table.listed(other), len(self.table)
        return self.first, self.stop, *asked, *others, self.offsets, self.others, *more


def meetings(asked: Table, table: Table) -> NDArray[np.int64]:
    """``(R + 1,)`` cells of ``table`` that the rows before each row of ``asked`` meet: what they cost."""
    met_T = table.column_counts[asked.columns]
    found: NDArray[np.int64] = np.concatenate([[0], np.cumsum(met_T)])[asked.offsets]
    return found


def pairs_of(asked: Table, table: Table, first: int, stop: int, most: int | None = None) -> Iterator[Pairs]:
    """The pairs of rows ``first:stop`` of ``asked`` in blocks of at least one row and at most ``most`` pairs."""
    lists = table.by_column
    room = np.minimum(np.diff(meetings(asked, table)[first : stop + 1]), len(table))
    ends = np.concatenate([[0], np.cumsum(room)])
    row = first
    while row < stop:
        fitting = (
            int(np.searchsorted(ends, ends[row - first] + (most or max(BLOCK_PAIRS, len(table))), side="right")) - 1
        )
        end = max(row + 1, first + fitting)
        size = int(ends[end - first] - ends[row - first]) + 1
        offsets, others, both = np.zeros(end - row + 1, np.int64), np.empty(size, np.int32), np.empty(size, np.float32)
        pair_kernels.meet(
            row, end, asked.offsets, asked.columns, lists.offsets, lists.rows, len(table), offsets, others, both
        )
        yield Pairs(asked, table, row, end, offsets, others[: offsets[-1]], both[: offsets[-1]])
        row = end
