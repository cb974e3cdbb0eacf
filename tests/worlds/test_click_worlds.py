"""Click-through models in tables whose rule is known: interactions, interests and phrases."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.model import Solver
from segue.core.registry import model_class
from segue.evaluation.click_metrics import auc
from tests.nightly import only_nightly

TRAINING = {"epochs": 15, "batch_size": 200, "learning_rate": 0.02}
SMALL = {"embedding_dim": 6, "hidden": (16,), "dropout": 0.0}


@cache
def interaction(seed: int) -> pl.DataFrame:
    """Return examples that are positive where user and item are of the same kind; neither tells anything alone."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(12, size=1_500), rng.integers(10, size=1_500)
    return pl.DataFrame({"label": (users % 2 == items % 2).astype(int), "user": users, "item": items})


@cache
def interest(seed: int) -> pl.DataFrame:
    """Return examples that are positive where the item is in the history.

    Every history has items of all kinds, so that its mean tells little about one of 40 items.
    """
    rng = np.random.default_rng(seed)
    histories = [rng.choice(40, 6, replace=False) for _ in range(2_500)]
    is_positive = rng.integers(2, size=len(histories))
    items = [
        int(rng.choice(history if one else np.setdiff1d(np.arange(40), history)))
        for history, one in zip(histories, is_positive, strict=True)
    ]
    return pl.DataFrame({"label": is_positive, "item": items, "history": [one.tolist() for one in histories]})


@cache
def phrase(seed: int) -> pl.DataFrame:
    """Return texts of the same words, positive where "not" stands right before "good"."""
    rng = np.random.default_rng(seed)
    others, rows = ["a", "b", "c", "d"], []
    for _ in range(1_500):
        words = rng.permutation(others).tolist()
        at, is_positive = int(rng.integers(5)), int(rng.integers(2))
        rows.append((is_positive, [*words[:at], *(["not", "good"] if is_positive else ["good", "not"]), *words[at:]]))
    return pl.DataFrame({"label": [label for label, _ in rows], "text": [" ".join(words) for _, words in rows]})


def accuracy(key: str, world: Any, examples: Any = None, **values: Any) -> float:
    """Return the area under the curve on new examples of a world."""
    kind = model_class(key)
    known = {name: one for name, one in {**SMALL, **values}.items() if name in kind.Config.model_fields}
    training: dict[str, Any] = {} if issubclass(kind, Solver) else TRAINING
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", segue.SegueWarning)  # there are no validation rows
        model = segue.train_clicks(key, world(0), **known, **training, **(examples or {}))
    test = world(1)
    return float(auc(test["label"].to_numpy(), model.predict(test)))


@pytest.mark.parametrize("key", ["ctr_factorization_machine", "deepfm", "dcn_v2"])
def test_networks_find_an_interaction(key: str) -> None:
    assert accuracy(key, interaction) > 0.98


def test_a_linear_model_does_not_find_an_interaction() -> None:
    assert accuracy("logistic_regression", interaction) < 0.6


@only_nightly
def test_attention_finds_an_interest_that_the_mean_of_the_history_hides() -> None:
    examples = {"shares": {"history": "item"}}
    found, mean = (accuracy(key, interest, examples) for key in ("din", "wide_deep"))
    assert found > 0.95
    assert found > mean + 0.1


@only_nightly
def test_convolutions_find_the_order_of_words() -> None:
    examples = {"columns": {"text": "sequence"}, "separator": " "}
    assert accuracy("text_cnn", phrase, examples) > 0.98
    assert accuracy("deepfm", phrase, examples, batch_norm=False) < 0.6
