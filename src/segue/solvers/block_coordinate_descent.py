"""Block coordinate descent for many small ridge regressions.

iALS++: Rendle et al. 2021, arXiv:2110.14044.

The problem of each row is that of :func:`segue.solvers.ridge.solve_rows`. Instead of all D unknowns at once, each block
of b dimensions is solved exactly with the others fixed: a Newton step in a subspace. An event costs D·b operations
instead of D², and the objective never increases.

Shapes: R rows, T events, C columns, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numba import float32
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, output_array
from segue.core.types import Codes, Scores
from segue.solvers.iterative_solver import KERNEL_SIGNATURE

__all__ = ["solve_rows_by_blocks"]

EPSILON = np.finfo(np.float32).eps


@fastmath_kernel(output_array(float32, 2), output_array(float32))
def _solve_in_place(matrix: Scores, right_side: Scores) -> None:
    """Replace the right side of a positive definite system by its solution."""
    size = len(right_side)
    lower = np.linalg.cholesky(matrix)
    for d in range(size):
        for c in range(d):
            right_side[d] -= lower[d, c] * right_side[c]
        right_side[d] /= lower[d, d]
    for d in range(size - 1, -1, -1):
        right_side[d] /= lower[d, d]
        for c in range(d):
            right_side[c] -= lower[d, c] * right_side[d]


@fastmath_kernel(*KERNEL_SIGNATURE)
def solve_rows_by_blocks(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    weights: Scores,
    targets: Scores,
    vectors: Scores,
    ridges: Scores,
    common: Scores,
    block: int,
    out: Scores,
    gains: Scores,
) -> None:
    """Update rows ``first:stop`` in place.

    This is a kernel of :func:`.solve_rows_iteratively`.

    Args:
        block: number of dimensions that are solved together, at most D.
    """
    width = vectors.shape[1]
    max_length = 1
    for row in range(first, stop):
        max_length = max(max_length, offsets[row + 1] - offsets[row])
    gathered, predictions = np.empty((max_length, width), np.float32), np.empty(max_length, np.float32)
    block_buffer, weighted_buffer = np.empty(max_length * block, np.float32), np.empty(max_length * block, np.float32)
    slopes, common_x = np.empty(max_length, np.float32), np.empty(width, np.float32)
    for row in range(first, stop):
        begin, n_events = offsets[row], offsets[row + 1] - offsets[row]
        x_D, ridge = out[row], ridges[row]
        for e in range(n_events):
            vector, row_vector = vectors[columns[begin + e]], gathered[e]
            total = np.float32(0.0)
            for d in range(width):
                row_vector[d] = vector[d]
                total += vector[d] * x_D[d]
            predictions[e] = total
        np.dot(common, x_D, common_x)
        for start in range(0, width, block):
            size = min(block, width - start)
            block_vectors = block_buffer[: n_events * size].reshape(n_events, size)
            weighted_vectors = weighted_buffer[: n_events * size].reshape(n_events, size)
            for e in range(n_events):
                weight = weights[begin + e]
                slopes[e] = weight * predictions[e] - targets[begin + e]
                for d in range(size):
                    block_vectors[e, d] = gathered[e, start + d]
                    weighted_vectors[e, d] = weight * block_vectors[e, d]
            # gradient at the current row, and Hessian of the block
            hessian = common[start : start + size, start : start + size].copy()
            step = common_x[start : start + size] + ridge * x_D[start : start + size]
            if n_events:
                hessian += np.dot(weighted_vectors.T, block_vectors)
                step += np.dot(slopes[:n_events], block_vectors)
            largest = np.float32(0.0)
            for d in range(size):
                largest = max(largest, hessian[d, d])
            for d in range(size):
                # the smallest regularization that keeps the matrix positive definite in float32
                hessian[d, d] += max(ridge, largest * width * EPSILON)
            _solve_in_place(hessian, step)
            for d in range(size):
                x_D[start + d] -= step[d]
            for e in range(n_events):
                total = np.float32(0.0)
                for d in range(size):
                    total += block_vectors[e, d] * step[d]
                predictions[e] -= total
            for d in range(width):
                total = np.float32(0.0)
                for c in range(size):
                    total += common[d, start + c] * step[c]
                common_x[d] -= total
        gain = np.float32(0.0)
        for e in range(n_events):
            gain += predictions[e] * (np.float32(2.0) * targets[begin + e] - weights[begin + e] * predictions[e])
        for d in range(width):
            gain -= x_D[d] * (common_x[d] + ridge * x_D[d])
        gains[row] = gain
