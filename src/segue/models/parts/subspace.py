"""Small ridge regressions improved block by block of their dimensions: iALS++ (Rendle et al. 2021, arXiv:2110.14044).

For each row the problem is that of :func:`segue.models.parts.least_squares.solve_rows`. Instead of one exact solution of
D unknowns, each block of b dimensions is solved exactly with the others fixed, once: a Newton step in that subspace. An
event costs D·b instead of D², and never makes the objective larger.

Shapes: R rows, T events, C columns, D width.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.compiled import over_rows, read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["improve_rows"]


def improve_rows(
    offsets: NDArray[np.int64],
    columns: Codes,
    weights_T: Scores,
    sides_T: Scores,
    vectors_CD: Scores,
    rows_RD: Scores,
    *,
    ridge_R: Scores,
    common_DD: Scores,
    block: int,
) -> tuple[Scores, Scores]:
    """``(R, D)`` better rows than ``rows_RD``, and ``(R,)`` what their objective is below that of zero.

    Arguments are those of ``solve_rows``; a row's ridge is the same in all dimensions.

    Args:
        block: dimensions that are solved together, at most D.
    """
    out = np.array(rows_RD, np.float32, order="C")
    gains = np.empty(len(out), np.float32)
    fixed = np.ascontiguousarray(vectors_CD, np.float32), np.ascontiguousarray(ridge_R, np.float32)
    common = np.ascontiguousarray(common_DD, np.float32)

    def work(first: int, stop: int) -> None:
        _improve(first, stop, offsets, columns, weights_T, sides_T, *fixed, common, block, out, gains)

    over_rows(work, offsets)
    return out, gains


@summing_kernel(
    int64,
    int64,
    read(int64),
    read(int32),
    read(float32),
    read(float32),
    read(float32, 2),
    read(float32),
    read(float32, 2),
    int64,
    written(float32, 2),
    written(float32),
)
def _improve(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    weights: Scores,
    sides: Scores,
    vectors: Scores,
    ridges: Scores,
    common: Scores,
    block: int,
    out: Scores,
    gains: Scores,
) -> None:
    """Rows ``first:stop`` in place; of each block's symmetric matrix only the upper triangle is used."""
    width = vectors.shape[1]
    longest = 0
    for row in range(first, stop):
        longest = max(longest, offsets[row + 1] - offsets[row])
    products = np.empty(longest, np.float32)
    matrix = np.empty((block, block), np.float32)
    step = np.empty(block, np.float32)
    for row in range(first, stop):
        begin, end = offsets[row], offsets[row + 1]
        own, ridge = out[row], ridges[row]
        for e in range(begin, end):
            z = vectors[columns[e]]
            total = np.float32(0.0)
            for a in range(width):
                total += z[a] * own[a]
            products[e - begin] = total
        for low in range(0, width, block):
            size = min(block, width - low)
            # the slope at the row as it is, and the curvature within the block
            for a in range(size):
                total = ridge * own[low + a]
                for b in range(width):
                    total += common[low + a, b] * own[b]
                step[a] = total
                for b in range(a, size):
                    matrix[a, b] = common[low + a, low + b]
                matrix[a, a] += ridge
            for e in range(begin, end):
                z = vectors[columns[e], low : low + size]
                pull = weights[e] * products[e - begin] - sides[e]
                for a in range(size):
                    c = weights[e] * z[a]
                    step[a] += pull * z[a]
                    for b in range(a, size):
                        matrix[a, b] += c * z[b]
            for a in range(size):
                pivot = np.float32(1.0) / np.sqrt(matrix[a, a])
                for b in range(a, size):
                    matrix[a, b] *= pivot
                for c in range(a + 1, size):
                    factor = matrix[a, c]
                    for b in range(c, size):
                        matrix[c, b] -= factor * matrix[a, b]
            for a in range(size):
                step[a] /= matrix[a, a]
                for b in range(a + 1, size):
                    step[b] -= matrix[a, b] * step[a]
            for a in range(size - 1, -1, -1):
                total = step[a]
                for b in range(a + 1, size):
                    total -= matrix[a, b] * step[b]
                step[a] = total / matrix[a, a]
                own[low + a] -= step[a]
            for e in range(begin, end):
                z = vectors[columns[e], low : low + size]
                total = np.float32(0.0)
                for a in range(size):
                    total += z[a] * step[a]
                products[e - begin] -= total
        gain = np.float32(0.0)
        for e in range(begin, end):
            gain += products[e - begin] * (np.float32(2.0) * sides[e] - weights[e] * products[e - begin])
        for a in range(width):
            total = ridge * own[a]
            for b in range(width):
                total += common[a, b] * own[b]
            gain -= own[a] * total
        gains[row] = gain
