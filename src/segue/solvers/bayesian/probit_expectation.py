"""What is expected of a rating by its score, under an ordered probit.

The normal distribution is looked up in a table, between whose points a straight line is nearer than a millionth.

Shapes: T scores, N rows of them, J cuts, K levels.
"""

from __future__ import annotations

import numpy as np
from numba import float32
from numpy.typing import NDArray
from scipy.special import ndtr

from segue.core.numba_kernels import kernel, read, summing_kernel, written
from segue.core.types import Scores

__all__ = ["CHANCES", "add_expected", "chance", "expected"]

REACH = np.float32(8.0)
"""Standard deviations that the table reaches on either side; beyond, chances are 0 and 1."""

POINTS = 4096

CHANCES: Scores = ndtr(np.linspace(-REACH, REACH, POINTS)).astype(np.float32)
"""Shares of a normal distribution below points that are evenly apart."""

SCALE = np.float32((POINTS - 1) / (2 * REACH))


def expected(scores_T: Scores, roots_T: Scores, cuts_J: NDArray[np.floating], values_K: NDArray[np.floating]) -> Scores:
    """``(T,)`` the expected rating.

    Args:
        roots_T: roots of the precisions of hidden values about their scores.
        values_K: what levels stand for.
    """
    found_T1 = np.zeros((len(scores_T), 1), np.float32)
    add_expected(scores_T[:, None], roots_T, cuts_J, values_K, found_T1)
    return found_T1[:, 0]


def add_expected(
    scores_NT: Scores,
    roots_N: Scores,
    cuts_J: NDArray[np.floating],
    values_K: NDArray[np.floating],
    totals_NT: Scores,
) -> None:
    """Add the expected rating of each score to ``totals_NT``, which is next to each other in memory."""
    scores, roots, cuts, values = (
        np.ascontiguousarray(array, np.float32) for array in (scores_NT, roots_N, cuts_J, values_K)
    )
    _add(CHANCES, scores, roots, cuts, values, totals_NT)


@kernel
def chance(chances: Scores, number: np.float32) -> np.float32:
    """The share of a normal distribution that lies below a number, by the table :data:`CHANCES`."""
    place = min(max((number + REACH) * SCALE, np.float32(0.0)), np.float32(POINTS - 1))
    before = min(int(place), POINTS - 2)
    found: np.float32 = chances[before] + (place - np.float32(before)) * (chances[before + 1] - chances[before])
    return found


@summing_kernel(read(float32), read(float32, 2), read(float32), read(float32), read(float32), written(float32, 2))
def _add(chances: Scores, scores: Scores, roots: Scores, cuts: Scores, values: Scores, totals: Scores) -> None:
    for n in range(len(scores)):
        for t in range(scores.shape[1]):
            total = values[0]
            for j in range(len(cuts)):
                above = chance(chances, (scores[n, t] - cuts[j]) * roots[n])
                total += above * (values[j + 1] - values[j])
            totals[n, t] += total
