"""Predict the vector of a user from the mean vector of the items of their history.

A ridge regression is fitted on the users of the training. It folds in users without a trained vector.

Shapes: U training users, N queries, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Mask, Scores

__all__ = ["fit_user_regression", "predict_user_vectors"]

RIDGE = 0.01
"""Ridge of the regression, as a fraction of the mean variance of its inputs."""


def fit_user_regression(mean_items_UD: Scores, users_UD: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit the regression of user vectors on the mean vectors of their items.

    Returns:
        coefficients ``(D, D)``, and the means of inputs and outputs ``(2, D)``.
    """
    x_UD, y_UD = mean_items_UD.astype(np.float64), users_UD.astype(np.float64)
    means_2D = np.stack([x_UD.mean(axis=0), y_UD.mean(axis=0)])
    x_UD, y_UD = x_UD - means_2D[0], y_UD - means_2D[1]
    gram_DD = x_UD.T @ x_UD
    gram_DD += (RIDGE * gram_DD.diagonal().mean() + np.finfo(np.float32).tiny) * np.eye(len(gram_DD))
    return np.linalg.solve(gram_DD, x_UD.T @ y_UD), means_2D


def predict_user_vectors(mean_items_ND: Scores, has_items_N: Mask, coefficients_DD: Scores, means_2D: Scores) -> Scores:
    """Predict user vectors, ``(N, D)``.

    A user without items has the mean vector of the training users.
    """
    mean_input_D, mean_user_D = means_2D
    inputs_ND = np.where(has_items_N[:, None], mean_items_ND - mean_input_D, np.float32(0))
    users_ND: Scores = mean_user_D + inputs_ND @ coefficients_DD
    return users_ND
