"""Click-through models of a log with context also rank queries without context well."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from segue.core.examples.context_dropout import hide_context, hide_query_context
from segue.core.examples.fields import MISSING
from segue.core.examples.log_fields import LogFields, log_fields, log_schema
from segue.core.model import Recommender
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.testing import dataset
from segue.training.settings import Training
from segue.training.train import train

N_ITEMS = 20


@cache
def log() -> Dataset:
    """Users who choose a popular item of the device, or one of a few popular items of both.

    The device decides between items 0 to 7 and 8 to 15; items 16 to 19 are popular with both, and items with a device
    are as frequent as these on their device alone.
    """
    rng = np.random.default_rng(0)
    rows, devices = [], []
    for _ in range(250):
        device = rng.integers(2, size=6)
        chances = np.where(
            np.arange(N_ITEMS) >= 16, 0.11, np.where(np.arange(N_ITEMS) // 8 == device[:, None], 0.07, 0)
        )
        chances /= chances.sum(1, keepdims=True)
        rows.append([int(rng.choice(N_ITEMS, p=one)) for one in chances])
        devices += device.tolist()
    data = dataset(Events.of(rows), N_ITEMS)
    context = {"device": np.array(devices, np.int32)}
    header = {"context": {"device": ["phone", "tv"]}}
    return replace(data, histories=replace(data.histories, context=context), header=header)


SMALL = {"embedding_dim": 8, "hidden": (16,), "dropout": 0.0, "inputs": ("context",), "batch_norm": False}
TREES = {"inputs": ("context",), "iterations": 40, "num_leaves": 8, "min_category_examples": 40}
TRAINING = Training(epochs=12, batch_size=100, learning_rate=0.02)


@cache
def model(key: str, dropout: float) -> Recommender:
    settings: dict[str, Any] = TREES if key == "gradient_boosting" else SMALL
    return train(key, settings | {"context_dropout": dropout}, TRAINING, log(), Run(0))


def scores(key: str, dropout: float, device: int | None) -> Any:
    context = {} if device is None else {"device": np.array([device], np.int32)}
    return model(key, dropout).score(replace(Queries.anonymous(Events.of([[]])), context=context))[0]


@pytest.mark.parametrize("key", ["deepfm", "gradient_boosting"])
def test_hidden_context_is_learned(key: str) -> None:
    """Without context, items of both devices are best; with it, its items are above those of the other device.

    Trees do not find the latter: neither the item nor the device tells anything alone, so no first split gains.
    """
    unknown = scores(key, 0.3, None)
    assert unknown[16:].mean() > unknown[:16].mean() + 0.3
    for device in (0, 1) if key == "deepfm" else ():
        known = scores(key, 0.3, device)
        own = np.arange(16) // 8 == device
        assert known[:16][own].mean() > known[:16][~own].mean() + 1.0
    assert not np.array_equal(scores(key, 0.0, None), unknown)


def test_the_network_without_dropout_has_not_learned_it() -> None:
    """Its scores without context depend on initial values; those with dropout are near the shares of the events."""
    shares = np.log(np.bincount(log().histories.items, minlength=N_ITEMS))
    with_dropout, without = (np.corrcoef(scores("deepfm", rate, None), shares)[0, 1] for rate in (0.3, 0.0))
    assert with_dropout > 0.9
    assert with_dropout > without


def test_hidden_fields_are_those_of_the_context() -> None:
    data = log()
    schema = log_schema(data, ("context",))
    tables = LogFields.of(data, schema, log_fields(schema, True), 5)
    examples = tables.of_events(data, np.arange(4), data.histories.items[:4])
    hidden = hide_context(examples, np.array([True, False, True, False]))
    np.testing.assert_array_equal(hidden.codes[:, :2], examples.codes[:, :2])
    assert (hidden.codes[[0, 2], 2] == MISSING).all()
    np.testing.assert_array_equal(hidden.codes[[1, 3]], examples.codes[[1, 3]])
    queries = Queries.anonymous(Events.of([[], []]))
    context = {"device": np.array([1, 1], np.int32), "heat": np.array([3.0, 4.0], np.float32)}
    found = hide_query_context(replace(queries, context=context), np.array([False, True])).context
    np.testing.assert_array_equal(found["device"], [1, -1])
    np.testing.assert_array_equal(found["heat"], [3, np.nan])


def test_the_ranker_learns_queries_without_context() -> None:
    config = {"retriever": "popular", "ranker": "deepfm", "inputs": ("context",), "retrieve_seen": True}
    networks: dict[str, Any] = {
        "deepfm": {
            "embedding_dim": 8,
            "hidden": (8,),
            "dropout": 0.0,
            "epochs": 6,
            "batch_size": 200,
            "learning_rate": 0.02,
        }
    }
    first, second = (
        train("ranker", {**config, "settings": networks, "context_dropout": rate}, Training(), log(), Run(0))
        for rate in (0.0, 0.5)
    )
    query = replace(Queries.anonymous(Events.of([[]])), context={"device": np.array([1], np.int32)})
    known = second.score(query)[0]
    assert known[8:16].mean() > known[:8].mean()
    assert not np.array_equal(first.score(query), second.score(query))
