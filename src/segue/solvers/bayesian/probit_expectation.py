"""Expected ratings given scores, under an ordered probit model.

The normal distribution function is interpolated linearly in a table, with an error below 1e-6.

Shapes: T scores, N rows of scores, J cutpoints, K levels.
"""

from __future__ import annotations

import numpy as np
from numba import float32
from numpy.typing import NDArray
from scipy.special import ndtr

from segue.core.numba_kernels import fastmath_kernel, input_array, kernel, output_array
from segue.core.types import Scores

__all__ = ["NORMAL_CDF", "add_expected_ratings", "expected_ratings", "normal_cdf"]

TABLE_RANGE = np.float32(8.0)
"""Range of the table in standard deviations, on either side; beyond it, probabilities are 0 and 1."""

TABLE_SIZE = 4096

NORMAL_CDF: Scores = ndtr(np.linspace(-TABLE_RANGE, TABLE_RANGE, TABLE_SIZE)).astype(np.float32)
"""Normal distribution function at equidistant points."""

TABLE_SCALE = np.float32((TABLE_SIZE - 1) / (2 * TABLE_RANGE))


def expected_ratings(
    scores_T: Scores, noise_scales_T: Scores, cuts_J: NDArray[np.floating], values_K: NDArray[np.floating]
) -> Scores:
    """Compute the ``(T,)`` expected ratings.

    Args:
        scores_T: scores.
        noise_scales_T: square roots of the precisions of hidden values.
        cuts_J: cutpoints.
        values_K: values of the levels.
    """
    ratings_T1 = np.zeros((len(scores_T), 1), np.float32)
    add_expected_ratings(scores_T[:, None], noise_scales_T, cuts_J, values_K, ratings_T1)
    return ratings_T1[:, 0]


def add_expected_ratings(
    scores_NT: Scores,
    noise_scales_N: Scores,
    cuts_J: NDArray[np.floating],
    values_K: NDArray[np.floating],
    totals_NT: Scores,
) -> None:
    """Add the expected rating of each score to the contiguous array ``totals_NT``."""
    scores, noise_scales, cuts, values = (
        np.ascontiguousarray(array, np.float32) for array in (scores_NT, noise_scales_N, cuts_J, values_K)
    )
    _expectation_kernel(NORMAL_CDF, scores, noise_scales, cuts, values, totals_NT)


@kernel
def normal_cdf(table: Scores, x: np.float32) -> np.float32:
    """Interpolate the normal distribution function at ``x`` in :data:`NORMAL_CDF`."""
    position = min(max((x + TABLE_RANGE) * TABLE_SCALE, np.float32(0.0)), np.float32(TABLE_SIZE - 1))
    index = min(int(position), TABLE_SIZE - 2)
    probability: np.float32 = table[index] + (position - np.float32(index)) * (table[index + 1] - table[index])
    return probability


@fastmath_kernel(
    input_array(float32),
    input_array(float32, 2),
    input_array(float32),
    input_array(float32),
    input_array(float32),
    output_array(float32, 2),
)
def _expectation_kernel(
    table: Scores, scores: Scores, noise_scales: Scores, cuts: Scores, values: Scores, totals: Scores
) -> None:
    for n in range(len(scores)):
        for t in range(scores.shape[1]):
            total = values[0]
            for j in range(len(cuts)):
                probability_above = normal_cdf(table, (scores[n, t] - cuts[j]) * noise_scales[n])
                total += probability_above * (values[j + 1] - values[j])
            totals[n, t] += total
