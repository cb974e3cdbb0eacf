"""What is expected of a rating by its score, under an ordered probit: a table that is looked up.

The curve is smooth: between its points a straight line is nearer than a hundred-thousandth of the scale.

Shapes: T scores, J cuts, K levels, S points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import float32, int64
from numpy.typing import NDArray

from segue.core.compiled import read, summing_kernel, written
from segue.core.types import Scores
from segue.models.parts.probit import expected

__all__ = ["Curve"]

POINTS = 4096

REACH = 8.0
"""Standard deviations below the lowest cut and above the highest, beyond which the expected rating no longer moves."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The expected rating of scores that are evenly apart."""

    ratings_S: Scores
    """``(S,)``"""
    span: Scores
    """``(2,)`` the lowest score, and the points in a unit."""

    @classmethod
    def of(cls, cuts_J: NDArray[np.floating], values_K: NDArray[np.floating]) -> Curve:
        """Of levels that stand for ``values_K``."""
        low, high = (cuts_J[0] - REACH, cuts_J[-1] + REACH) if len(cuts_J) else (0.0, 1.0)
        scores_S = np.linspace(low, high, POINTS)
        ratings_S = expected(scores_S, cuts_J.astype(np.float64), values_K.astype(np.float64))
        span = np.array([low, (POINTS - 1) / (high - low)], np.float32)
        return cls(ratings_S.astype(np.float32), span)

    def add(self, scores: Scores, totals: Scores) -> None:
        """Add the expected rating of each score to ``totals``; both any shape, next to each other in memory."""
        _look_up(self.ratings_S, self.span, scores.reshape(-1), totals.reshape(-1))

    def at(self, scores_T: Scores) -> Scores:
        """``(T,)`` the expected rating of each score."""
        found_T = np.zeros(len(scores_T), np.float32)
        self.add(scores_T, found_T)
        return found_T


@summing_kernel(read(float32), read(float32), read(float32), written(float32))
def _look_up(curve: Scores, span: Scores, scores: Scores, totals: Scores) -> None:
    last = len(curve) - 1
    for t in range(len(scores)):
        place = min(max((scores[t] - span[0]) * span[1], np.float32(0.0)), np.float32(last))
        before = min(int64(place), last - 1)
        share = place - np.float32(before)
        totals[t] += curve[before] + share * (curve[before + 1] - curve[before])
