"""The benchmark of ratings of new users and new items."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.meta_learning import QUADRANTS, USERS, measure, page, rating_metrics
from benchmarks.meta_learning_rows import (
    BASELINE,
    CONSTANT,
    FINE_TUNING,
    ROWS,
    Row,
    candidates,
    item_user_means,
    prepare_row,
)
from benchmarks.meta_learning_splits import (
    COLD_ITEMS,
    GROUPS,
    N_RATINGS,
    QUERY,
    QUERY_QUADRANT,
    split_quadrants,
    split_users,
)
from segue.core.config import parse
from segue.core.registry import model_class
from segue.core.types import Dataset, Events, Queries
from segue.testing import dataset
from segue.training.settings import Training


def rated_log(users: int = 60) -> Dataset:
    rng = np.random.default_rng(0)
    rows = Events.of([rng.permutation(120)[: rng.integers(5, 110)].tolist() for _ in range(users)])
    values = np.clip(1 + rows.items % 5 + rng.integers(-1, 2, rows.size), 1, 5).astype(np.float32)
    table = pl.DataFrame({"id": [f"u{code}" for code in range(users)], "side": ["left", "right"] * (users // 2)})
    return replace(dataset(replace(rows, values=values), 120), user_features=table.lazy())


def test_each_user_has_one_role_and_ten_ratings_to_rank() -> None:
    data = rated_log()
    parts = split_users(data, seed=1).parts
    training = np.flatnonzero(parts.train.histories.lengths)
    valid, test = parts.valid.queries.users, parts.test.queries.users
    lengths = data.histories.lengths
    suitable = np.flatnonzero((lengths >= N_RATINGS[0]) & (lengths <= N_RATINGS[1]))
    np.testing.assert_array_equal(np.sort(np.concatenate([training, valid, test])), suitable)
    assert len(valid) == len(test) == len(suitable) // 10
    for held_out in (parts.valid, parts.test):
        assert not held_out.queries.known.any()
        assert held_out.queries.profile is not None
        assert (held_out.targets.lengths == QUERY).all()
        for row, user in enumerate(held_out.queries.users):
            own = data.histories.take(np.array([user])).items
            history, targets = (
                part.take(np.array([row])).items for part in (held_out.queries.history, held_out.targets)
            )
            assert sorted([*history, *targets]) == sorted(own)
            assert held_out.queries.profile["side"][row] == ("left", "right")[user % 2]
    assert not np.array_equal(split_users(data, seed=2).parts.test.queries.users, test)


def test_cold_items_occur_in_no_history_and_warm_users_are_in_training() -> None:
    data = rated_log(200)
    found = split_quadrants(data, seed=1)
    train, valid = found.parts.train.histories, found.parts.valid
    targets = {group: found.groups[group].targets for group in GROUPS}
    cold = {int(code) for group in GROUPS if "cold items" in group for code in targets[group].items}
    assert 0 < len(cold) <= COLD_ITEMS * data.n_items
    for held_out in [valid, *found.groups.values()]:
        assert not cold & set(held_out.queries.history.items.tolist())
    assert not cold & {*train.items.tolist(), *valid.targets.items.tolist()}
    known = set(train.items.tolist())
    assert {int(code) for group in GROUPS if "warm items" in group for code in targets[group].items} <= known
    assert set(valid.targets.items.tolist()) - known, "validation has cold items of its own"
    for group in GROUPS:
        queries = found.groups[group].queries
        assert (targets[group].lengths == QUERY_QUADRANT).all()
        assert (queries.history.lengths >= QUERY_QUADRANT).all()
        assert queries.known.all() == group.startswith("warm")
        assert ((train.lengths[queries.users] > 0) == queries.known).all()
        for row, user in enumerate(queries.users.tolist()):
            history = queries.history.take(np.array([row])).items
            if queries.known[row]:
                np.testing.assert_array_equal(history, train.take(np.array([user])).items)
            held_out_items = {*targets[group].take(np.array([row])).items.tolist()}
            assert held_out_items <= {*data.histories.take(np.array([user])).items.tolist()} - {*history.tolist()}
    for users in ("warm users", "cold users"):
        first, second = (found.groups[group].queries.users for group in GROUPS if group.startswith(users))
        np.testing.assert_array_equal(first, second)


def test_metrics_have_known_values() -> None:
    ratings = np.array([[5, 1, 4, 1, 1, 1, 4, 1, 1, 1], [3] * 10, [4, 5] * 5], np.float32)
    scores = np.array([[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]] * 3, np.float32)
    precision, ndcg, mrr, mae = rating_metrics(5, False, scores, ratings, np.random.default_rng(0))
    assert precision.tolist() == [0.4, 0.0, 1.0]
    assert ndcg[0] == pytest.approx((1 + 0.5) / ndcg_ideal(3))
    assert ndcg[1:].tolist() == [0.0, pytest.approx(1.0)]
    assert mrr.tolist() == [1.0, 0.0, 1.0]
    np.testing.assert_allclose(mae, np.abs(scores - ratings).mean(axis=1))
    late = rating_metrics(5, False, scores[:1, ::-1], ratings[:1], np.random.default_rng(0))
    assert late[:3, 0].tolist() == [0.2, pytest.approx(1 / np.log2(5) / ndcg_ideal(3)), 0.25]
    ties = rating_metrics(5, False, np.zeros((4000, 10)), np.tile(ratings[0], (4000, 1)), np.random.default_rng(0))
    assert ties[0].mean() == pytest.approx(0.3, abs=0.01)
    graded = rating_metrics(3, True, np.array([[3.0, 2, 1]]), np.array([[2.0, 5, 1]]), np.random.default_rng(0))
    expected = (3 + 31 / np.log2(3) + 1 / 2) / (31 + 3 / np.log2(3) + 1 / 2)
    np.testing.assert_allclose(graded[:, 0], [expected, (1 + 3 + 0) / 3])


def ndcg_ideal(count: int) -> float:
    return float((1 / np.log2(np.arange(count) + 2)).sum())


def test_means_are_damped_and_cold_items_have_the_mean_of_all() -> None:
    train = replace(Events.of([[0, 0, 1]]), values=np.array([5, 5, 2], np.float32))
    history = replace(Events.of([[0]]), values=np.array([1], np.float32))
    scores = item_user_means(train, 2.0)(Queries.anonymous(history), np.array([[0, 1, 2]], np.int32))
    item = np.array([2 / 4, -2 / 3, 0.0])  # sums of deviations from 4, divided by count + 2
    np.testing.assert_allclose(scores[0], 4 + item + (1 - 4 - item[0]) / 3, rtol=1e-6)


def test_settings_are_chosen_on_the_validation_users(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = split_users(rated_log(120), 0).parts
    items, ratings = candidates(parts.valid)
    errors = {
        damping: np.square(item_user_means(parts.train.histories, damping)(parts.valid.queries, items) - ratings).mean()
        for damping in (0.5, 1e4)
    }
    best = min(errors, key=lambda damping: errors[damping])
    monkeypatch.setitem(ROWS, BASELINE, Row("means", grid={"damping": tuple(errors)}))
    assert prepare_row(BASELINE, parts, 0, True, {})[1] == {"damping": best}


def test_rows_are_compared_with_means_and_maml(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(ROWS[FINE_TUNING], grid={"inner_steps": (1,), "inner_learning_rate": (0.01, 0.1)})
    monkeypatch.setitem(ROWS, FINE_TUNING, small)
    names = [BASELINE, "random", CONSTANT, "no adaptation", FINE_TUNING, "maml"]
    data, found = rated_log(120), {"seeds": 2, "data": {"name": "a log", "hash": "abc"}}
    protocols = {
        USERS: measure(USERS, data, names, range(2), quick=True, log=lambda _: None),
        QUADRANTS: measure(QUADRANTS, data, names[:3] + names[-1:], range(1), quick=True, log=lambda _: None),
    }
    users = protocols[USERS]["groups"]["new users"]
    assert users["rows"][BASELINE]["P@5"]["mean"] > users["rows"]["random"]["P@5"]["mean"] + 0.1
    assert len(protocols[USERS]["rows"][FINE_TUNING]["chosen"]) == 2
    assert set(users["tests"]) == {BASELINE, "maml"}
    test = users["tests"][BASELINE]["P@5"]["random"]
    assert test["difference"] < 0
    assert test["p"] <= test["p_holm"]
    assert list(protocols[QUADRANTS]["groups"]) == list(GROUPS)
    text = page({**found, "protocols": protocols})
    assert "| maml | meta-learning |" in text
    assert "| TaNP, published | | 0.6036 | 0.6145 | 0.7993 |" in text
    assert "* P@5: `maml` " in text
    assert "### Cold users, cold items" in text
    assert f"| {CONSTANT} | the same rating for all |  |  |  | " in text, "its order is chance"
    assert f"| new users | P@5 | {CONSTANT} |" not in text
    assert f"| new users | MAE | {CONSTANT} |" in text
    assert "(end of the grid)" in text


def test_a_row_that_was_added_later_is_compared_without_a_test() -> None:
    protocols = {
        name: measure(name, rated_log(120), [BASELINE, CONSTANT, "maml"], range(1), quick=True, log=lambda _: None)
        for name in (USERS, QUADRANTS)
    }
    group = protocols[USERS]["groups"]["new users"]
    group["rows"][CONSTANT]["MAE"]["mean"] = 0.0
    for tests in group["tests"].values():
        del tests["MAE"][CONSTANT]
    found = {"seeds": 1, "data": {"name": "a log", "hash": "abc"}, "protocols": protocols, "added": ["the median"]}
    text = page(found)
    assert f"is above the best other row, {CONSTANT} (0.0000; not tested)" in text
    assert f"the best tested row, {BASELINE}" in text
    assert "Measured later, on the same queries, and not tested: the median." in text


def test_the_constant_is_the_median_of_the_training_ratings() -> None:
    parts = split_users(rated_log(120), 0).parts
    values = parts.train.histories.values
    assert values is not None
    scorer, chosen = prepare_row(CONSTANT, parts, 0, True, {})
    scores = scorer(parts.valid.queries, np.zeros((len(parts.valid), 3), np.int32))
    assert scores.shape == (len(parts.valid), 3)
    assert (scores == np.median(values)).all()
    assert chosen == {}


def test_settings_of_all_rows_are_valid() -> None:
    for row in ROWS.values():
        if row.model:
            kind: Any = model_class(row.model).Config
            own = {key: value for key, value in row.settings.items() if key in kind.model_fields}
            parse(kind, own, row.model)
            parse(Training, {key: value for key, value in row.settings.items() if key not in own}, "training")


def test_unsuitable_data_is_rejected() -> None:
    rows = Events.of([list(range(20)), [0]])
    few = dataset(replace(rows, values=np.ones(rows.size, np.float32)), 20)
    for split in (split_users, split_quadrants):
        with pytest.raises(ValueError, match="has no values, expected ratings"):
            split(dataset(Events.of([[0, 1]]), 2), 0)
        with pytest.raises(ValueError, match="1 users have 13 to 100 ratings, expected at least 10"):
            split(few, 0)
    short = Events.of([list(range(13))] * 20)
    with pytest.raises(ValueError, match="no user has 5 ratings of cold items, expected some"):
        split_quadrants(dataset(replace(short, values=np.ones(short.size, np.float32)), 500), 0)
