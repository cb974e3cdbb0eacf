"""Find the nearest rows of each row of a sparse matrix.

Works in blocks of pairs: memory grows with rows times neighbors, not with the square of the number of rows.

Shapes: N query rows, R reference rows, P pairs of a block, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.memory_check import check_memory
from segue.core.numba_kernels import fastmath_kernel, input_array, output_array, parallel_rows
from segue.core.types import Codes, Scores
from segue.similarity.row_pairs import CoOccurrencePairs, pair_blocks, pair_counts
from segue.similarity.similarity_registry import Measure
from segue.similarity.sparse_rows import SparseRows

__all__ = ["CsrArrays", "csr_arrays", "nearest_neighbors", "similarity_matrix", "sparse_product"]

CsrArrays: TypeAlias = tuple[NDArray[np.int64], Codes, Scores]
"""Offsets, columns and values of sparse rows."""


def nearest_neighbors(
    query_rows: SparseRows,
    reference_rows: SparseRows,
    measure: Measure,
    shrink: float,
    k: int,
    self_rows: Codes | None = None,
    progress: Callable[[int], None] | None = None,
) -> csr_array[Any]:
    """Find the ``k`` most similar reference rows of each query row.

    Returns:
        ``(N, R)`` sparse similarities, all above 0. Ties keep the first reference rows.

    Args:
        self_rows: ``(N,)`` the reference row of the same entity as the query row, which is left out; -1: none.
        progress: called with the number of newly finished rows.
    """
    # a row has at most one neighbor per row that shares a column with it
    capacity = np.minimum(np.diff(pair_counts(query_rows, reference_rows)), min(k, len(reference_rows)))
    starts = np.concatenate([[0], np.cumsum(capacity)])
    columns, values = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    lengths = np.zeros(len(query_rows), np.int64)

    def process_rows(first: int, stop: int) -> None:
        for pairs, similarity_P in _similarity_blocks(
            query_rows, reference_rows, measure, shrink, self_rows, first, stop
        ):
            _select(pairs.first, k, pairs.offsets, pairs.right_rows, similarity_P, starts, columns, values, lengths)
            if progress is not None:
                progress(pairs.stop - pairs.first)

    parallel_rows(process_rows, pair_counts(query_rows, reference_rows))
    is_used = np.arange(starts[-1]) < np.repeat(starts[:-1] + lengths, capacity)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return csr_array((values[is_used], columns[is_used], offsets), shape=(len(query_rows), len(reference_rows)))


def similarity_matrix(
    query_rows: SparseRows, reference_rows: SparseRows, measure: Measure, shrink: float, self_rows: Codes | None = None
) -> Scores:
    """Compute the dense ``(N, R)`` similarities of query rows and reference rows.

    Pairs without a common column have similarity 0. For the arguments see :func:`nearest_neighbors`.

    Raises:
        ValueError: the matrix does not fit in memory.
    """
    matrix_name = f"similarity matrix of {len(query_rows):,} x {len(reference_rows):,} rows"
    check_memory(
        matrix_name,
        len(query_rows) * len(reference_rows),
        "use fewer users or items (min_user_events, min_item_events)",
    )
    out = np.zeros((len(query_rows), len(reference_rows)), np.float32)

    def process_rows(first: int, stop: int) -> None:
        for pairs, similarity_P in _similarity_blocks(
            query_rows, reference_rows, measure, shrink, self_rows, first, stop
        ):
            out[pairs.left_rows, pairs.right_rows] = similarity_P

    parallel_rows(process_rows, pair_counts(query_rows, reference_rows))
    return out


def _similarity_blocks(
    query_rows: SparseRows,
    reference_rows: SparseRows,
    measure: Measure,
    shrink: float,
    self_rows: Codes | None,
    first: int,
    stop: int,
) -> Iterator[tuple[CoOccurrencePairs, Scores]]:
    """Yield blocks of pairs with their similarities.

    The similarity of a row to itself is set to 0.
    """
    for pairs in pair_blocks(query_rows, reference_rows, first, stop):
        similarity_P = np.ascontiguousarray(measure(pairs, shrink), np.float32)
        if self_rows is not None:
            similarity_P[pairs.right_rows == self_rows[pairs.left_rows]] = 0.0
        yield pairs, similarity_P


def sparse_product(weights_NR: csr_array[Any], rows: CsrArrays, n_columns: int) -> Scores:
    """Compute the product of ``weights_NR`` and the sparse ``rows (R, C)``.

    The result is dense, ``(N, C)``.
    """
    out = np.zeros((weights_NR.shape[0], n_columns), np.float32)
    left = csr_arrays(weights_NR)

    def process_rows(first: int, stop: int) -> None:
        _sparse_product_kernel(first, stop, *left, *rows, out)

    parallel_rows(process_rows, left[0])
    return out


def csr_arrays(rows: csr_array[Any]) -> CsrArrays:
    """Return offsets, columns and values of a sparse matrix.

    They have the types that kernels expect.
    """
    return (
        rows.indptr.astype(np.int64, copy=False),
        rows.indices.astype(np.int32, copy=False),
        np.ascontiguousarray(rows.data, np.float32),
    )


@fastmath_kernel(
    int64,
    int64,
    input_array(int64),
    input_array(int32),
    input_array(float32),
    input_array(int64),
    output_array(int32),
    output_array(float32),
    output_array(int64),
)
def _select(
    first: int,
    k: int,
    offsets: NDArray[np.int64],
    right_rows: Codes,
    similarity_P: Scores,
    starts: NDArray[np.int64],
    columns: Codes,
    values: Scores,
    lengths: NDArray[np.int64],
) -> None:
    """Select the ``k`` greatest similarities of each row.

    They remain in the order of the reference rows. Pairs of a block start at row ``first`` of all query rows.
    """
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        n_positive = 0
        for p in range(begin, end):
            n_positive += 1 if similarity_P[p] > 0.0 else 0
        threshold, n_tied = np.float32(0.0), 0
        if n_positive > k:
            threshold = np.partition(similarity_P[begin:end], end - begin - k)[end - begin - k]
            greater = 0
            for p in range(begin, end):
                greater += 1 if similarity_P[p] > threshold else 0
            n_tied = k - greater
        position = starts[first + row]
        for p in range(begin, end):
            if similarity_P[p] > threshold or (similarity_P[p] == threshold and n_tied > 0):
                n_tied -= 1 if similarity_P[p] == threshold else 0
                columns[position] = right_rows[p]
                values[position] = similarity_P[p]
                position += 1
        lengths[first + row] = position - starts[first + row]


@fastmath_kernel(
    int64,
    int64,
    input_array(int64),
    input_array(int32),
    input_array(float32),
    input_array(int64),
    input_array(int32),
    input_array(float32),
    output_array(float32, 2),
)
def _sparse_product_kernel(
    first: int,
    stop: int,
    left_offsets: NDArray[np.int64],
    left_columns: Codes,
    left_values: Scores,
    offsets: NDArray[np.int64],
    columns: Codes,
    values: Scores,
    out: Scores,
) -> None:
    """Add rows of the right matrix, weighted by the cells of the left matrix.

    The kernel processes rows ``first:stop`` of the left matrix.
    """
    for n in range(first, stop):
        for e in range(left_offsets[n], left_offsets[n + 1]):
            row, weight = left_columns[e], left_values[e]
            begin, end = offsets[row], offsets[row + 1]
            row_columns, row_values = columns[begin:end], values[begin:end]
            for t in range(len(row_columns)):
                out[n, np.uint32(row_columns[t])] += weight * row_values[t]
