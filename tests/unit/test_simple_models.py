"""``transitions`` and ``frequent`` equal their formulas, computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from segue.core.model import Model
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.testing import cycle, dataset, hit_rate, train_small

LOG = dataset(Events.of([[0, 1, 0, 1, 2], [1, 2], [], [2]]), 4)
POPULARITY = np.array([2 + 1, 3 + 1, 3 + 1, 0 + 1]) / 12
FOLLOWERS = np.array([[0, 2, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def fit(key: str, data: Dataset, **settings: Any) -> Any:
    kind: Any = model_class(key)
    model: Model = kind(kind.Config(**settings), data.schema)
    model.fit(data, Run(0), None)  # type: ignore[attr-defined]
    return model


def queries(*rows: list[int]) -> Queries:
    return Queries.anonymous(Events.of(rows))


@pytest.mark.parametrize("smoothing", [0.1, 1.0, 20.0])
def test_transitions_are_smoothed_frequencies(smoothing: float) -> None:
    found = np.exp(fit("transitions", LOG, smoothing=smoothing).score(queries([2, 0], [1], [2], [0, 3], [])))
    rows = [0, 1, 2, 3]
    counts = FOLLOWERS[rows]
    expected = (counts + smoothing * POPULARITY) / (counts.sum(axis=1, keepdims=True) + smoothing)
    np.testing.assert_allclose(found[:4], expected, rtol=1e-5)
    np.testing.assert_allclose(found[4], POPULARITY, rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)


def test_transitions_count_only_events_of_the_target_action() -> None:
    events = Events(np.array([0, 4]), np.array([0, 1, 0, 2]), actions=np.array([0, 0, 0, 1], np.uint8))
    shop = replace(dataset(events, 3), actions=("view", "buy"), target=1)
    scores = fit("transitions", shop, smoothing=1e-6).score(queries([0]))[0]
    np.testing.assert_allclose(np.exp(scores), [0, 0, 1], atol=1e-5)


def test_transitions_know_a_cycle() -> None:
    assert hit_rate(train_small("transitions", cycle().train), cycle()) > 0.95


def test_frequent_items_come_first_and_then_popular_ones() -> None:
    scores = fit("frequent", LOG).score(queries([3, 0, 3], [0], []))
    np.testing.assert_allclose(scores, np.array([[1, 0, 0, 2], [1, 0, 0, 0], [0, 0, 0, 0]]) + POPULARITY, rtol=1e-6)


def test_the_weight_of_an_event_halves_with_each_half_life() -> None:
    scores = fit("frequent", LOG, half_life=2.0, smoothing=1e-9).score(queries([3, 0, 1, 0, 2]))[0]
    np.testing.assert_allclose(scores, [2**-1.5 + 2**-0.5, 2**-1.0, 1.0, 2**-2.0], rtol=1e-6)


def test_frequent_counts_only_events_of_the_target_action() -> None:
    events = Events(np.array([0, 3]), np.array([0, 1, 1]), actions=np.array([0, 1, 1], np.uint8))
    shop = replace(dataset(events, 3), actions=("view", "buy"), target=1)
    history = Events(np.array([0, 3]), np.array([0, 0, 2]), actions=np.array([0, 0, 1], np.uint8))
    scores = fit("frequent", shop, smoothing=1e-9).score(Queries.anonymous(history))[0]
    np.testing.assert_allclose(scores, [0, 0, 1], atol=1e-6)
