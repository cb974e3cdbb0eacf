"""Gibbs sampling of factor rows and of their hyperparameters.

Row r has events e with the vector z of their column and a value y, normal with mean ``x_r . z`` and precision a. The
prior of x_r is normal with mean m_r and precision matrix L. The conditional distribution is normal (Salakhutdinov and
Mnih 2008, doi:10.1145/1390156.1390267, eq. 11 to 13):

    precision  A = L + a sum_e z_e z_e'        mean  A^-1 (L m_r + a sum_e y_e z_e)

With A = K K' and K v = the right-hand side, the mean is K'^-1 v and a sample is K'^-1 (v + n), with n standard normal,
so that one Cholesky factorization serves both. Normal numbers are passed in, so that results do not depend on the
number of threads. Sums of outer products are computed as matrix products of the row's vectors.

Shapes: R rows, T events, C columns, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array, parallel_rows
from segue.core.types import Codes, Scores

__all__ = ["GaussianHyperprior", "sample_factor_rows", "sample_hyperparameters"]

Numbers = NDArray[np.float64]
GaussianHyperprior = tuple[Numbers, Numbers]
"""Mean ``(D,)`` and precision ``(D, D)`` of the rows."""

SINGLE_THREAD_SIZE = 262_144
"""Multiplications of a matrix product up to which OpenBLAS uses a single thread."""
PRIOR_COUNT = 2.0
"""beta_0: number of rows at zero that the prior of the mean is worth (section 4 of the paper)."""


def sample_hyperparameters(
    rows_RD: Scores, rng: np.random.Generator, extra_DD: Numbers | None = None, extra_count: int = 0
) -> GaussianHyperprior:
    """Sample the mean and precision of the rows.

    They come from the normal-Wishart posterior (eq. 14).

    Args:
        rows_RD: normally distributed around the mean.
        rng: source of random numbers.
        extra_DD: a further sum of outer products, of zero-mean vectors with the same precision.
        extra_count: the number of these vectors.
    """
    count, width = rows_RD.shape
    rows = rows_RD.astype(np.float64)
    rows_mean_D = rows.mean(axis=0)
    deviations_RD = rows - rows_mean_D
    # W_0 is the identity and nu_0 is D
    scale_inverse_DD = np.eye(width) + deviations_RD.T @ deviations_RD
    scale_inverse_DD += PRIOR_COUNT * count / (PRIOR_COUNT + count) * np.outer(rows_mean_D, rows_mean_D)
    if extra_DD is not None:
        scale_inverse_DD += extra_DD
    precision_DD = _wishart(np.linalg.inv(scale_inverse_DD), width + count + extra_count, rng)
    mean_D = count * rows_mean_D / (PRIOR_COUNT + count)
    upper_DD = np.linalg.cholesky(precision_DD).T
    noise_D = np.linalg.solve(upper_DD, rng.standard_normal(width)) / np.sqrt(PRIOR_COUNT + count)
    return mean_D + noise_D, precision_DD


def _wishart(scale_DD: Numbers, degrees_of_freedom: int, rng: np.random.Generator) -> Numbers:
    """Sample from a Wishart distribution by Bartlett decomposition."""
    width = len(scale_DD)
    lower_DD = np.tril(rng.standard_normal((width, width)), -1)
    lower_DD[np.diag_indices(width)] = np.sqrt(rng.chisquare(degrees_of_freedom - np.arange(width)))
    root_DD = np.linalg.cholesky((scale_DD + scale_DD.T) / 2) @ lower_DD
    sample_DD: Numbers = root_DD @ root_DD.T
    return sample_DD


def sample_factor_rows(
    offsets: NDArray[np.int64],
    columns: Codes,
    values_T: Scores,
    vectors_CD: Scores,
    *,
    noise_precision: float,
    precision_DD: Numbers | Scores,
    means_RD: Numbers | Scores,
    normals_RD: Scores,
    with_roots: bool = False,
) -> tuple[Scores, Scores, Scores, Scores]:
    """Sample all rows given their events.

    Returns:
        ``(R, D)`` samples; ``(R, D)`` conditional means; ``(R,)`` squared errors of the samples; with ``with_roots``
        ``(R, D, D)`` lower Cholesky factors K of the precisions, else empty.

    Args:
        offsets: ``(R + 1,)`` the events of row r are ``offsets[r]:offsets[r + 1]``.
        columns: ``(T,)`` the column of each event.
        values_T: y.
        vectors_CD: z of every column.
        noise_precision: a.
        precision_DD: L.
        means_RD: m, or ``(1, D)`` for all rows.
        normals_RD: n.
        with_roots: return the Cholesky factors.
    """
    n_rows, width = len(offsets) - 1, vectors_CD.shape[1]
    samples_RD, expected_RD = np.empty((n_rows, width), np.float32), np.empty((n_rows, width), np.float32)
    errors_R = np.empty(n_rows, np.float32)
    roots_RDD = np.empty((n_rows if with_roots else 0, width, width), np.float32)
    right_sides_RD = np.ascontiguousarray(means_RD @ precision_DD, np.float32)
    vectors = np.ascontiguousarray(vectors_CD, np.float32)
    parameters = np.float32(noise_precision), np.ascontiguousarray(precision_DD, np.float32), right_sides_RD, normals_RD

    def process_rows(first: int, stop: int) -> None:
        outputs = samples_RD, expected_RD, errors_R, roots_RDD
        _sample_rows_kernel(first, stop, offsets, columns, values_T, vectors, *parameters, *outputs)

    parallel_rows(process_rows, offsets)
    return samples_RD, expected_RD, errors_R, roots_RDD


@fastmath_kernel(
    int64,
    int64,
    input_array(int64),
    input_array(int32),
    input_array(float32),
    input_array(float32, 2),
    float32,
    input_array(float32, 2),
    input_array(float32, 2),
    input_array(float32, 2),
    output_array(float32, 2),
    output_array(float32, 2),
    output_array(float32),
    output_array(float32, 3),
)
def _sample_rows_kernel(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    values: Scores,
    vectors: Scores,
    noise_precision: np.float32,
    precision: Scores,
    right_sides: Scores,
    normals: Scores,
    samples: Scores,
    expected: Scores,
    errors: Scores,
    roots: Scores,
) -> None:
    """Sample rows ``first:stop``; only lower triangles of symmetric matrices are used."""
    width, zero = vectors.shape[1], np.float32(0.0)
    block_size = max(8, min(256, SINGLE_THREAD_SIZE // (width * width)))
    block, gram = np.empty((block_size, width), np.float32), np.empty((width, width), np.float32)
    matrix, inverse = np.empty((width, width), np.float32), np.empty(width, np.float32)
    mean_side, sample_side = np.empty(width, np.float32), np.empty(width, np.float32)
    for row in range(first, stop):
        begin, end = offsets[row], offsets[row + 1]
        matrix[:], mean_side[:] = zero, zero
        for low in range(begin, end, block_size):
            count = min(block_size, end - low)
            for e in range(count):
                z, y, copy = vectors[columns[low + e]], values[low + e], block[e]
                for a in range(width):
                    copy[a] = z[a]
                    mean_side[a] += y * z[a]
            np.dot(block[:count].T, block[:count], gram)
            for a in range(width):
                for b in range(width):
                    matrix[a, b] += gram[a, b]
        prior_side = right_sides[row] if len(right_sides) > 1 else right_sides[0]
        for a in range(width):
            mean_side[a] = prior_side[a] + noise_precision * mean_side[a]
            for b in range(a + 1):
                matrix[a, b] = precision[a, b] + noise_precision * matrix[a, b]
        # Cholesky factorization matrix = K K' by rows of K, and K v = right side at the same time
        for a in range(width):
            root_row = matrix[a]
            for b in range(a):
                other_root, total = matrix[b], zero
                for c in range(b):
                    total += root_row[c] * other_root[c]
                root_row[b] = (root_row[b] - total) * inverse[b]
            square_sum, total = zero, zero
            for c in range(a):
                square_sum += root_row[c] * root_row[c]
                total += root_row[c] * mean_side[c]
            root_row[a] = np.sqrt(root_row[a] - square_sum)
            inverse[a] = np.float32(1.0) / root_row[a]
            mean_side[a] = (mean_side[a] - total) * inverse[a]
        for a in range(width):
            sample_side[a] = mean_side[a] + normals[row, a]
        for a in range(width - 1, -1, -1):
            root_row = matrix[a]
            mean, draw = mean_side[a] * inverse[a], sample_side[a] * inverse[a]
            expected[row, a], samples[row, a] = mean, draw
            for b in range(a):
                mean_side[b] -= mean * root_row[b]
                sample_side[b] -= draw * root_row[b]
        sample, squared_error = samples[row], zero
        for e in range(begin, end):
            z, total = vectors[columns[e]], values[e]
            for a in range(width):
                total -= sample[a] * z[a]
            squared_error += total * total
        errors[row] = squared_error
        if len(roots):
            for a in range(width):
                roots[row, a, : a + 1] = matrix[a, : a + 1]
                roots[row, a, a + 1 :] = zero
