"""The benchmark of strategies for new users."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

import segue
from benchmarks import new_users as new_users_benchmark
from benchmarks.new_users import (
    CONTROL,
    FIRST,
    LEVELS,
    METRICS,
    SPLIT,
    STRATEGIES,
    WINDOWS,
    measure,
    new_users,
    page,
    windows,
)
from segue.core.config import parse
from segue.core.registry import model_class
from segue.core.types import Events, Queries
from segue.data import load
from segue.data.splits import SplitSettings, split

DATA = load("simulated?users=200&items=40&seed=1")


def test_new_users_have_the_same_targets_after_any_number_of_events() -> None:
    parts = split(DATA, SPLIT)
    found = new_users(parts)
    assert tuple(found) == LEVELS
    for count, held_out in found.items():
        assert (held_out.queries.history.lengths == count).all()
        assert not held_out.queries.known.any()
        np.testing.assert_array_equal(held_out.targets.items, found[0].targets.items)
        assert held_out.queries.profile is not None
    users = found[0].queries.users
    assert (parts.train.histories.lengths[users] == 0).all()
    row = DATA.histories.take(users[:1]).items  # the events are those of the log, in order
    np.testing.assert_array_equal(found[10].queries.history.items[:10], row[:10])
    np.testing.assert_array_equal(found[10].targets.take(np.array([0])).items[:1], row[FIRST : FIRST + 1])


def test_a_log_without_new_users_is_rejected() -> None:
    parts = split(DATA, SplitSettings(strategy="leave_one_out"))
    with pytest.raises(ValueError, match="no user who is new in the test part has more than 10 events"):
        new_users(parts)


def test_windows_are_those_of_the_training_part_and_do_not_overlap() -> None:
    train = split(DATA, SPLIT).train
    end, users = train.histories.size, set[int]()
    assert train.histories.times is not None
    for parts in windows(train):
        times = parts.train.histories.times
        assert times is not None
        assert times.max() <= parts.test.targets.times.min()
        assert parts.train.histories.size + parts.test.targets.size == end
        assert abs(parts.train.histories.size - 0.8 * end) <= 2
        end = parts.train.histories.size
        is_new = ~parts.test.queries.known
        own = set(parts.test.queries.users[is_new].tolist())
        assert not own & users
        users |= own


def test_the_strategy_is_chosen_without_the_test_part() -> None:
    """Whatever happens in the test part, the choice is the same."""
    found = measure(DATA, ["popular", "random"], range(1), quick=True, log=lambda _: None)
    means = {name: sum(table.values()) for name, table in found["validation"].items()}
    assert found["chosen"] == max(means, key=lambda name: means[name])
    assert 1 <= len(found["validation_users"]) <= WINDOWS
    histories = DATA.histories
    assert histories.times is not None
    is_late = histories.times > np.quantile(histories.times, 0.8)
    shuffled = replace(histories, items=np.where(is_late, (histories.items + 7) % DATA.n_items, histories.items))
    other = measure(DATA.with_histories(shuffled), ["popular", "random"], range(1), quick=True, log=lambda _: None)
    assert other["validation"] == found["validation"]
    assert other["rows"] != found["rows"]


def test_strategies_are_compared_with_popularity() -> None:
    names = ["popular", "random", "profile_model, region"]
    found = measure(DATA, names, range(2), quick=True, log=lambda _: None)
    assert list(found["rows"]) == names
    assert set(found["tests"]) == set(METRICS)
    test = found["tests"]["ndcg@10"]["random"]["0"]
    means = [found["rows"][name]["means"]["ndcg@10"]["0"] for name in ("random", "popular")]
    assert test["difference"] == pytest.approx(means[0] - means[1])
    assert test["p"] <= test["p_holm"]
    text = page(found)
    assert "Mean of 2 seeds" in text
    assert "| random | lower bound |" in text
    assert f"`{found['chosen']}` has the highest mean" in text


def test_the_chosen_strategy_is_compared_with_one_that_reads_no_events() -> None:
    rng = np.random.default_rng(0)
    base = rng.random((len(LEVELS), len(METRICS), 50))
    gains = np.array([0.0, 0.1, 0.2, 0.3, 0.4])[:, None, None]
    values = {"popular": base, CONTROL: base, "fold_in": base + gains}
    tests = new_users_benchmark._control_tests(values, "fold_in")
    assert set(tests) == set(METRICS)
    assert [tests["ndcg@10"][str(level)]["difference"] for level in LEVELS] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert all(test["p_holm"] >= test["p"] for test in tests["ndcg@10"].values())
    lines = new_users_benchmark._control_lines({"chosen": "fold_in", "control_tests": tests})
    assert "What `fold_in` gains by reading the events" in lines[1]
    assert "+0.4000" in lines[3]
    assert new_users_benchmark._control_tests(values, CONTROL) == {}
    assert new_users_benchmark._control_lines({"control_tests": {}}) == []


def test_the_control_gives_users_with_equal_profiles_and_lengths_the_same_scores() -> None:
    strategy = STRATEGIES[CONTROL]
    train = split(DATA, SPLIT).train
    settings = {key: value for key, value in strategy.settings.items() if key != "base_settings"}
    model = segue.train(strategy.model, train, baseline="none", **settings).model
    scores = model.score(Queries.anonymous(Events.of([[0, 1, 2], [7, 8, 9], [7]])))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)
    assert not np.allclose(scores[0], scores[2])


def test_settings_of_all_strategies_are_valid() -> None:
    for strategy in STRATEGIES.values():
        kind = model_class(strategy.model).Config
        own = {key: value for key, value in strategy.settings.items() if key in kind.model_fields}
        parse(kind, own, strategy.model)
