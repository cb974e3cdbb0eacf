"""Ratings as a mean and two biases: what there is to say before anything is said of who likes what (Koren 2010,
doi:10.1145/1644873.1644874).

The biases make ``sum (r - mean - b_u - b_i)² + l2 (sum_u b_u² + sum_i b_i²)`` least: those of one side follow from
those of the other, ``b_u = sum_i (r - mean - b_i) / (n_u + l2)``, in turns until nothing moves.

Shapes: U users, I items, N histories, R rows, T ratings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.ratings import Ratings
from segue.core.types import Events, Scores

__all__ = ["Baseline", "baseline", "biases_of"]

TURNS = 200
"""At most; a few tens are enough."""
STILL = 1e-6
"""Move of a bias, as a share of the values' standard deviation, that no longer counts."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """What a rating is expected to be from who gave it and what it was given to."""

    mean: float
    users_U: Scores
    """``(U,)`` b_u."""
    items_I: Scores
    """``(I,)`` b_i."""

    def residuals(self, ratings: Ratings) -> Scores:
        """``(T,)`` what the ratings are above it."""
        expected_T = np.float32(self.mean) + self.users_U[ratings.users] + self.items_I[ratings.items]
        return (ratings.values - expected_T).astype(np.float32)


def baseline(ratings: Ratings, l2: float) -> Baseline:
    """The best mean and biases."""
    values_T = ratings.values.astype(np.float64)
    mean, spread = float(values_T.mean()), float(values_T.std())
    rest_T = values_T - mean
    users_U, items_I = np.zeros(len(ratings.counts)), np.zeros(len(ratings.item_counts))
    for _ in range(TURNS):
        before = items_I
        users_U = _shrunk(ratings.users, rest_T - items_I[ratings.items], ratings.counts, l2)
        items_I = _shrunk(ratings.items, rest_T - users_U[ratings.users], ratings.item_counts, l2)
        if np.abs(items_I - before).max() <= STILL * spread:
            break
    users_U = _shrunk(ratings.users, rest_T - items_I[ratings.items], ratings.counts, l2)
    return Baseline(mean, users_U.astype(np.float32), items_I.astype(np.float32))


def biases_of(history: Events, mean: float, items_I: Scores, l2: float) -> Scores:
    """``(N,)`` the biases of people with these histories, each event of which has a value."""
    assert history.values is not None
    rest_T = history.values.astype(np.float64) - mean - items_I[history.items]
    return _shrunk(history.rows, rest_T, history.lengths, l2).astype(np.float32)


def _shrunk(
    codes: NDArray[np.integer[Any]], rest_T: NDArray[np.float64], counts: NDArray[np.int64], l2: float
) -> NDArray[np.float64]:
    sums_R = np.bincount(codes, rest_T, minlength=len(counts)).astype(np.float64)
    shrunk_R: NDArray[np.float64] = sums_R / np.maximum(counts + l2, np.finfo(np.float64).tiny)
    return shrunk_R
