"""Trained models against dense references in float64, from the same start and with the same number of iterations."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import nnls

from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.testing import dataset, tastes

DATA = tastes(users=40, n_items=25, share=0.4).train


def fit(key: str, data: Dataset = DATA, **values: Any) -> Any:
    kind: Any = model_class(key)
    model = kind(kind.Config(**values), data.schema)
    model.fit(data, Run(0), None)
    return model


def dense(data: Dataset = DATA) -> np.ndarray:
    """Return the dense ratings; NaN if there is no rating."""
    table = np.full((data.n_users, data.n_items), np.nan)
    table[data.histories.rows, data.histories.items] = data.histories.values
    return table


def all_pairs(data: Dataset = DATA) -> tuple[np.ndarray, np.ndarray]:
    users, items = np.indices((data.n_users, data.n_items)).reshape(2, -1).astype(np.int32)
    return users, items


# --- als --------------------------------------------------------------------------------------------------------------


def ridge_rows(residuals: np.ndarray, fixed: np.ndarray, l2: float, l2_bias: float, weighted: bool) -> np.ndarray:
    """Solve bias and factors of each row; residuals are NaN if there is no rating."""
    rows = np.zeros((len(residuals), fixed.shape[1]))
    for row, values in zip(rows, residuals, strict=True):
        is_rated = ~np.isnan(values)
        z = np.column_stack([np.ones(is_rated.sum()), fixed[is_rated, 1:]])
        ridge = np.diag([l2_bias] + [l2] * (fixed.shape[1] - 1)) * (max(is_rated.sum(), 1) if weighted else 1)
        row[:] = np.linalg.solve(z.T @ z + ridge, z.T @ (values[is_rated] - fixed[is_rated, 0]))
    return rows


@pytest.mark.parametrize("weighted", [True, False])
def test_als_equals_alternating_ridge_regressions(weighted: bool) -> None:
    regularization = {"l2": 0.05, "l2_bias": 0.02, "weighted": weighted}
    model = fit("als", embedding_dim=3, iterations=4, **regularization)
    table, rng = dense(), Run(0).rng("init")
    users, items = (
        (0.1 * rng.standard_normal((n, 4))).astype(np.float32).astype(float) for n in (DATA.n_users, DATA.n_items)
    )
    users[:, 0], items[:, 0] = 0.0, 0.0
    residuals = table - np.nanmean(table)
    for _ in range(4):
        users = ridge_rows(residuals, items, **regularization)
        items = ridge_rows(residuals.T, users, **regularization)
    users = ridge_rows(residuals, items, **regularization)
    expected = np.nanmean(table) + users[:, :1] + items[:, 0] + users[:, 1:] @ items[:, 1:].T
    np.testing.assert_allclose(model.predict(*all_pairs()).reshape(table.shape), expected, atol=2e-3)


def test_als_by_conjugate_gradients_equals_the_exact_solver() -> None:
    exact = fit("als", embedding_dim=3, iterations=4)
    iterative = fit("als", embedding_dim=3, iterations=4, solver="conjugate_gradient", cg_steps=30)
    np.testing.assert_allclose(iterative.predict(*all_pairs()), exact.predict(*all_pairs()), atol=2e-3)


# --- ials -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unobserved", ["all", "rest"])
@pytest.mark.parametrize("solver", ["exact", "conjugate_gradient"])
def test_ials_equals_alternating_weighted_ridge_regressions(unobserved: str, solver: str) -> None:
    """Hu, Koren and Volinsky 2008, eq. 4 and 5, with an observed weight of 1 (``rest``), or 1 + a0 (``all``)."""
    weight, l2, dim = 0.3, 0.02, 3
    model = fit("ials", embedding_dim=dim, iterations=3, unobserved=unobserved, unobserved_weight=weight, l2=l2,
                solver=solver, **({} if solver == "exact" else {"cg_steps": 30}))  # fmt: skip
    seen = (~np.isnan(dense())).astype(float)
    weights = weight + seen * (1.0 if unobserved == "all" else 1.0 - weight)

    def solve(weights_RC: np.ndarray, seen_RC: np.ndarray, fixed: np.ndarray) -> np.ndarray:
        ridges = l2 * (seen_RC.sum(axis=1) + weight * seen_RC.shape[1])
        return np.array(
            [
                np.linalg.solve((fixed.T * w) @ fixed + ridge * np.eye(dim), fixed.T @ y)
                for w, y, ridge in zip(weights_RC, seen_RC, ridges, strict=True)
            ]
        )

    rng, scale = Run(0).rng("init"), 0.1 / np.sqrt(dim)
    users, items = (
        (scale * rng.standard_normal((n, dim))).astype(np.float32).astype(float) for n in (DATA.n_users, DATA.n_items)
    )
    for _ in range(3):
        users = solve(weights, seen, items)
        items = solve(weights.T, seen.T, users)
    expected = solve(weights, seen, items) @ items.T
    found = model.score(Queries.of_users(np.arange(DATA.n_users, dtype=np.int32), DATA.histories))
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(model.score(Queries.anonymous(DATA.histories)), expected, atol=2e-3)


# --- ease -------------------------------------------------------------------------------------------------------------


def test_ease_equals_a_ridge_regression_of_each_item_on_all_others() -> None:
    l2 = 7.0
    seen, model = (~np.isnan(dense())).astype(float), fit("ease", l2=l2)
    expected = np.zeros((DATA.n_items, DATA.n_items))
    for item in range(DATA.n_items):
        others = np.delete(np.arange(DATA.n_items), item)
        gram = seen[:, others].T @ seen[:, others] + l2 * np.eye(len(others))
        expected[others, item] = np.linalg.solve(gram, seen[:, others].T @ seen[:, item])
    np.testing.assert_allclose(model.weights_II, expected, atol=2e-5)
    np.testing.assert_allclose(model.score(Queries.anonymous(DATA.histories)), seen @ expected, atol=1e-4)


# --- nmf --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", ["implicit", "explicit"])
def test_nmf_folds_in_by_nonnegative_least_squares(feedback: str) -> None:
    histories = Events(DATA.histories.offsets, DATA.histories.items, values=np.abs(DATA.histories.values))
    data, l2 = DATA.with_histories(histories), 0.02
    model = fit("nmf", data, feedback=feedback, embedding_dim=4, l2=l2)
    values, items = dense(data), model.items_ID.astype(float)
    expected = np.zeros((data.n_users, 4))
    for row, rated in zip(expected, values, strict=True):
        used = ~np.isnan(rated) if feedback == "explicit" else np.ones(len(rated), np.bool_)
        targets = rated[used] if feedback == "explicit" else (~np.isnan(rated)).astype(float)
        ridge = np.sqrt(l2 * (~np.isnan(rated)).sum()) * np.eye(4)
        row[:] = nnls(np.vstack([items[used], ridge]), np.concatenate([targets, np.zeros(4)]))[0]
    scores = model.score(Queries.anonymous(histories))
    np.testing.assert_allclose(scores, expected @ items.T, rtol=5e-3, atol=5e-3)


# --- factorization_machine --------------------------------------------------------------------------------------------


def test_a_linear_factorization_machine_is_a_ridge_regression() -> None:
    l2 = 3.0
    model = fit("factorization_machine", embedding_dim=0, inputs=(), learner="als", iterations=300, l2_bias=l2)
    users, items, values = DATA.histories.rows, DATA.histories.items, DATA.histories.values.astype(float)
    std = values.std()
    design = np.zeros((len(values), 1 + DATA.n_users + DATA.n_items))
    design[:, 0] = 1.0
    design[np.arange(len(values)), 1 + users] = 1.0
    design[np.arange(len(values)), 1 + DATA.n_users + items] = 1.0
    ridge = np.diag([0.0] + [l2] * (DATA.n_users + DATA.n_items))
    solution = np.linalg.solve(design.T @ design + ridge, design.T @ ((values - values.mean()) / std))
    biases = solution[0] + solution[1 : 1 + DATA.n_users, None] + solution[1 + DATA.n_users :]
    found = model.predict(*all_pairs()).reshape(DATA.n_users, -1)
    np.testing.assert_allclose(found, values.mean() + std * biases, atol=5e-3)


# --- baselines --------------------------------------------------------------------------------------------------------


def test_popular_scores_are_logarithms_of_smoothed_shares() -> None:
    data = dataset(Events.of([[0, 1, 1], [1, 2], [1]]), 4)
    scores = fit("popular", data).score(Queries.anonymous(Events.of([[], [3]])))
    np.testing.assert_allclose(scores, np.log(np.array([[2, 5, 2, 1]] * 2) / 10), rtol=1e-6)
