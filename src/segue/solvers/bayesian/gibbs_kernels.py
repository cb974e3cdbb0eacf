"""Draws for Gibbs sampling of factors: rows of a table given the other side, and what is believed of all rows.

Row r has events e with the vector z of their column and a value y, normal about ``x_r . z`` with precision a; before
any event x_r is normal about m_r with the precision matrix L. Given its events it is normal again (Salakhutdinov and
Mnih 2008, doi:10.1145/1390156.1390267, eq. 11 to 13):

    precision  A = L + a sum_e z_e z_e'        mean  A^-1 (L m_r + a sum_e y_e z_e)

With A = K K' and K v = the right side, the mean is K'^-1 v and a draw is K'^-1 (v + n), n standard normal: the Cholesky
factorisation of the one serves the other. Normal numbers are handed over, so that threads do not matter. The sum of
outer products is a matrix product of the row's vectors, laid side by side.

Shapes: R rows, T events, C columns, D width.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import over_rows, read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["Beliefs", "believe", "draw_rows"]

Numbers = NDArray[np.float64]
Beliefs = tuple[Numbers, Numbers]
"""Mean ``(D,)`` and precision ``(D, D)`` of all rows."""

ALONE = 262_144
"""Multiplications of a matrix product up to which OpenBLAS shares it with no other thread."""
PRIOR_COUNT = 2.0
"""beta_0: rows at zero that the prior mean counts for (section 4 there)."""


def believe(
    rows_RD: Scores, rng: np.random.Generator, extra_DD: Numbers | None = None, extra_count: int = 0
) -> Beliefs:
    """Mean and precision of all rows, drawn given the rows: the normal-Wishart distribution (eq. 14 there).

    Args:
        rows_RD: what is normal about the mean.
        extra_DD: a further sum of outer products, of vectors about zero with the same precision.
        extra_count: the number of those vectors.
    """
    count, width = rows_RD.shape
    rows = rows_RD.astype(np.float64)
    centre_D = rows.mean(axis=0)
    apart_RD = rows - centre_D
    # W_0 is the identity and nu_0 the width
    below_DD = np.eye(width) + apart_RD.T @ apart_RD
    below_DD += PRIOR_COUNT * count / (PRIOR_COUNT + count) * np.outer(centre_D, centre_D)
    if extra_DD is not None:
        below_DD += extra_DD
    precision_DD = _wishart(np.linalg.inv(below_DD), width + count + extra_count, rng)
    mean_D = count * centre_D / (PRIOR_COUNT + count)
    upper_DD = np.linalg.cholesky(precision_DD).T
    noise_D = np.linalg.solve(upper_DD, rng.standard_normal(width)) / np.sqrt(PRIOR_COUNT + count)
    return mean_D + noise_D, precision_DD


def _wishart(scale_DD: Numbers, freedom: int, rng: np.random.Generator) -> Numbers:
    """One draw of a Wishart distribution, by Bartlett's decomposition."""
    width = len(scale_DD)
    lower_DD = np.tril(rng.standard_normal((width, width)), -1)
    lower_DD[np.diag_indices(width)] = np.sqrt(rng.chisquare(freedom - np.arange(width)))
    root_DD = np.linalg.cholesky((scale_DD + scale_DD.T) / 2) @ lower_DD
    drawn_DD: Numbers = root_DD @ root_DD.T
    return drawn_DD


def draw_rows(
    offsets: NDArray[np.int64],
    columns: Codes,
    values_T: Scores,
    vectors_CD: Scores,
    *,
    noise: float,
    precision_DD: Numbers | Scores,
    means_RD: Numbers | Scores,
    normals_RD: Scores,
    roots: bool = False,
) -> tuple[Scores, Scores, Scores, Scores]:
    """``(R, D)`` a draw of every row, ``(R, D)`` what is expected of it, and ``(R,)`` the draw's squared errors.

    The last is ``(R, D, D)`` the lower factors K of the rows' precisions where ``roots``, else empty.

    Args:
        offsets: ``(R + 1,)`` the events of row r are ``offsets[r]:offsets[r + 1]``.
        columns: ``(T,)`` the column of each event.
        values_T: y.
        vectors_CD: z of every column.
        noise: a.
        precision_DD: L.
        means_RD: m, or ``(1, D)`` for all rows.
        normals_RD: n.
    """
    rows, width = len(offsets) - 1, vectors_CD.shape[1]
    drawn_RD, expected_RD = np.empty((rows, width), np.float32), np.empty((rows, width), np.float32)
    errors_R = np.empty(rows, np.float32)
    roots_RDD = np.empty((rows if roots else 0, width, width), np.float32)
    sides_RD = np.ascontiguousarray(means_RD @ precision_DD, np.float32)
    vectors = np.ascontiguousarray(vectors_CD, np.float32)
    fixed = np.float32(noise), np.ascontiguousarray(precision_DD, np.float32), sides_RD, normals_RD

    def work(first: int, stop: int) -> None:
        out = drawn_RD, expected_RD, errors_R, roots_RDD
        _draw(first, stop, offsets, columns, values_T, vectors, *fixed, *out)

    over_rows(work, offsets)
    return drawn_RD, expected_RD, errors_R, roots_RDD


@summing_kernel(
    int64,
    int64,
    read(int64),
    read(int32),
    read(float32),
    read(float32, 2),
    float32,
    read(float32, 2),
    read(float32, 2),
    read(float32, 2),
    written(float32, 2),
    written(float32, 2),
    written(float32),
    written(float32, 3),
)
def _draw(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    values: Scores,
    vectors: Scores,
    noise: np.float32,
    precision: Scores,
    sides: Scores,
    normals: Scores,
    drawn: Scores,
    expected: Scores,
    errors: Scores,
    roots: Scores,
) -> None:
    """Rows ``first:stop``; of symmetric matrices only the lower triangle is used."""
    width, zero = vectors.shape[1], np.float32(0.0)
    most = max(8, min(256, ALONE // (width * width)))
    table, product = np.empty((most, width), np.float32), np.empty((width, width), np.float32)
    matrix, inverse = np.empty((width, width), np.float32), np.empty(width, np.float32)
    side, other = np.empty(width, np.float32), np.empty(width, np.float32)
    for row in range(first, stop):
        begin, end = offsets[row], offsets[row + 1]
        matrix[:], side[:] = zero, zero
        for low in range(begin, end, most):
            count = min(most, end - low)
            for e in range(count):
                z, y, copy = vectors[columns[low + e]], values[low + e], table[e]
                for a in range(width):
                    copy[a] = z[a]
                    side[a] += y * z[a]
            np.dot(table[:count].T, table[:count], product)
            for a in range(width):
                for b in range(width):
                    matrix[a, b] += product[a, b]
        before = sides[row] if len(sides) > 1 else sides[0]
        for a in range(width):
            side[a] = before[a] + noise * side[a]
            for b in range(a + 1):
                matrix[a, b] = precision[a, b] + noise * matrix[a, b]
        # Cholesky by rows of K, whose inner loops only add up: matrix = K K', and K v = side with it
        for a in range(width):
            own = matrix[a]
            for b in range(a):
                that, total = matrix[b], zero
                for c in range(b):
                    total += own[c] * that[c]
                own[b] = (own[b] - total) * inverse[b]
            square, total = zero, zero
            for c in range(a):
                square += own[c] * own[c]
                total += own[c] * side[c]
            own[a] = np.sqrt(own[a] - square)
            inverse[a] = np.float32(1.0) / own[a]
            side[a] = (side[a] - total) * inverse[a]
        for a in range(width):
            other[a] = side[a] + normals[row, a]
        for a in range(width - 1, -1, -1):
            own = matrix[a]
            mean, draw = side[a] * inverse[a], other[a] * inverse[a]
            expected[row, a], drawn[row, a] = mean, draw
            for b in range(a):
                side[b] -= mean * own[b]
                other[b] -= draw * own[b]
        found, squares = drawn[row], zero
        for e in range(begin, end):
            z, total = vectors[columns[e]], values[e]
            for a in range(width):
                total -= found[a] * z[a]
            squares += total * total
        errors[row] = squares
        if len(roots):
            for a in range(width):
                roots[row, a, : a + 1] = matrix[a, : a + 1]
                roots[row, a, a + 1 :] = zero
