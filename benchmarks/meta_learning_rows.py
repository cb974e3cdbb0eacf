"""The models of the benchmark ``meta_learning``, and how their settings are chosen on validation users."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

import segue
from segue.core.ratings import shrunken_means
from segue.core.types import Codes, Events, HeldOut, Queries, Scores, Split

__all__ = [
    "BASELINE",
    "CONSTANT",
    "FINE_TUNING",
    "ROWS",
    "Row",
    "Scorer",
    "candidates",
    "item_user_means",
    "prepare_row",
]

BASELINE = "item mean + user mean"
CONSTANT = "median rating"
"""The constant with the smallest absolute error in training; it ranks by chance."""
NO_ADAPTATION, FINE_TUNING = "no adaptation", "fine-tuning"
Scorer = Callable[[Queries, Codes], Scores]
"""Predicts the ratings ``(N, C)`` of candidates."""
Found = tuple[Scorer, dict[str, Any]]
"""A scorer with the settings that were chosen on the validation users."""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    kind: str
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Settings of which each combination is tried on the validation users."""


MAML = {
    "feedback": "explicit",
    "learning_rate": 3e-3,
    "batch_size": 64,
    "epochs": 30,
    "validate_every": 2,
    "patience": 3,
}
"""Chosen on the validation users of seed 0."""
ROWS: dict[str, Row] = {
    "random": Row("chance"),
    CONSTANT: Row("the same rating for all"),
    BASELINE: Row("damped means", grid={"damping": (2.0, 5.0, 10.0, 25.0)}),
    "als": Row("fold-in by ridge regression", "als", {"embedding_dim": 16}, {"l2": (0.05, 0.1, 0.2, 0.4)}),
    "factorization_machine": Row("fold-in by posterior samples", "factorization_machine", {"iterations": 100}),
    "factorization_machine, features": Row(
        "the same with user and item features",
        "factorization_machine",
        {"iterations": 100, "inputs": ("implicit_user", "implicit_item", "user_features", "item_features")},
    ),
    NO_ADAPTATION: Row("one network for all users", "maml", MAML | {"inner_steps": 0}),
    FINE_TUNING: Row(
        "that network with gradient steps at prediction",
        "maml",
        MAML | {"inner_steps": 0},
        {"inner_steps": (3, 10, 30, 100), "inner_learning_rate": (0.03, 0.1, 0.3)},
    ),
    "maml, first order": Row("meta-learning without second derivatives", "maml", MAML | {"first_order": True}),
    "maml": Row("meta-learning", "maml", MAML),
}


def candidates(held_out: HeldOut) -> tuple[Codes, Scores]:
    """Return the items to predict and their ratings, ``(N, C)``; unused cells have the item 0 and the rating NaN."""
    targets = held_out.targets
    assert targets.values is not None
    width = int(targets.lengths.max(initial=0))
    is_target = np.arange(width) < targets.lengths[:, None]
    items, ratings = np.zeros(is_target.shape, np.int32), np.full(is_target.shape, np.nan, np.float32)
    items[is_target], ratings[is_target] = targets.items, targets.values
    return items, ratings


def prepare_row(name: str, parts: Split, seed: int, quick: bool, networks: dict[str, Any]) -> Found:
    """Train a row, and choose its settings on the validation users by RMSE.

    Args:
        networks: trained networks without adaptation, by the name of their row; shared by the rows of a seed.
    """
    row = ROWS[name]
    if name == "random":
        rng = np.random.default_rng(seed)
        return lambda queries, items_NC: rng.random(items_NC.shape).astype(np.float32), {}
    if name == CONSTANT:
        values = parts.train.histories.values
        assert values is not None
        median = np.float32(np.median(values))
        return lambda queries, items_NC: np.full(items_NC.shape, median), {}
    if name == BASELINE:
        return _best(row, parts.valid, lambda damping: item_user_means(parts.train.histories, damping))
    if name == FINE_TUNING:
        network = networks.get(NO_ADAPTATION) or _train(row, parts, seed, quick)
        return _best(row, parts.valid, lambda **settings: _fine_tuned(network, **settings).score)
    if row.grid:
        return _best(row, parts.valid, lambda **settings: _train(row, parts, seed, quick, **settings).score)
    model = _train(row, parts, seed, quick)
    networks[name] = model
    return model.score, {}


def _best(row: Row, valid: HeldOut, make: Callable[..., Scorer]) -> Found:
    """Return the scorer with the smallest error on ``valid`` and its settings."""
    items_NC, ratings_NC = candidates(valid)

    def error(scorer: Scorer) -> float:
        return float(np.nanmean(np.square(scorer(valid.queries, items_NC) - ratings_NC)))

    combinations = [dict(zip(row.grid, values, strict=True)) for values in product(*row.grid.values())]
    found = [(make(**settings), settings) for settings in combinations]
    return min(found, key=lambda one: error(one[0]))


def _train(row: Row, parts: Split, seed: int, quick: bool, **chosen: Any) -> Any:
    settings = {**row.settings, **chosen}
    if quick:
        settings |= {"epochs": 1} if "epochs" in settings else {"iterations": 10}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", segue.SegueWarning)  # a row may be below a baseline: that is measured
        return segue.train(row.model, parts, seed=seed, recipe="none", baseline="none", metric="rmse", **settings).model


def item_user_means(train: Events, damping: float) -> Scorer:
    """Return the sum of the damped means of items and of the user's deviations from them.

    An item without training events has the mean of all ratings.
    """
    assert train.values is not None
    values = train.values.astype(np.float64)
    mean = float(values.mean())

    def score(queries: Queries, items_NC: Codes) -> Scores:
        history = queries.history
        assert history.values is not None
        count = 1 + max(int(codes.max(initial=0)) for codes in (train.items, items_NC, history.items))
        item_I = shrunken_means(train.items, values - mean, count, damping)
        residuals = history.values - mean - item_I[history.items]
        user_N = shrunken_means(history.rows, residuals, len(queries), damping)
        return (mean + item_I[items_NC] + user_N[:, None]).astype(np.float32)

    return score


def _fine_tuned(model: Any, inner_steps: int, inner_learning_rate: float) -> Any:
    """Return a copy of a network without adaptation that takes gradient steps at prediction."""
    settings: dict[str, Any] = {"inner_steps": inner_steps, "inner_learning_rate": inner_learning_rate}
    config = model.config.model_copy(update=settings | {"learn_rates": False})
    tuned = type(model)(config, model.schema)
    arrays: dict[str, NDArray[Any]] = {**model.arrays(), "log_rates": tuned.arrays()["log_rates"]}
    tuned.restore(copy.deepcopy(arrays))
    return tuned
