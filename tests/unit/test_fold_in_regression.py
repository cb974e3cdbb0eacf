"""The regression that folds in users, against least squares with added rows."""

from __future__ import annotations

import numpy as np
import pytest

from segue.solvers.profiles.fold_in_regression import RIDGE, fit_user_regression, predict_user_vectors


def test_it_is_ridge_regression_of_centered_vectors() -> None:
    rng = np.random.default_rng(0)
    items_UD = rng.normal(size=(30, 4)).astype(np.float32)
    users_UD = (items_UD @ rng.normal(size=(4, 4)) + rng.normal(0.0, 0.1, (30, 4)) + 2.0).astype(np.float32)
    coefficients_DD, means_2D = fit_user_regression(items_UD, users_UD)
    x_UD, y_UD = items_UD - items_UD.mean(axis=0), users_UD - users_UD.mean(axis=0)
    ridge = np.sqrt(RIDGE * np.square(x_UD).sum(axis=0).mean())
    rows, targets = np.vstack([x_UD, ridge * np.eye(4)]), np.vstack([y_UD, np.zeros((4, 4))])
    expected_DD = np.linalg.lstsq(rows, targets, rcond=None)[0]
    np.testing.assert_allclose(coefficients_DD, expected_DD, rtol=1e-4, atol=1e-5)
    learned = (coefficients_DD.astype(np.float32), means_2D.astype(np.float32))
    found = predict_user_vectors(items_UD, np.arange(30) > 0, *learned)
    np.testing.assert_allclose(found[1:], (x_UD @ expected_DD + users_UD.mean(axis=0))[1:], rtol=1e-4, atol=1e-4)
    assert found[0] == pytest.approx(users_UD.mean(axis=0), abs=1e-6), "a user without items is the mean user"


def test_users_without_any_difference_are_predicted_by_their_mean() -> None:
    ones_UD = np.ones((3, 2), np.float32)
    coefficients_DD, means_2D = fit_user_regression(ones_UD, 5 * ones_UD)
    assert not coefficients_DD.any()
    learned = (coefficients_DD.astype(np.float32), means_2D.astype(np.float32))
    assert predict_user_vectors(ones_UD[:1] * 9, np.ones(1, np.bool_), *learned).tolist() == [[5, 5]]
