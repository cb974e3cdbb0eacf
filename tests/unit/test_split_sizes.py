"""Sizes of the parts of each strategy, and all counts in the metadata of small splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core.types import Dataset
from segue.data import SplitSettings, load, split
from segue.data.splits import folds, sliding_windows


def log(users: int = 20, n: int = 10, n_items: int = 10) -> Dataset:
    rows = [(u, (u + i) % n_items, 100 * i + u) for u in range(users) for i in range(n)]
    return load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))


@pytest.mark.parametrize(
    ("settings", "n_train", "n_valid", "n_test"),
    [
        ({"strategy": "leave_one_out"}, 160, 20, 20),
        ({"strategy": "leave_one_out", "valid": 0.0}, 180, 0, 20),
        ({"strategy": "leave_n_out", "n": 3}, 80, 60, 60),
        ({"strategy": "leave_n_out", "n": 3, "valid": 0.0}, 140, 0, 60),
        ({"strategy": "per_user_ratio", "test": 0.3, "valid": 0.2}, 100, 40, 60),
        ({"strategy": "per_user_random", "test": 0.3, "valid": 0.2}, 100, 40, 60),
        ({"strategy": "random", "test": 0.3, "valid": 0.15}, 110, 30, 60),
        ({"strategy": "k_fold", "folds": 4, "fold": 3, "valid": 0.15}, 120, 30, 50),
        ({"strategy": "user_k_fold", "folds": 4, "fold": 2, "valid": 0.15, "history": 0.7}, 120, 9, 15),
        ({"strategy": "held_out_users", "test": 0.3, "valid": 0.15, "history": 0.7}, 110, 9, 18),
        ({"strategy": "cold_users", "test": 0.3, "valid": 0.15}, 110, 30, 60),
        ({"strategy": "cold_items", "test": 0.3, "valid": 0.2}, 100, 40, 60),
        ({"strategy": "global_temporal", "test": 0.3, "valid": 0.15}, 110, 30, 60),
    ],
    ids=lambda value: value["strategy"] if isinstance(value, dict) else str(value),
)
def test_sizes(settings: dict[str, Any], n_train: int, n_valid: int, n_test: int) -> None:
    result = split(log(), SplitSettings(**settings))
    assert (result.train.histories.size, result.valid.targets.size, result.test.targets.size) == (
        n_train,
        n_valid,
        n_test,
    )
    assert result.metadata["train_events"] == n_train
    n_history = {"user_k_fold": 56, "held_out_users": 63}.get(settings["strategy"], 0)
    assert result.metadata["unused_events"] == 200 - n_train - n_valid - n_test == n_history


@pytest.mark.parametrize("strategy", ["cold_users", "held_out_users", "user_k_fold", "cold_items"])
def test_validation_and_test_hold_out_different_users_or_items(strategy: str) -> None:
    more: dict[str, Any] = {"folds": 4} if strategy == "user_k_fold" else {"test": 0.3}
    result = split(log(), SplitSettings(strategy=strategy, valid=0.1, **more))  # type: ignore[arg-type]
    noun = "items" if strategy == "cold_items" else "users"
    sizes = {"cold_users": (2, 6), "held_out_users": (2, 6), "user_k_fold": (2, 5), "cold_items": (1, 3)}[strategy]
    assert result.metadata[f"held_out_{noun}"] == {"valid": sizes[0], "test": sizes[1]}
    valid, test = (
        set(np.unique(part.targets.items if noun == "items" else part.queries.users))
        for part in (result.valid, result.test)
    )
    assert (len(valid), len(test)) == sizes
    assert not valid & test


@pytest.mark.parametrize(
    "strategy", ["random", "k_fold", "user_k_fold", "per_user_random", "held_out_users", "cold_users"]
)
def test_the_seed_changes_the_draw_of_both_parts(strategy: str) -> None:
    first, second = (split(log(), SplitSettings(strategy=strategy, seed=seed, valid=0.2)) for seed in (0, 1))  # type: ignore[arg-type]
    for part in ("valid", "test"):
        before, after = getattr(first, part), getattr(second, part)
        pairs = [set(zip(p.queries.users[p.targets.rows], p.targets.items, strict=True)) for p in (before, after)]
        assert pairs[0] != pairs[1]


def test_users_with_two_events_are_held_out_and_users_with_one_are_not() -> None:
    rows = [(u, i, 10 * u + i) for u in range(10) for i in range(1 if u < 5 else 2)]
    data = load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    for history in (0.01, 0.5, 0.99):
        for settings in (
            SplitSettings(strategy="held_out_users", test=0.4, valid=0.2, history=history),
            SplitSettings(strategy="user_k_fold", folds=2, fold=1, valid=0.2, history=history),
        ):
            result = split(data, settings)
            assert result.test.queries.users.min() >= 5
            assert set(result.test.targets.lengths) == {1}
            assert set(result.test.queries.history.lengths) == {1}
            assert len(result.test) == 2
            assert len(result.valid) == 1


def test_all_counts_of_a_small_temporal_split() -> None:
    rows = [
        ("a", "x", 1), ("a", "y", 2), ("a", "x", 6), ("a", "w", 7), ("a", "w", 8),
        ("b", "x", 2), ("b", "y", 6), ("c", "z", 7), ("d", "y", 4), ("d", "y", 9), ("e", "x", 20),
    ]  # fmt: skip
    data = load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    settings = SplitSettings(strategy="global_temporal", cutoff=6, valid_cutoff=4, end=15, use_query_time=True)
    result = split(data, settings)
    assert result.metadata == {
        "strategy": "global_temporal",
        "settings": settings.model_dump(mode="json"),
        "is_ordered": True,
        "has_query_times": True,
        "train_users": 2,
        "train_events": 3,
        "unused_events": 1,
        "valid_from": 4,
        "test_from": 6,
        "end": 15,
        "warnings": [],
        "valid": {
            "queries": 1,
            "targets": 1,
            "repeated_targets": 0,
            "cold_users": 1,
            "cold_items": 0,
            "cold_item_targets": 0,
            "targets_in_history": 0.0,
            "empty_histories": 1,
        },
        "test": {
            "queries": 4,
            "targets": 5,
            "repeated_targets": 1,
            "cold_users": 2,
            "cold_items": 2,
            "cold_item_targets": 2,
            "targets_in_history": 2 / 5,
            "empty_histories": 1,
        },
    }
    assert result.test.queries.times is not None
    assert result.test.queries.times.tolist() == [6, 6, 7, 9]
    assert result.test.queries.known.tolist() == [True, True, False, False]
    unordered = split(data, SplitSettings(strategy="random"))
    assert unordered.metadata["is_ordered"] is False
    assert unordered.metadata["has_query_times"] is False


def test_train_only_users_have_events() -> None:
    rows = [("a", "x", 1), ("a", "y", 2), ("b", "x", 1), ("b", "y", 2), ("b", "z", 3)]
    data = load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    assert split(data).metadata["train_only_users"] == 1
    nobody = data.with_histories(data.histories.where(data.histories.rows == 1))
    assert split(nobody).metadata["train_only_users"] == 0


def test_a_temporal_cut_without_room_for_validation() -> None:
    data = log(users=2, n=5)
    for valid, expected in ((0.0, (4, 0, 6)), (0.2, (2, 2, 6)), (0.39, (4, 0, 6)), (0.6, (4, 0, 6))):
        result = split(data, SplitSettings(strategy="global_temporal", cutoff=200, valid=valid))
        assert (result.train.histories.size, result.valid.targets.size, result.test.targets.size) == expected
        assert result.metadata["test_from"] == 200
        assert result.metadata["valid_from"] == (100 if expected[1] else 200)
    with pytest.raises(
        ValueError, match=r"split\.end: got 150, expected a time after the test cutoff 1970-01-01T00:03:20"
    ):
        split(data, SplitSettings(strategy="global_temporal", cutoff=200, valid_cutoff=100, end=150))
    at_end = split(data, SplitSettings(strategy="global_temporal", cutoff=200, valid_cutoff=200, end=200))
    assert (len(at_end.valid), len(at_end.test), at_end.metadata["unused_events"]) == (0, 0, 6)


def test_the_test_part_is_identified_by_data_and_settings() -> None:
    def test_id(data: Dataset, **settings: Any) -> str | None:
        return split(data, SplitSettings(**settings)).test.test_id

    assert test_id(log()) == test_id(log())
    assert test_id(log()) != test_id(log(n=9))
    assert test_id(log(), strategy="random", seed=1) != test_id(log(), strategy="random", seed=2)
    assert split(log()).valid.test_id is None


def test_a_predefined_split_uses_the_roles_that_come_with_the_data(tmp_path: Path) -> None:
    """Role 0 is unused, 1 training, 2 test; a share of the training events, in their unit of all events, validates."""
    data = log(users=4, n=10)
    role = np.tile(np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 2], np.uint8), 4)
    np.save(tmp_path / "split-own.npy", role)
    data = replace(data, header={**data.header, "folder": str(tmp_path), "predefined_splits": ["own"]})
    settings = SplitSettings(strategy="predefined", name="own", test=0.2, valid=0.1)
    result = split(data, settings)
    assert result.metadata["name"] == "own"
    assert (result.train.histories.size, result.valid.targets.size, result.test.targets.size) == (28, 4, 4)
    assert result.metadata["unused_events"] == 4
    assert result.metadata["is_ordered"] is False
    assert result.test.targets.times is not None
    assert result.test.targets.times.tolist() == [900, 901, 902, 903]
    assert set(result.test.queries.history.lengths) == {8}
    every = [split(data, settings.model_copy(update={"seed": seed})).valid.targets.times for seed in (0, 1)]
    assert not np.array_equal(*every)
    nothing = split(data, settings.model_copy(update={"valid": 0.0}))
    assert (nothing.train.histories.size, len(nothing.valid)) == (32, 0)
    with pytest.raises(ValueError, match="unknown predefined split 'other'; table has own"):
        split(data, settings.model_copy(update={"name": "other"}))
    with pytest.raises(ValueError, match="missing, expected a predefined split of table: own"):
        split(data, settings.model_copy(update={"name": None}))


def test_folds_and_windows_have_their_defaults_and_limits() -> None:
    assert [fold.test.targets.size for fold in folds(log())] == [40] * 5
    assert {fold.valid.targets.size for fold in folds(log(), valid=0.2)} == {40}
    windows = list(sliding_windows(log(), test=100))
    assert [window.metadata["window"] for window in windows] == [0, 1, 2]
    assert [window.valid.targets.size for window in windows] == [0, 0, 0]
    with pytest.raises(ValueError, match="count: got 0, expected at least 1"):
        sliding_windows(log(), test=100, count=0)
    assert len(list(sliding_windows(log(), test=100, count=1))) == 1
    log_seconds = 919
    assert len(list(sliding_windows(log(), test=log_seconds, count=1))) == 1
    with pytest.raises(
        ValueError, match="1 test windows of 920 s and validation of 0 s leave nothing to train on in a log of 920 s"
    ):
        sliding_windows(log(), test=log_seconds + 1, count=1)


def test_targets_are_events_of_the_target_action() -> None:
    """Views between two purchases belong to the history of the later one only; events after the last one are unused."""
    rows = [("a", item, at, kind) for at, (item, kind) in enumerate(zip("xyzuvw", "bvbvbv", strict=True))]
    rows += [("b", item, at, kind) for at, (item, kind) in enumerate(zip("xyz", "vvb", strict=True))]
    names = {"b": "buy", "v": "view"}
    table = pl.DataFrame(
        [(user, item, at, names[kind]) for user, item, at, kind in rows],
        schema=["user_id", "item_id", "timestamp", "action"],
        orient="row",
    )
    every = load(table)
    bought = replace(every, target=every.actions.index("buy"))
    items = every.items.decode
    for data, valid, test, n_train in ((every, ["v", "y"], ["w", "z"], 5), (bought, ["z"], ["v"], 5)):
        result = split(data)
        assert list(items(result.valid.targets.items)) == valid
        assert list(items(result.test.targets.items)) == test
        assert result.train.histories.size == n_train
    assert list(items(split(bought).test.queries.history.items)) == ["x", "y", "z", "u"]
    assert split(bought).metadata["unused_events"] == 2
    ratio = split(bought, SplitSettings(strategy="random", test=0.5, valid=0.0))
    assert ratio.test.targets.size == 2


def test_windows_need_times() -> None:
    data = load(pl.DataFrame({"user_id": ["a", "a"], "item_id": ["x", "y"]}))
    with pytest.raises(ValueError, match="sliding_windows: table has no times"):
        sliding_windows(data, test=1)
    empty = log().with_histories(log().histories.where(np.zeros(200, np.bool_)))
    with pytest.raises(ValueError, match="sliding_windows: table has no times"):
        sliding_windows(empty, test=1)


def test_counts_of_empty_parts_are_zero() -> None:
    result = split(log(), SplitSettings(strategy="none"))
    zero = dict.fromkeys(result.metadata["test"], 0)
    assert result.metadata["valid"] == result.metadata["test"] == zero
    assert result.metadata["unused_events"] == 0


@pytest.mark.parametrize("strategy", ["leave_one_out", "leave_n_out"])
def test_the_last_user_may_have_no_target(strategy: str) -> None:
    rows = [
        ("a", "x", 1, "buy"),
        ("a", "y", 2, "buy"),
        ("a", "z", 3, "buy"),
        ("b", "x", 1, "view"),
        ("b", "y", 2, "view"),
    ]
    data = load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "action"], orient="row"))
    result = split(replace(data, target=data.actions.index("buy")), SplitSettings(strategy=strategy))  # type: ignore[arg-type]
    assert (result.train.histories.size, result.valid.targets.size, result.test.targets.size) == (3, 1, 1)
    assert result.metadata["train_only_users"] == 1


def test_validation_windows_have_to_fit_into_the_log() -> None:
    assert len(list(sliding_windows(log(), test=100, count=8, valid=118))) == 8
    with pytest.raises(
        ValueError, match="8 test windows of 100 s and validation of 120 s leave nothing to train on in a log of 920 s"
    ):
        sliding_windows(log(), test=100, count=8, valid=120)


def test_the_share_of_validation_before_a_given_cutoff() -> None:
    rows = [(f"u{i}", f"i{i % 3}", 10 + i) for i in range(20)]
    data = load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))
    result = split(data, SplitSettings(strategy="global_temporal", cutoff=26, valid=0.2))
    assert (result.metadata["valid_from"], result.metadata["test_from"]) == (22, 26)
    sizes = (result.train.histories.size, result.valid.targets.size, result.test.targets.size)
    assert sizes == (12, 4, 4)
