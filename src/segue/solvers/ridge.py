"""Solve many small ridge regressions, one for each row of a sparse matrix.

This is half an iteration of alternating least squares.

Row r has events e, each with a column c(e), a weight w and a target y. With z the vectors of the columns, its solution
is

    x_r = argmin  sum_e (w_e (z.x)² - 2 y_e z.x)  +  x' B x  +  sum_d s_r t_d (x_d - m_rd)²

where B is shared by all rows (for implicit feedback the Gram matrix of all vectors), s and t are the regularization by
row and by dimension, and m is the prior mean. With y = w · value, the sum is the weighted squared error of the values.

The vectors of a row are gathered in a contiguous matrix, so that its Gram matrix is a single matrix product, and solved
by Cholesky factorization (LAPACK). Rows are independent: results do not depend on the number of threads.

Shapes: R rows, T events, C columns, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array, parallel_rows
from segue.core.types import Codes, Scores

__all__ = ["gram", "solve_rows"]

EPSILON = np.finfo(np.float32).eps


def solve_rows(
    offsets: NDArray[np.int64],
    columns: Codes,
    weights_T: Scores,
    targets_T: Scores,
    vectors_CD: Scores,
    *,
    ridge_D: Scores,
    ridge_R: Scores,
    common_DD: Scores | None = None,
    prior_RD: Scores | None = None,
) -> tuple[Scores, Scores]:
    """Solve all rows.

    Returns:
        ``(R, D)`` solutions x, and ``(R,)`` gains: the product of x and the right-hand side ``sum_e y_e z_e + s t m``,
        by which the objective of a row is below that of x = 0.

    Args:
        offsets: ``(R + 1,)`` the events of row r are ``offsets[r]:offsets[r + 1]``.
        columns: ``(T,)`` the column of each event.
        weights_T: w, not negative.
        targets_T: y.
        vectors_CD: z of every column.
        ridge_D: t; ``ridge_D`` times ``ridge_R`` is above 0 wherever ``common_DD`` is not positive definite.
        ridge_R: s.
        common_DD: B; none: 0.
        prior_RD: m; none: 0.

    Raises:
        ValueError: a row has no finite solution.
    """
    rows, width = len(offsets) - 1, vectors_CD.shape[1]
    common = np.zeros((width, width), np.float32) if common_DD is None else np.ascontiguousarray(common_DD, np.float32)
    prior = np.zeros((1, width), np.float32) if prior_RD is None else np.ascontiguousarray(prior_RD, np.float32)
    out, gains = np.empty((rows, width), np.float32), np.empty(rows, np.float32)
    vectors = np.ascontiguousarray(vectors_CD, np.float32)
    ridges = np.ascontiguousarray(ridge_D, np.float32), np.ascontiguousarray(ridge_R, np.float32)

    def process_rows(first: int, stop: int) -> None:
        _solve(first, stop, offsets, columns, weights_T, targets_T, vectors, *ridges, common, prior, out, gains)

    try:
        parallel_rows(process_rows, offsets)
    except np.linalg.LinAlgError:
        raise ValueError("least squares: the equations of a row are singular; use a larger l2") from None
    if not np.isfinite(out).all():
        row = int(np.argmin(np.isfinite(out).all(axis=1)))
        raise ValueError(
            f"least squares: row {row} of {rows} has no finite solution; check for infinite values, or use a larger l2"
        )
    return out, gains


def gram(vectors_CD: Scores) -> Scores:
    """Return the ``(D, D)`` Gram matrix: the sum of the outer products of all vectors."""
    product: Scores = vectors_CD.T @ vectors_CD
    return product


@fastmath_kernel(
    int64,
    int64,
    input_array(int64),
    input_array(int32),
    input_array(float32),
    input_array(float32),
    input_array(float32, 2),
    input_array(float32),
    input_array(float32),
    input_array(float32, 2),
    input_array(float32, 2),
    output_array(float32, 2),
    output_array(float32),
)
def _solve(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    weights: Scores,
    targets: Scores,
    vectors: Scores,
    ridge_D: Scores,
    ridge_R: Scores,
    common: Scores,
    prior: Scores,
    out: Scores,
    gains: Scores,
) -> None:
    """Solve rows ``first:stop``."""
    width = vectors.shape[1]
    max_length = 1
    for row in range(first, stop):
        max_length = max(max_length, offsets[row + 1] - offsets[row])
    gathered, weighted = np.empty((max_length, width), np.float32), np.empty((max_length, width), np.float32)
    matrix, right_side = np.empty((width, width), np.float32), np.empty(width, np.float32)
    for row in range(first, stop):
        begin, end = offsets[row], offsets[row + 1]
        for e in range(begin, end):
            vector, weight = vectors[columns[e]], weights[e]
            row_vector, weighted_vector = gathered[e - begin], weighted[e - begin]
            for d in range(width):
                row_vector[d] = vector[d]
                weighted_vector[d] = weight * vector[d]
        right_side[:], matrix[:] = 0.0, 0.0
        if end > begin:
            np.dot(weighted[: end - begin].T, gathered[: end - begin], matrix)
            np.dot(targets[begin:end], gathered[: end - begin], right_side)
        matrix += common
        prior_D = prior[row] if len(prior) > 1 else prior[0]
        largest = np.float32(0.0)
        for d in range(width):
            largest = max(largest, matrix[d, d])
        for d in range(width):
            # the smallest regularization that keeps the matrix positive definite in float32
            ridge = max(ridge_D[d] * ridge_R[row], largest * width * EPSILON)
            matrix[d, d] += ridge
            right_side[d] += ridge * prior_D[d]
        lower = np.linalg.cholesky(matrix)
        gain = np.float32(0.0)
        for d in range(width):
            total = right_side[d]
            for c in range(d):
                total -= lower[d, c] * right_side[c]
            right_side[d] = total / lower[d, d]
            gain += right_side[d] * right_side[d]
        gains[row] = gain
        for d in range(width - 1, -1, -1):
            right_side[d] /= lower[d, d]
            out[row, d] = right_side[d]
            for c in range(d):
                right_side[c] -= lower[d, c] * right_side[d]
