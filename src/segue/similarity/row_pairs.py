"""Pairs of rows with a common column, and sums over common columns.

They are the inputs of similarity measures.

Shapes: B rows of a block, R reference rows, P pairs, T cells, C columns.
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
from segue.similarity.sparse_rows import CellTransform, SparseRows

__all__ = ["BLOCK_PAIRS", "CoOccurrencePairs", "Moments", "pair_blocks", "pair_counts", "zero_rounding_errors"]

BLOCK_PAIRS = 262_144
"""Pairs that are processed at a time, so that intermediate arrays stay in the processor's cache."""
ROUNDING = 1e-6
"""Inner products below this share of the product of the norms are rounding errors of orthogonal rows."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over the common columns of each pair, ``(P,)`` each.

    x is a value of the query row, y one of the reference row.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    xx: NDArray[np.float64]
    yy: NDArray[np.float64]
    xy: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CoOccurrencePairs:
    """Pairs of rows that share a column.

    Rows ``first:stop`` of one matrix are paired with all rows of another.
    """

    query_rows: SparseRows
    reference_rows: SparseRows
    """The rows on the right."""
    first: int
    stop: int
    offsets: NDArray[np.int64]
    """``(B + 1,)`` offsets of the pairs of each row."""
    right_rows: Codes
    """``(P,)`` indices into ``reference_rows``, ascending for each query row."""
    n_common: Scores
    """``(P,)`` number of common columns, at least 1."""

    @cached_property
    def left_rows(self) -> NDArray[np.int64]:
        """Return the ``(P,)`` indices into ``query_rows``."""
        return np.repeat(np.arange(self.first, self.stop), np.diff(self.offsets))

    def left(self, name: str) -> NDArray[Any]:
        """Return a property of :class:`SparseRows` for each query row, ``(P,)``."""
        return np.repeat(getattr(self.query_rows, name)[self.first : self.stop], np.diff(self.offsets))

    def right(self, name: str) -> NDArray[Any]:
        """Return a property of :class:`SparseRows` for each reference row, ``(P,)``."""
        values: NDArray[Any] = getattr(self.reference_rows, name)[self.right_rows]
        return values

    @cached_property
    def dot(self) -> NDArray[Any]:
        """Return the ``(P,)`` inner products of the rows, without rounding errors."""
        if self.query_rows.is_binary and self.reference_rows.is_binary:
            return self.n_common
        products_P = self.products("values", "values")
        if not (self.query_rows.has_negative_values or self.reference_rows.has_negative_values):
            return products_P  # sums of positive products have small relative errors
        return zero_rounding_errors(products_P, self.left("l2_norms") * self.right("l2_norms"))

    def products(self, left_transform: CellTransform, right_transform: CellTransform) -> NDArray[np.float64]:
        """Compute the ``(P,)`` inner products of transformed rows."""
        out = np.empty(len(self.right_rows))
        pair_kernels.dot_kernel(*self._kernel_arguments(left_transform, right_transform, out))
        return out

    def moments(self, transform: CellTransform) -> Moments:
        """Compute sums, sums of squares and of products of the transformed cells."""
        out = np.empty((5, len(self.right_rows)))
        pair_kernels.moment_kernel(*self._kernel_arguments(transform, transform, out))
        return Moments(*out)

    def pairwise_sum(
        self, term: Literal["overlap", "matches", "squared_difference", "jensen_shannon"], transform: CellTransform
    ) -> NDArray[np.float64]:
        """Compute ``(P,)`` sums of a term over the common columns.

        Args:
            term: ``overlap``: |x| + |y| - |x - y|; ``matches``: 1 where x = y; ``squared_difference``: (x - y)²;
                ``jensen_shannon``, for x and y of at least 0: (x + y) / 2 minus the column's part of the Jensen-Shannon
                divergence in bits.
            transform: transformation of the cells.
        """
        out = np.empty(len(self.right_rows))
        pair_kernels.term_kernel(*self._kernel_arguments(transform, transform, pair_kernels.PAIRWISE_TERMS[term], out))
        return out

    def _kernel_arguments(
        self, left_transform: CellTransform, right_transform: CellTransform, *outputs: Any
    ) -> tuple[Any, ...]:
        """Collect the arguments of a kernel of :mod:`segue.similarity.pair_kernels`."""
        columns = self.reference_rows.by_column
        left = self.query_rows.offsets, self.query_rows.columns, self.query_rows.transformed(left_transform)
        right = (
            columns.offsets,
            columns.rows,
            self.reference_rows.values_by_column(right_transform),
            len(self.reference_rows),
        )
        return self.first, self.stop, *left, *right, self.offsets, self.right_rows, *outputs


def zero_rounding_errors(products_P: NDArray[np.float64], norms_P: NDArray[Any]) -> NDArray[np.float64]:
    """Replace inner products that are rounding errors by 0.

    Orthogonal rows are then not neighbors.

    Args:
        products_P: sums of products, which are 0 for orthogonal rows.
        norms_P: the product of the norms of each pair.
    """
    return np.where(np.abs(products_P) > ROUNDING * norms_P, products_P, 0.0)


def pair_counts(query_rows: SparseRows, reference_rows: SparseRows) -> NDArray[np.int64]:
    """Count the cells in common with ``reference_rows``, cumulatively, ``(R + 1,)``.

    Element r is the number of common cells of all query rows before r.

    The counts are the cost of computing similarities, in the form that :func:`segue.core.numba_kernels.parallel_rows`
    expects.
    """
    pairs_T = reference_rows.column_counts[query_rows.columns]
    counts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(pairs_T)])[query_rows.offsets]
    return counts


def pair_blocks(
    query_rows: SparseRows, reference_rows: SparseRows, first: int, stop: int, max_pairs: int | None = None
) -> Iterator[CoOccurrencePairs]:
    """Yield the pairs of rows ``first:stop`` of ``query_rows`` in blocks.

    A block has at least one row and at most ``max_pairs`` pairs, unless it has a single row.
    """
    columns = reference_rows.by_column
    capacity = np.minimum(np.diff(pair_counts(query_rows, reference_rows)[first : stop + 1]), len(reference_rows))
    ends = np.concatenate([[0], np.cumsum(capacity)])
    row = first
    while row < stop:
        n_fitting = (
            int(
                np.searchsorted(
                    ends, ends[row - first] + (max_pairs or max(BLOCK_PAIRS, len(reference_rows))), side="right"
                )
            )
            - 1
        )
        end = max(row + 1, first + n_fitting)
        size = int(ends[end - first] - ends[row - first]) + 1
        offsets, right_rows, n_common = (
            np.zeros(end - row + 1, np.int64),
            np.empty(size, np.int32),
            np.empty(size, np.float32),
        )
        pair_kernels.count_pairs(
            row,
            end,
            query_rows.offsets,
            query_rows.columns,
            columns.offsets,
            columns.rows,
            len(reference_rows),
            offsets,
            right_rows,
            n_common,
        )
        yield CoOccurrencePairs(
            query_rows, reference_rows, row, end, offsets, right_rows[: offsets[-1]], n_common[: offsets[-1]]
        )
        row = end
