"""Many small ridge regressions at once, one for each row of a sparse table: half a sweep of alternating least squares.

Row r has events e with a column c(e), a weight w and a right side y. With z the vectors of the columns, its solution is

    x_r = argmin  sum_e (w_e (z.x)² - 2 y_e z.x)  +  x' B x  +  sum_d s_r t_d (x_d - m_rd)²

where B is common to all rows (for implicit feedback the Gram matrix of all vectors), s and t are the ridge by row and
by dimension, and m is where the ridge pulls to. With y = w · value the sum is the weighted squared error of the values.

The vectors of a row are gathered side by side, so that its matrix is one product, and solved by Cholesky's
factorisation (LAPACK). Nothing is shared between rows, so that the numbers do not depend on the threads.

Shapes: R rows, T events, C columns, D width.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import over_rows, read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["gram", "solve_rows"]

EPSILON = np.finfo(np.float32).eps


def solve_rows(
    offsets: NDArray[np.int64],
    columns: Codes,
    weights_T: Scores,
    sides_T: Scores,
    vectors_CD: Scores,
    *,
    ridge_D: Scores,
    ridge_R: Scores,
    common_DD: Scores | None = None,
    prior_RD: Scores | None = None,
) -> tuple[Scores, Scores]:
    """``(R, D)`` the solution x of every row, and ``(R,)`` its gain.

    The gain is the product of x and the whole right side, ``sum_e y_e z_e + s t m``: by so much the solution lowers the
    row's objective under that of x = 0.

    Args:
        offsets: ``(R + 1,)`` the events of row r are ``offsets[r]:offsets[r + 1]``.
        columns: ``(T,)`` the column of each event.
        weights_T: w, not negative.
        sides_T: y.
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

    def work(first: int, stop: int) -> None:
        _solve(first, stop, offsets, columns, weights_T, sides_T, vectors, *ridges, common, prior, out, gains)

    try:
        over_rows(work, offsets)
    except np.linalg.LinAlgError:
        raise ValueError("a row's equations have no single solution; a larger l2 keeps them apart") from None
    if not np.isfinite(out).all():
        row = int(np.argmin(np.isfinite(out).all(axis=1)))
        raise ValueError(f"row {row} of {rows} has no finite solution; expected finite values and a larger l2")
    return out, gains


def gram(vectors_CD: Scores) -> Scores:
    """``(D, D)`` the sum of the outer products of all vectors."""
    product: Scores = vectors_CD.T @ vectors_CD
    return product


@summing_kernel(
    int64,
    int64,
    read(int64),
    read(int32),
    read(float32),
    read(float32),
    read(float32, 2),
    read(float32),
    read(float32),
    read(float32, 2),
    read(float32, 2),
    written(float32, 2),
    written(float32),
)
def _solve(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    weights: Scores,
    sides: Scores,
    vectors: Scores,
    ridge_by_width: Scores,
    ridge_by_row: Scores,
    common: Scores,
    prior: Scores,
    out: Scores,
    gains: Scores,
) -> None:
    """Rows ``first:stop``."""
    width = vectors.shape[1]
    longest = 1
    for row in range(first, stop):
        longest = max(longest, offsets[row + 1] - offsets[row])
    gathered, weighted = np.empty((longest, width), np.float32), np.empty((longest, width), np.float32)
    matrix, side = np.empty((width, width), np.float32), np.empty(width, np.float32)
    for row in range(first, stop):
        begin, end = offsets[row], offsets[row + 1]
        for e in range(begin, end):
            z, weight = vectors[columns[e]], weights[e]
            seen, heavy = gathered[e - begin], weighted[e - begin]
            for d in range(width):
                seen[d] = z[d]
                heavy[d] = weight * z[d]
        side[:], matrix[:] = 0.0, 0.0
        if end > begin:
            np.dot(weighted[: end - begin].T, gathered[: end - begin], matrix)
            np.dot(sides[begin:end], gathered[: end - begin], side)
        matrix += common
        centre = prior[row] if len(prior) > 1 else prior[0]
        largest = np.float32(0.0)
        for d in range(width):
            largest = max(largest, matrix[d, d])
        for d in range(width):
            # less than this is nothing beside the largest number of the matrix: there would be no factorisation
            ridge = max(ridge_by_width[d] * ridge_by_row[row], largest * width * EPSILON)
            matrix[d, d] += ridge
            side[d] += ridge * centre[d]
        lower = np.linalg.cholesky(matrix)
        gain = np.float32(0.0)
        for d in range(width):
            total = side[d]
            for c in range(d):
                total -= lower[d, c] * side[c]
            side[d] = total / lower[d, d]
            gain += side[d] * side[d]
        gains[row] = gain
        for d in range(width - 1, -1, -1):
            side[d] /= lower[d, d]
            out[row, d] = side[d]
            for c in range(d):
                side[c] -= lower[d, c] * side[d]
