"""Compiled loops over pairs of rows that share a column.

They are the kernels of :mod:`segue.similarity.row_pairs`.

For a row on the left, the rows on the right are visited through an inverted index: the list of rows of each column.
Sums are accumulated by right row. Time is proportional to the number of common cells, not to the square of the number
of rows; memory is that of one block of pairs. Indices are unsigned, so that numba omits the check for negative ones.

``dot_kernel``, ``moment_kernel`` and ``term_kernel`` repeat the same outer loops: they are compiled for fixed types,
and a shared loop with a callback or one accumulator type for all would be slower.

Shapes: B rows of a block, R right rows, P pairs, T cells, C columns.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numba import float64 as double
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array
from segue.core.types import Codes, Scores

__all__ = ["PAIRWISE_TERMS", "count_pairs", "dot_kernel", "moment_kernel", "term_kernel"]

PAIRWISE_TERMS = {"overlap": 0, "matches": 1, "squared_difference": 2, "jensen_shannon": 3}
"""Terms of :func:`term_kernel`; see :meth:`segue.similarity.row_pairs.CoOccurrencePairs.pairwise_sum`."""

_ROW_LISTS = (input_array(int64), input_array(int32))
"""Offsets of rows or columns, and the codes that they hold."""
_PAIR_ARGUMENTS = (
    int64,
    int64,
    *_ROW_LISTS,
    input_array(float32),
    *_ROW_LISTS,
    input_array(float32),
    int64,
    *_ROW_LISTS,
)
"""Range of rows; left rows and values; right rows by column and values; number of right rows; pairs."""


@fastmath_kernel(
    int64, int64, *_ROW_LISTS, *_ROW_LISTS, int64, output_array(int64), output_array(int32), output_array(float32)
)
def count_pairs(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    column_offsets: NDArray[np.int64],
    column_rows: Codes,
    n_right: int,
    pair_offsets: NDArray[np.int64],
    right_rows: Codes,
    n_common: Scores,
) -> None:
    """Find the right rows that share a column with each of rows ``first:stop``.

    Also count the common columns of each pair.

    Args:
        pair_offsets: ``(B + 1,)`` output: offsets of the pairs of each row.
        right_rows: ``(P + 1,)`` output: right row of each pair, ascending for each row.
        n_common: ``(P + 1,)`` output: number of common columns.
    """
    counts = np.zeros(n_right, np.int32)
    touched = np.empty(n_right, np.int32)
    n_pairs = 0
    for row in range(first, stop):
        n_met = 0
        for e in range(offsets[row], offsets[row + 1]):
            n_met += column_offsets[columns[e] + 1] - column_offsets[columns[e]]
        if 8 * n_met >= n_right:  # many pairs: scan all rows instead of sorting the touched ones
            for e in range(offsets[row], offsets[row + 1]):
                members = column_rows[column_offsets[columns[e]] : column_offsets[columns[e] + 1]]
                for t in range(len(members)):
                    counts[np.uint32(members[t])] += np.int32(1)
            for other in range(n_right):  # always write, advance only for a pair: avoids a branch that mispredicts
                right_rows[n_pairs] = other
                n_common[n_pairs] = counts[other]
                n_pairs += 1 if counts[other] > 0 else 0
                counts[other] = 0
        else:
            count = 0
            for e in range(offsets[row], offsets[row + 1]):
                members = column_rows[column_offsets[columns[e]] : column_offsets[columns[e] + 1]]
                for t in range(len(members)):
                    member = np.uint32(members[t])
                    if counts[member] == 0:
                        touched[count] = members[t]
                        count += 1
                    counts[member] += np.int32(1)
            touched[:count].sort()
            for t in range(count):
                other = touched[t]
                right_rows[n_pairs] = other
                n_common[n_pairs] = counts[other]
                counts[other] = 0
                n_pairs += 1
        pair_offsets[row - first + 1] = n_pairs


@fastmath_kernel(*_PAIR_ARGUMENTS, output_array(double))
def dot_kernel(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    left_values: Scores,
    column_offsets: NDArray[np.int64],
    column_rows: Codes,
    right_values: Scores,
    n_right: int,
    pair_offsets: NDArray[np.int64],
    right_rows: Codes,
    out: NDArray[np.float64],
) -> None:
    """Compute ``(P,)`` sums of x y over the common columns."""
    total = np.zeros(n_right, np.float64)
    for row in range(first, stop):
        for e in range(offsets[row], offsets[row + 1]):
            x = np.float64(left_values[e])
            begin, end = column_offsets[columns[e]], column_offsets[columns[e] + 1]
            members, member_values = column_rows[begin:end], right_values[begin:end]
            for t in range(len(members)):
                total[np.uint32(members[t])] += x * member_values[t]
        for p in range(pair_offsets[row - first], pair_offsets[row - first + 1]):
            out[p] = total[right_rows[p]]
            total[right_rows[p]] = 0.0


@fastmath_kernel(*_PAIR_ARGUMENTS, output_array(double, 2))
def moment_kernel(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    left_values: Scores,
    column_offsets: NDArray[np.int64],
    column_rows: Codes,
    right_values: Scores,
    n_right: int,
    pair_offsets: NDArray[np.int64],
    right_rows: Codes,
    out: NDArray[np.float64],
) -> None:
    """Compute ``(5, P)`` sums of x, y, x², y² and x y over the common columns."""
    total = np.zeros((n_right, 5), np.float64)
    for row in range(first, stop):
        for e in range(offsets[row], offsets[row + 1]):
            x = np.float64(left_values[e])
            begin, end = column_offsets[columns[e]], column_offsets[columns[e] + 1]
            members, member_values = column_rows[begin:end], right_values[begin:end]
            for t in range(len(members)):
                y, other = np.float64(member_values[t]), np.uint32(members[t])
                total[other, 0] += x
                total[other, 1] += y
                total[other, 2] += x * x
                total[other, 3] += y * y
                total[other, 4] += x * y
        for p in range(pair_offsets[row - first], pair_offsets[row - first + 1]):
            for s in range(5):
                out[s, p] = total[right_rows[p], s]
                total[right_rows[p], s] = 0.0


@fastmath_kernel(*_PAIR_ARGUMENTS, int64, output_array(double))
def term_kernel(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    left_values: Scores,
    column_offsets: NDArray[np.int64],
    column_rows: Codes,
    right_values: Scores,
    n_right: int,
    pair_offsets: NDArray[np.int64],
    right_rows: Codes,
    term: int,
    out: NDArray[np.float64],
) -> None:
    """Compute ``(P,)`` sums of one of :data:`PAIRWISE_TERMS` over the common columns."""
    total = np.zeros(n_right, np.float64)
    for row in range(first, stop):
        for e in range(offsets[row], offsets[row + 1]):
            x = np.float64(left_values[e])
            x_log_x = x * np.log2(x) if term == 3 and x > 0.0 else 0.0
            begin, end = column_offsets[columns[e]], column_offsets[columns[e] + 1]
            members, member_values = column_rows[begin:end], right_values[begin:end]
            for t in range(len(members)):
                y, other = np.float64(member_values[t]), np.uint32(members[t])
                if term == 0:
                    total[other] += abs(x) + abs(y) - abs(x - y)
                elif term == 1:
                    total[other] += 1.0 if x == y else 0.0
                elif term == 2:
                    total[other] += (x - y) * (x - y)
                elif x + y > 0.0:
                    mean = 0.5 * (x + y)
                    y_log_y = y * np.log2(y) if y > 0.0 else 0.0
                    total[other] += mean - 0.5 * (x_log_x + y_log_y) + mean * np.log2(mean)
        for p in range(pair_offsets[row - first], pair_offsets[row - first + 1]):
            out[p] = total[right_rows[p]]
            total[right_rows[p]] = 0.0
