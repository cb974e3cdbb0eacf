"""Baseline of ratings: a mean, user biases and item biases.

Koren 2010, doi:10.1145/1644873.1644874.

The biases minimize ``sum (r - mean - b_u - b_i)² + l2 (sum_u b_u² + sum_i b_i²)`` by alternating updates
``b_u = sum_i (r - mean - b_i) / (n_u + l2)``, until convergence.

Shapes: U users, I items, N histories, T ratings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segue.core.ratings import Ratings, shrunken_means
from segue.core.types import Events, Scores

__all__ = ["BiasBaseline", "fit_bias_baseline", "fold_in_biases"]

MAX_ITERATIONS = 200
"""Maximum number of iterations; a few dozen are enough."""
TOLERANCE = 1e-6
"""Change of a bias at convergence, as a share of the standard deviation of the values."""


@dataclass(frozen=True, eq=False)
class BiasBaseline:
    """Expected rating of a user for an item: mean plus biases."""

    mean: float
    users_U: Scores
    """``(U,)`` b_u."""
    items_I: Scores
    """``(I,)`` b_i."""

    def residuals(self, ratings: Ratings) -> Scores:
        """Compute ``(T,)`` ratings minus the baseline."""
        predicted_T = np.float32(self.mean) + self.users_U[ratings.users] + self.items_I[ratings.items]
        return (ratings.values - predicted_T).astype(np.float32)


def fit_bias_baseline(ratings: Ratings, l2: float) -> BiasBaseline:
    """Fit the mean and biases."""
    values_T = ratings.values.astype(np.float64)
    mean, std = float(values_T.mean()), float(values_T.std())
    residuals_T = values_T - mean
    users_U, items_I = np.zeros(len(ratings.counts)), np.zeros(len(ratings.item_counts))
    for _ in range(MAX_ITERATIONS):
        previous_I = items_I
        users_U = shrunken_means(ratings.users, residuals_T - items_I[ratings.items], len(users_U), l2)
        items_I = shrunken_means(ratings.items, residuals_T - users_U[ratings.users], len(items_I), l2)
        if np.abs(items_I - previous_I).max() <= TOLERANCE * std:
            break
    users_U = shrunken_means(ratings.users, residuals_T - items_I[ratings.items], len(users_U), l2)
    return BiasBaseline(mean, users_U.astype(np.float32), items_I.astype(np.float32))


def fold_in_biases(history: Events, mean: float, items_I: Scores, l2: float) -> Scores:
    """Compute the ``(N,)`` biases of users with these histories.

    Every event must have a value.
    """
    assert history.values is not None
    residuals_T = history.values.astype(np.float64) - mean - items_I[history.items]
    return shrunken_means(history.rows, residuals_T, len(history), l2).astype(np.float32)
