"""Small ridge regressions improved block by block of their dimensions: iALS++ (Rendle et al. 2021, arXiv:2110.14044).

For each row the problem is that of :func:`segue.solvers.ridge.solve_rows`. Instead of one exact solution
of D unknowns, each block of b dimensions is solved exactly with the others fixed, once: a Newton step in that subspace.
An event costs D·b instead of D², and the objective never grows.

Shapes: R rows, T events, C columns, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.numba_kernels import summing_kernel
from segue.core.types import Codes, Scores
from segue.solvers.iterative_solver import IMPROVES

__all__ = ["improve"]

EPSILON = np.finfo(np.float32).eps


@summing_kernel(*IMPROVES)
def improve(
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
    """Rows ``first:stop`` in place, for :func:`segue.solvers.iterative_solver.improved`.

    Args:
        block: dimensions that are solved together, at most D.
    """
    width = vectors.shape[1]
    longest = 1
    for row in range(first, stop):
        longest = max(longest, offsets[row + 1] - offsets[row])
    gathered, products = np.empty((longest, width), np.float32), np.empty(longest, np.float32)
    part, weighted = np.empty(longest * block, np.float32), np.empty(longest * block, np.float32)
    pulls, bent = np.empty(longest, np.float32), np.empty(width, np.float32)
    for row in range(first, stop):
        begin, count = offsets[row], offsets[row + 1] - offsets[row]
        own, ridge = out[row], ridges[row]
        for e in range(count):
            z, seen_e = vectors[columns[begin + e]], gathered[e]
            total = np.float32(0.0)
            for d in range(width):
                seen_e[d] = z[d]
                total += z[d] * own[d]
            products[e] = total
        np.dot(common, own, bent)
        for low in range(0, width, block):
            size = min(block, width - low)
            seen = part[: count * size].reshape(count, size)
            heavy = weighted[: count * size].reshape(count, size)
            for e in range(count):
                weight = weights[begin + e]
                pulls[e] = weight * products[e] - sides[begin + e]
                for d in range(size):
                    seen[e, d] = gathered[e, low + d]
                    heavy[e, d] = weight * seen[e, d]
            # the slope at the row as it is, and the curvature within the block
            matrix = common[low : low + size, low : low + size].copy()
            step = bent[low : low + size] + ridge * own[low : low + size]
            if count:
                matrix += np.dot(heavy.T, seen)
                step += np.dot(pulls[:count], seen)
            largest = np.float32(0.0)
            for d in range(size):
                largest = max(largest, matrix[d, d])
            for d in range(size):
                # less than this is nothing beside the largest number of the matrix: there would be no factorisation
                matrix[d, d] += max(ridge, largest * width * EPSILON)
            lower = np.linalg.cholesky(matrix)
            for d in range(size):
                for c in range(d):
                    step[d] -= lower[d, c] * step[c]
                step[d] /= lower[d, d]
            for d in range(size - 1, -1, -1):
                step[d] /= lower[d, d]
                for c in range(d):
                    step[c] -= lower[d, c] * step[d]
                own[low + d] -= step[d]
            for e in range(count):
                total = np.float32(0.0)
                for d in range(size):
                    total += seen[e, d] * step[d]
                products[e] -= total
            for d in range(width):
                total = np.float32(0.0)
                for c in range(size):
                    total += common[d, low + c] * step[c]
                bent[d] -= total
        gain = np.float32(0.0)
        for e in range(count):
            gain += products[e] * (np.float32(2.0) * sides[begin + e] - weights[begin + e] * products[e])
        for d in range(width):
            gain -= own[d] * (bent[d] + ridge * own[d])
        gains[row] = gain
