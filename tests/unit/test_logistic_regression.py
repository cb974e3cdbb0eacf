"""Logistic regression on ids, features and matches with the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.sparse import csr_array

from segue.core.model import explain_features
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.models.ctr.logistic_regression import LogisticRegression
from segue.solvers.logistic.history_matches import match_earlier_events, profiles
from segue.solvers.logistic.newton import LogisticLoss
from segue.testing import dataset
from segue.training.settings import Training
from segue.training.train import train


def fit(data: Dataset, **values: Any) -> Any:
    return train("logistic_regression", LogisticRegression.Config(**values), Training(), data, Run(0))


def rated(rows: Sequence[Sequence[int]], values: Sequence[float], n_items: int, **features: Any) -> Dataset:
    data = dataset(replace(Events.of(rows), values=np.array(values, np.float32)), n_items)
    tables: dict[str, Any] = {
        name: pl.DataFrame({"id": getattr(data, name.split("_")[0] + "s").ids.to_list(), "kind": kinds}).lazy()
        for name, kinds in features.items()
    }
    return replace(data, **tables)


def history(rows: Sequence[Sequence[int]], values: Sequence[float]) -> Events:
    return replace(Events.of(rows), values=np.array(values, np.float32))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.5, 20))
def test_matches_are_those_of_the_profiles_of_earlier_events(seed: int, shrinkage: float) -> None:
    rng = np.random.default_rng(seed)
    events = Events.of([rng.integers(5, size=n).tolist() for n in rng.integers(0, 6, size=4)])
    weights = rng.integers(-1, 2, size=events.size).astype(np.float32)
    features = (rng.normal(size=(5, 3)) * rng.integers(2, size=(5, 3))).astype(np.float32)
    matches, rates = match_earlier_events(events, weights, csr_array(features), shrinkage)
    for event, row in enumerate(events.rows):
        earlier = slice(events.offsets[row], event)
        before = Events.of([events.items[earlier].tolist()])
        profile, rate = profiles(before, weights[earlier], csr_array(features), shrinkage)
        np.testing.assert_allclose(
            matches.toarray()[event], features[events.items[event]] * profile.toarray()[0], atol=1e-6
        )
        assert rates[event] == pytest.approx(rate[0])
        expected = weights[earlier] @ features[events.items[earlier]] / ((weights[earlier] != 0).sum() + shrinkage)
        np.testing.assert_allclose(profile.toarray()[0], expected, atol=1e-6)


def test_newton_finds_the_minimum_that_scipy_finds() -> None:
    rng = np.random.default_rng(0)
    design = rng.normal(size=(60, 7))
    loss = LogisticLoss(csr_array(design), rng.random(60) < 0.6, rng.uniform(0.1, 3, size=7))
    weights = np.zeros(7)
    losses = [loss(weights)]
    for _ in range(8):
        weights = loss.step(weights)
        losses.append(loss(weights))
    assert all(after <= before for before, after in pairwise(losses))
    np.testing.assert_allclose(weights, minimize(loss, np.zeros(7), tol=1e-10).x, atol=1e-3)


def test_predictions_are_probabilities_of_labels() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.permutation(20)[:12].tolist() for _ in range(50)]
    items = np.concatenate(rows)
    values = (rng.random(items.size) < np.where(items % 2 == 0, 0.9, 0.2)).astype(float)
    model = fit(rated(rows, values.tolist(), 20), inputs=(), l2_item=0.1)
    pairs = np.tile(np.arange(20, dtype=np.int32), 50), np.repeat(np.arange(50, dtype=np.int32), 20)
    found = model.predict(pairs[1], pairs[0]).reshape(50, 20).mean(axis=0)
    np.testing.assert_allclose(found, [0.9, 0.2] * 10, atol=0.15)
    assert model.predict(np.repeat(np.arange(50), 12).astype(np.int32), items).mean() == pytest.approx(
        values.mean(), abs=0.01
    )


def test_a_new_user_is_predicted_from_the_kinds_that_they_liked() -> None:
    rng = np.random.default_rng(1)
    rows = [rng.permutation(30)[:20].tolist() for _ in range(60)]
    likes = [[float(item % 2 == user % 2) for item in row] for user, row in enumerate(rows)]
    kinds = ["even", "odd"] * 15
    data = rated(rows, [value for row in likes for value in row], 30, item_features=kinds)
    both = history([[0, 2, 4, 6], [1, 3, 5, 7], []], [1] * 8)
    scores = fit(data).score(Queries.anonymous(both))
    assert scores[0, 10:30:2].min() > 0.7 > 0.3 > scores[0, 11:30:2].max()
    assert scores[1, 11:30:2].min() > 0.7 > 0.3 > scores[1, 10:30:2].max()
    assert np.ptp(scores[2]) < 0.3
    without = fit(data, inputs=("item_features",)).score(Queries.anonymous(both))
    np.testing.assert_array_equal(without[0], without[1])


def test_contributions_of_features_sum_to_the_log_odds() -> None:
    rng = np.random.default_rng(1)
    rows = [rng.permutation(30)[:20].tolist() for _ in range(60)]
    likes = [[float(item % 2 == user % 2) for item in row] for user, row in enumerate(rows)]
    data = rated(rows, [value for row in likes for value in row], 30, item_features=["even", "odd"] * 15)
    model, queries = fit(data), Queries.anonymous(history([[0, 2, 4, 6]], [1] * 4))
    scores = model.score(queries)[0].astype(np.float64)
    for item, is_match in ((10, True), (11, False)):
        name, terms = explain_features(model, queries, item)
        assert name == "log-odds"
        assert sum(terms.values()) == pytest.approx(np.log(scores[item] / (1 - scores[item])), abs=1e-3)
        assert (terms.get("match of kind", 0.0) > 1) == is_match
    without = fit(data, inputs=("item_features",))
    assert list(explain_features(without, queries, 10)[1]) == ["item"]


def test_dislikes_count_where_all_events_of_the_history_do() -> None:
    rng = np.random.default_rng(2)
    rows = [rng.permutation(30)[:20].tolist() for _ in range(60)]
    likes = [[float(item % 2 == user % 2) for item in row] for user, row in enumerate(rows)]
    data = rated(rows, [value for row in likes for value in row], 30, item_features=["even", "odd"] * 15)
    disliked = Queries.anonymous(history([[0, 2, 4, 6], []], [0] * 4))
    positive, every = fit(data).score(disliked), fit(data, history="all").score(disliked)
    np.testing.assert_array_equal(positive[0], positive[1])
    assert every[0, 1::2].min() > every[0, 10::2].max()
    glad = [float(user % 2) for user in range(60) for _ in range(20)]
    means = fit(rated(rows, glad, 30), history="all", inputs=("history",)).score(disliked).mean(axis=1)
    assert means[0] < 0.2 < means[1]


def test_new_items_have_the_scores_of_their_features() -> None:
    rng = np.random.default_rng(3)
    rows = [rng.permutation(20)[:10].tolist() for _ in range(40)]  # items 20 and 21 have no event
    values = [float(item % 2 == 0) for row in rows for item in row]
    model = fit(rated(rows, values, 22, item_features=["even", "odd"] * 11), inputs=("item_features",))
    scores = model.score(Queries.anonymous(Events.of([[]])))[0]
    assert scores[20] > 0.7 > 0.3 > scores[21]
    assert model.schema.n_unscored == 0


def test_profiles_of_users_are_read() -> None:
    rng = np.random.default_rng(4)
    rows = [rng.permutation(20)[:10].tolist() for _ in range(40)]
    values = [float(user % 2 == 0) for user in range(40) for _ in range(10)]
    model = fit(rated(rows, values, 20, user_features=["glad", "sad"] * 20))
    nobody = Queries.anonymous(Events.of([[], [], []]), pl.DataFrame({"kind": ["glad", "sad", None]}))
    glad, sad, unknown = model.score(nobody).mean(axis=1)
    assert glad > 0.7 > unknown > 0.3 > sad


def test_ratings_above_the_middle_or_the_threshold_are_positive() -> None:
    rows, values = [[0, 1, 2, 3, 4]] * 30, [1.0, 2, 3, 4, 5] * 30
    data = rated(rows, values, 5)
    scores = fit(data, inputs=(), l2_item=0.01).score(Queries.anonymous(Events.of([[]])))[0]
    np.testing.assert_allclose(scores, [2, 2, 2, 4.5, 4.5], atol=0.3)  # the means of negative and positive ratings
    scores = fit(data, inputs=(), l2_item=0.01, threshold=4).score(Queries.anonymous(Events.of([[]])))[0]
    np.testing.assert_allclose(scores, [2.5, 2.5, 2.5, 2.5, 5], atol=0.3)


def test_a_known_user_without_a_history_has_that_of_training() -> None:
    rng = np.random.default_rng(5)
    rows = [rng.permutation(12)[:8].tolist() for _ in range(10)]
    values = rng.integers(2, size=80).astype(float).tolist()
    data = rated(rows, values, 12, item_features=["a", "b", "c"] * 4)
    for kind in ("positive", "all"):
        model = fit(data, history=kind)
        users = np.arange(10, dtype=np.int32)
        expected = model.score(Queries.of_users(users, data.histories))
        empty = Queries.of_users(users, Events.of([[]] * 10))
        np.testing.assert_allclose(model.score(empty), expected, rtol=1e-5)
        mixed = Queries.of_users(users, history([[], rows[1], *[[]] * 8], values[8:16]))
        np.testing.assert_allclose(model.score(mixed), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["positive", "all"])
def test_events_of_queries_without_values_are_positive(kind: str) -> None:
    rng = np.random.default_rng(6)
    rows = [rng.permutation(12)[:8].tolist() for _ in range(10)]
    values = rng.integers(1, 6, size=80).astype(float).tolist()
    model = fit(rated(rows, values, 12, item_features=["a", "b", "c"] * 4), history=kind)
    lists = [[0, 3, 6], [1]]
    expected, *others = (
        model.score(Queries.anonymous(events))
        for events in (Events.of(lists), history(lists, [np.nan] * 4), history(lists, [5.0] * 4))
    )
    for scores in others:
        np.testing.assert_array_equal(scores, expected)
    assert not np.array_equal(expected, model.score(Queries.anonymous(Events.of([[], []]))))
    mixed = model.score(Queries.anonymous(history(lists, [np.nan, 1.0, 5.0, np.nan])))
    np.testing.assert_array_equal(mixed, model.score(Queries.anonymous(history(lists, [5.0, 1.0, 5.0, 5.0]))))


@pytest.mark.parametrize(("threshold", "kind"), [(0.5, "positive"), (5, "negative"), (7, "negative")])
def test_a_threshold_that_leaves_one_class_is_an_error(threshold: float, kind: str) -> None:
    data = rated([[0, 1, 2, 3, 4]] * 3, [1.0, 2, 3, 4, 5] * 3, 5)
    with pytest.raises(ValueError, match=rf"threshold: got {threshold:g}, .* all events are {kind}; .* from 1 to 5"):
        fit(data, threshold=threshold)


def test_settings_that_nothing_uses_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"shrinkage: got 3.0, which only the input history uses"):
        LogisticRegression.Config(inputs=("popularity",), shrinkage=3)
    with pytest.raises(ValueError, match=r"l2_features: got 3.0, which only features or popularity as inputs use"):
        LogisticRegression.Config(inputs=(), l2_features=3)
