"""Gradient boosting and logistic regression on tables of examples and on logs."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize

import segue
from segue.core.events import Events
from segue.core.examples.click_model import ClickModel
from segue.core.examples.fields import Examples, Field
from segue.core.run import Interrupted, Run
from segue.core.types import Queries
from segue.solvers.boosting.tree_columns import count_columns, tree_columns
from segue.solvers.boosting.trees import Trees
from segue.solvers.logistic.example_design import count_design_columns, design_of_examples, linear_terms
from segue.testing import dataset
from segue.training.settings import Training
from segue.training.train import train

SMALL = {"iterations": 20, "min_examples": 5, "num_leaves": 7, "validate_every": 5, "column_fraction": 0.7}


def table(count: int = 600, seed: int = 0) -> pl.DataFrame:
    """Return examples whose label is the parity of user and item, and a number with missing values."""
    rng = np.random.default_rng(seed)
    users, items, prices = rng.integers(8, size=count), rng.integers(6, size=count), rng.normal(size=count)
    is_positive = ((users + items) % 2 == 1) ^ (rng.random(count) < 0.1)
    prices[rng.random(count) < 0.1] = np.nan
    tags = [[f"t{item}"] * (user % 3) for user, item in zip(users, items, strict=True)]
    return pl.DataFrame({"label": is_positive, "user": users, "item": items, "price": prices, "tags": tags})


def train_clicks(key: str, valid: pl.DataFrame | None = None, **settings: Any) -> ClickModel:
    """Train a model on :func:`table`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", segue.SegueWarning)  # without validation rows
        return segue.train_clicks(key, table(), valid, **settings)


FIELDS = (
    Field("user", "category", 9),
    Field("item", "category", 6),
    Field("price", "number"),
    Field("tags", "tags", 3),
    Field("history", "sequence", 6, shares="item"),
    Field("text", "vector", 2),
)


def examples() -> Examples:
    return Examples(
        FIELDS,
        np.array([[2, 3], [0, 1], [5, 4]]),
        np.array([[0.5], [np.nan], [-1.0]]),
        {"tags": Events.of([[2, 2, 0], [], [1]]), "history": Events.of([[3, 2, 3, 4], [1, 2], []])},
        {"text": np.array([[1.0, 2.0], [np.nan, np.nan], [0.0, 4.0]])},
    )


def test_columns_of_trees_by_hand() -> None:
    found = tree_columns(examples())
    expected = [
        [2, 3, 0.5, 1, 0, 2, 4, 2, 2, 1, 2],
        [0, 1, np.nan, 0, 0, 0, 2, 1, 2, np.nan, np.nan],
        [5, 4, -1, 0, 1, 0, 0, 0, np.nan, 0, 4],
    ]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    assert count_columns(FIELDS) == found.shape[1]


def test_design_of_logistic_regression_by_hand() -> None:
    found = design_of_examples(examples()).toarray()
    assert found.shape == (3, count_design_columns(FIELDS))
    user, item, history = np.eye(9)[[2, 0, 5]], np.eye(6)[[3, 1, 4]], np.zeros((3, 6))
    history[0, [2, 3, 4]] = history[1, [1, 2]] = 1
    tags = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    price, text = [[0.5, 0], [0, 1], [-1, 0]], [[1, 2, 0], [0, 0, 1], [0, 4, 0]]
    np.testing.assert_array_equal(found, np.hstack([np.ones((3, 1)), user, item, tags, history, price, text]))
    weights = np.random.default_rng(0).normal(size=found.shape[1]).astype(np.float32)
    for names, columns in (
        ({"item", "text"}, [*range(10, 16), *range(27, 30)]),
        ({"tags", "price"}, [16, 17, 18, 25, 26]),
    ):
        np.testing.assert_allclose(linear_terms(examples(), weights, names), found[:, columns] @ weights[columns])


def test_logistic_regression_of_a_table_is_at_the_optimum() -> None:
    rng = np.random.default_rng(0)
    data = examples().take(rng.integers(3, size=60))
    data = replace(data, labels=rng.integers(2, size=60), weights=rng.random(60))
    model: Any = train("logistic_regression", {"l2_features": 0.5}, Training(), data, Run(0))
    design, l2 = design_of_examples(data).toarray(), np.full(count_design_columns(FIELDS), 0.5)
    l2[0] = 1e-3
    assert data.labels is not None
    signs = 2 * data.labels - 1

    def loss(weights: Any) -> float:
        return float(data.weights @ np.logaddexp(0, -signs * (design @ weights)) + 0.5 * l2 @ weights**2)

    best = minimize(loss, np.zeros(len(l2)), method="L-BFGS-B", options={"maxiter": 5_000})
    assert loss(model.weights_P.astype(np.float64)) <= best.fun + 1e-4
    np.testing.assert_allclose(model.predict_logits(data), design @ model.weights_P, rtol=1e-5)


def test_settings_of_logs_are_rejected_for_a_table() -> None:
    with pytest.raises(
        ValueError, match=r"l2_user: 'logistic_regression' uses this setting only if it is trained on an interaction"
    ):
        train_clicks("logistic_regression", l2_user=7.0)


@pytest.mark.parametrize("key", ["gradient_boosting", "logistic_regression"])
def test_a_saved_model_predicts_the_same(key: str, tmp_path: Path) -> None:
    config = SMALL if key == "gradient_boosting" else {}
    model = train_clicks(key, table(200, 1), **config)
    model.save(tmp_path / "model")
    loaded = ClickModel.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(table(50, 2)), model.predict(table(50, 2)))
    with pytest.raises(ValueError, match="trained on a table of examples and has no catalog"):
        loaded.model.score(Queries.anonymous(Events.of([[]])))


def test_trees_find_an_interaction_that_a_linear_model_cannot() -> None:
    test = table(400, 3)
    accuracy = {}
    settings: dict[str, dict[str, Any]] = {"gradient_boosting": {"min_examples": 5}, "logistic_regression": {}}
    for key, config in settings.items():
        model = train_clicks(key, **config)
        accuracy[key] = ((model.predict(test) > 0.5) == test["label"].to_numpy()).mean()
    assert accuracy["gradient_boosting"] > 0.75
    assert accuracy["logistic_regression"] < 0.65


class Stop:
    """Validation of a run that is interrupted at the second call."""

    def __init__(self, run: Run, values: list[float]) -> None:
        self.run, self.values, self.n_calls = run, values, 0

    def __call__(self, _: Any) -> dict[str, float]:
        self.n_calls += 1
        self.run.interrupted = self.run.interrupted or self.n_calls == 2
        return {"auc": self.values[self.n_calls - 1], "log_loss": self.values[self.n_calls - 1]}


def encoded() -> Examples:
    from segue.core.examples.encoder import fit_encoder
    from segue.core.examples.settings import ExampleSettings

    return fit_encoder(table(), ExampleSettings()).encode(table())


def test_a_resumed_training_is_bit_identical(tmp_path: Path) -> None:
    config, data = {**SMALL, "row_fraction": 0.6}, encoded()
    rising = [0.5, 0.6, 0.7, 0.8]
    expected = train("gradient_boosting", config, Training(), data, Run(0), Stop(Run(0), rising)).arrays()["trees"]
    run = Run(0, folder=tmp_path)
    with pytest.raises(Interrupted):
        train("gradient_boosting", config, Training(), data, run, Stop(run, rising))
    resumed = train("gradient_boosting", config, Training(), data, Run(0, folder=tmp_path), Stop(Run(0), rising[2:]))
    assert Trees.parse(expected.tobytes().decode()).n_columns == count_columns(data.fields)
    assert resumed.arrays()["trees"].tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("metric", "patience", "values", "n_trees"),
    [
        (None, 2, [0.5, 0.7, 0.6, 0.6, 0.9], 10),
        (None, 3, [0.5, 0.7, 0.6, 0.6, 0.9], 10),
        ("log_loss", 2, [0.5, 0.7, 0.6, 0.6, 0.9], 5),
        ("log_loss", 4, [0.5, 0.7, 0.6, 0.4, 0.9], 20),
    ],
)
def test_the_validation_metric_chooses_the_number_of_trees(
    metric: str | None, patience: int, values: list[float], n_trees: int
) -> None:
    calls = iter(values)

    def validate(_: Any) -> dict[str, float]:
        value = next(calls)
        return {"auc": value, "log_loss": value}

    config = {**SMALL, "metric": metric, "patience": patience}
    model: Any = train("gradient_boosting", config, Training(), encoded(), Run(0), validate)
    assert len(model.trees) == n_trees == model.booster.num_trees()


def test_an_unknown_validation_metric_is_named() -> None:
    config = {**SMALL, "model.metric": "auk"}
    with pytest.raises(ValueError, match=r"model\.metric: got 'auk', expected one of auc, log_loss"):
        train_clicks("gradient_boosting", table(90, 1), **config)


def test_lambdarank_orders_the_examples_of_each_user() -> None:
    """The scores of a user are in order, though users with higher base rates would need higher probabilities."""
    config: dict[str, Any] = {"objective": "lambdarank", "iterations": 40, "min_examples": 5, "num_leaves": 15}
    model = train_clicks("gradient_boosting", **config)
    test = table(400, 3)
    logits = model.model.predict_logits(model.encoder.encode(test))  # type: ignore[attr-defined]
    is_positive = ((test["user"] + test["item"]) % 2 == 1).to_numpy()
    for user in range(8):
        own = (test["user"] == user).to_numpy()
        assert logits[own & is_positive].mean() > logits[own & ~is_positive].mean()
    with pytest.raises(ValueError, match="lambdarank compares the examples of a user or query, and the table has no"):
        train("gradient_boosting", config, Training(), replace(encoded(), users=None), Run(0))
    many = encoded().take(np.arange(10_001) % 600)
    with pytest.raises(ValueError, match="at most 10,000 examples of a user, one has 10,001"):
        train("gradient_boosting", config, Training(), replace(many, users=np.zeros(10_001)), Run(0))


@pytest.mark.parametrize("objective", ["binary", "lambdarank"])
def test_trees_find_that_users_return_to_the_items_of_their_history(objective: str) -> None:
    rng = np.random.default_rng(0)
    rows = [np.tile(rng.permutation(12)[:2], 3) for _ in range(40)]
    config = {
        "objective": objective,
        "iterations": 30,
        "min_examples": 5,
        "min_category_examples": 1,
        "num_negatives": 8,
    }
    model = train("gradient_boosting", config, Training(), dataset(Events.of(rows), 12), Run(0))
    scores = model.score(Queries.anonymous(Events.of(rows)))
    for score, row in zip(scores, rows, strict=True):
        assert set(np.argsort(-score)[:2]) == set(row.tolist())


def test_damaged_trees_are_named() -> None:
    model: Any = train("gradient_boosting", SMALL, Training(), encoded(), Run(0))
    text = model.trees.text()
    assert Trees.parse(text).text() == text
    assert model.trees.first(3).n_columns == count_columns(encoded().fields)
    for damaged in (text + text, text[:-1], "abc", text.replace("max_feature_idx=", "max_feature_idx=9")):
        with pytest.raises(ValueError, match="array 'trees' in the saved model"):
            model.restore({"trees": np.frombuffer(damaged.encode(), np.uint8)})
