"""Walks from rows to the other rows that they meet: the compiled loops of :mod:`segue.similarity.row_pairs`.

For a row, the other rows of each of its columns are walked through, and what is asked for is added up by other row. The
cost is that of the meetings, not of rows², and memory is that of one block of pairs. Indices are unsigned, so that no
time goes into asking whether they count from the end.

Shapes: B rows of a block, R other rows, P pairs, T cells, C columns.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numba import float64 as double
from numpy.typing import NDArray

from segue.core.numba_kernels import read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["TERMS", "meet", "moments", "multiply", "terms"]

TERMS = {"overlap": 0, "equal": 1, "apart": 2, "shared": 3}
"""What :func:`terms` adds up: see :meth:`segue.similarity.row_pairs.Pairs.terms`."""

_LISTS = (read(int64), read(int32))
"""Where the rows or the columns of a table begin, and what they hold."""
_WALK = (int64, int64, *_LISTS, read(float32), *_LISTS, read(float32), int64, *_LISTS)
"""Rows, their cells and numbers, the others' cells by column, how many others there are, and the pairs."""


@summing_kernel(int64, int64, *_LISTS, *_LISTS, int64, written(int64), written(int32), written(float32))
def meet(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    list_offsets: NDArray[np.int64],
    lists: Codes,
    n_others: int,
    pair_offsets: NDArray[np.int64],
    others: Codes,
    both: Scores,
) -> None:
    """Whom rows ``first:stop`` meet, and in how many columns: ``(B + 1,)`` offsets, ``(P,)`` others and counts.

    ``others`` and ``both`` have room for one pair more than there can be.
    """
    seen = np.zeros(n_others, np.int32)
    touched = np.empty(n_others, np.int32)
    place = 0
    for row in range(first, stop):
        cost = 0
        for e in range(offsets[row], offsets[row + 1]):
            cost += list_offsets[columns[e] + 1] - list_offsets[columns[e]]
        if 8 * cost >= n_others:  # most others are met: look at all of them
            for e in range(offsets[row], offsets[row + 1]):
                near = lists[list_offsets[columns[e]] : list_offsets[columns[e] + 1]]
                for t in range(len(near)):
                    seen[np.uint32(near[t])] += np.int32(1)
            for other in range(n_others):  # written in any case, kept if met: nothing for a processor to guess wrong
                others[place] = other
                both[place] = seen[other]
                place += 1 if seen[other] > 0 else 0
                seen[other] = 0
        else:
            count = 0
            for e in range(offsets[row], offsets[row + 1]):
                near = lists[list_offsets[columns[e]] : list_offsets[columns[e] + 1]]
                for t in range(len(near)):
                    met = np.uint32(near[t])
                    if seen[met] == 0:
                        touched[count] = near[t]
                        count += 1
                    seen[met] += np.int32(1)
            touched[:count].sort()
            for t in range(count):
                other = touched[t]
                others[place] = other
                both[place] = seen[other]
                seen[other] = 0
                place += 1
        pair_offsets[row - first + 1] = place


@summing_kernel(*_WALK, written(double))
def multiply(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    xs: Scores,
    list_offsets: NDArray[np.int64],
    lists: Codes,
    ys: Scores,
    n_others: int,
    pair_offsets: NDArray[np.int64],
    others: Codes,
    out: NDArray[np.float64],
) -> None:
    """``(P,)`` sums of x y."""
    total = np.zeros(n_others, np.float64)
    for row in range(first, stop):
        for e in range(offsets[row], offsets[row + 1]):
            x = np.float64(xs[e])
            begin, end = list_offsets[columns[e]], list_offsets[columns[e] + 1]
            near, theirs = lists[begin:end], ys[begin:end]
            for t in range(len(near)):
                total[np.uint32(near[t])] += x * theirs[t]
        for p in range(pair_offsets[row - first], pair_offsets[row - first + 1]):
            out[p] = total[others[p]]
            total[others[p]] = 0.0


@summing_kernel(*_WALK, written(double, 2))
def moments(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    xs: Scores,
    list_offsets: NDArray[np.int64],
    lists: Codes,
    ys: Scores,
    n_others: int,
    pair_offsets: NDArray[np.int64],
    others: Codes,
    out: NDArray[np.float64],
) -> None:
    """``(5, P)`` sums of x, y, x², y² and x y."""
    total = np.zeros((n_others, 5), np.float64)
    for row in range(first, stop):
        for e in range(offsets[row], offsets[row + 1]):
            x = np.float64(xs[e])
            begin, end = list_offsets[columns[e]], list_offsets[columns[e] + 1]
            near, theirs = lists[begin:end], ys[begin:end]
            for t in range(len(near)):
                y, other = np.float64(theirs[t]), np.uint32(near[t])
                total[other, 0] += x
                total[other, 1] += y
                total[other, 2] += x * x
                total[other, 3] += y * y
                total[other, 4] += x * y
        for p in range(pair_offsets[row - first], pair_offsets[row - first + 1]):
            for s in range(5):
                out[s, p] = total[others[p], s]
                total[others[p], s] = 0.0


@summing_kernel(*_WALK, int64, written(double))
def terms(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    xs: Scores,
    list_offsets: NDArray[np.int64],
    lists: Codes,
    ys: Scores,
    n_others: int,
    pair_offsets: NDArray[np.int64],
    others: Codes,
    what: int,
    out: NDArray[np.float64],
) -> None:
    """``(P,)`` sums of what :data:`TERMS` calls ``what``."""
    total = np.zeros(n_others, np.float64)
    for row in range(first, stop):
        for e in range(offsets[row], offsets[row + 1]):
            x = np.float64(xs[e])
            own = x * np.log2(x) if what == 3 and x > 0.0 else 0.0
            begin, end = list_offsets[columns[e]], list_offsets[columns[e] + 1]
            near, theirs = lists[begin:end], ys[begin:end]
            for t in range(len(near)):
                y, other = np.float64(theirs[t]), np.uint32(near[t])
                if what == 0:
                    total[other] += abs(x) + abs(y) - abs(x - y)
                elif what == 1:
                    total[other] += 1.0 if x == y else 0.0
                elif what == 2:
                    total[other] += (x - y) * (x - y)
                elif x + y > 0.0:
                    mean = 0.5 * (x + y)
                    its = y * np.log2(y) if y > 0.0 else 0.0
                    total[other] += mean - 0.5 * (own + its) + mean * np.log2(mean)
        for p in range(pair_offsets[row - first], pair_offsets[row - first + 1]):
            out[p] = total[others[p]]
            total[others[p]] = 0.0
