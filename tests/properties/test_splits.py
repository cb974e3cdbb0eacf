"""Splits of random logs are disjoint, complete, reproducible and without leakage; ``values`` number the events."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from segue.core.types import Dataset, HeldOut, Split
from segue.data import SplitSettings, load, split
from segue.data.split_settings import STRATEGY_SETTINGS
from segue.data.splits import folds, sliding_windows
from segue.evaluation.leakage import check_leakage

HELD_OUT_USERS = ("held_out_users", "user_k_fold", "cold_users")
ORDERED = ("leave_one_out", "leave_n_out", "global_temporal", "per_user_ratio", *HELD_OUT_USERS)
STRATEGIES = (*ORDERED, "random", "per_user_random", "k_fold", "cold_items")


@st.composite
def logs(draw: st.DrawFn, actions: bool = False) -> Dataset:
    """Draw a log of up to 8 users, 6 items and 60 events with many equal times and repeated items."""
    cells = st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(1, 9), st.sampled_from(["buy", "view"]))
    rows = draw(st.lists(cells, min_size=12, max_size=60))
    rows += [(8, i % 6, i, "buy") for i in range(4)]  # both actions occur, and events at time 0 are left for training
    rows.append((8, 0, 4, "view"))
    users, items, times, kinds = zip(*rows, strict=True)
    table: dict[str, Any] = {"user_id": users, "item_id": items, "timestamp": times, "rating": range(len(rows))}
    if actions:
        return load(pl.DataFrame(table | {"action": kinds}), target="buy")
    return load(pl.DataFrame(table))


@st.composite
def split_settings(draw: st.DrawFn, strategies: tuple[str, ...]) -> SplitSettings:
    strategy = draw(st.sampled_from(strategies))
    choices: dict[str, Any] = {
        "n": st.integers(1, 3),
        "test": st.sampled_from([0.1, 0.2, 0.4]),
        "valid": st.sampled_from([0.0, 0.1, 0.3]),
        "seed": st.integers(0, 3),
        "folds": st.just(3),
        "fold": st.integers(0, 2),
    }
    return SplitSettings(
        strategy=strategy,  # type: ignore[arg-type]
        drop_cold_targets=draw(st.booleans()),
        drop_seen_targets=draw(st.booleans()),
        **{name: draw(values) for name, values in choices.items() if name in STRATEGY_SETTINGS[strategy]},
    )


def numbers(rows: Any, row: int | None = None) -> list[int]:
    part = rows.values if row is None else rows.values[rows.offsets[row] : rows.offsets[row + 1]]
    return [int(value) for value in part]


def items(rows: Any, row: int) -> list[int]:
    return [int(item) for item in rows.items[rows.offsets[row] : rows.offsets[row + 1]]]


def not_targets(result: Split) -> int:
    """Count held-out events that are not targets: repeated items of a query, and dropped targets."""
    counts = ("repeated_targets", "cold_targets_dropped", "seen_targets_dropped")
    return sum(result.metadata[part].get(name, 0) for part in ("valid", "test") for name in counts)


def same(a: HeldOut, b: HeldOut) -> bool:
    return all(
        np.array_equal(x, y)
        for left, right in ((a.queries.history, b.queries.history), (a.targets, b.targets))
        for x, y in zip(
            (left.offsets, *left.columns().values()), (right.offsets, *right.columns().values()), strict=True
        )
    ) and np.array_equal(a.queries.users, b.queries.users)


@pytest.mark.parametrize("actions", [False, True])
@given(data=st.data())
def test_train_valid_and_test_are_disjoint_and_complete(data: st.DataObject, actions: bool) -> None:
    dataset = data.draw(logs(actions))
    result = split(dataset, data.draw(split_settings(STRATEGIES)))
    sets = [numbers(result.train.histories), numbers(result.valid.targets), numbers(result.test.targets)]
    every = [number for part in sets for number in part]
    assert len(every) == len(set(every))
    assert len(every) + not_targets(result) + result.metadata["unused_events"] == dataset.histories.size


@pytest.mark.parametrize("actions", [False, True])
@given(data=st.data())
def test_histories_exclude_targets_and_later_events(data: st.DataObject, actions: bool) -> None:
    dataset = data.draw(logs(actions))
    settings = data.draw(split_settings(STRATEGIES))
    result = split(dataset, settings)
    position = {number: row for row, number in enumerate(numbers(dataset.histories))}
    train = set(numbers(result.train.histories))
    for name, held in (("valid", result.valid), ("test", result.test)):
        for row, user in enumerate(held.queries.users):
            history, targets = numbers(held.queries.history, row), numbers(held.targets, row)
            assert targets
            assert not set(history) & set(targets)
            own = set(numbers(dataset.histories, int(user)))
            assert {*history, *targets} <= own
            assert len(set(items(held.targets, row))) == len(targets)
            if settings.strategy in ORDERED:
                assert all(position[a] < position[b] for a in history for b in targets)
            if settings.strategy in HELD_OUT_USERS:
                assert not own & train
                assert not held.queries.known[row]
            elif name == "valid":
                assert set(history) == own & train
            else:
                assert own & train <= set(history)
            assert held.queries.known[row] == bool(own & train)


@pytest.mark.parametrize("actions", [False, True])
@given(data=st.data())
def test_sessions_are_predicted_event_by_event(data: st.DataObject, actions: bool) -> None:
    dataset = data.draw(logs(actions))
    settings = data.draw(split_settings(("sessions",)))
    result = split(dataset, settings)
    events = dataset.histories
    assert events.times is not None
    ends = [int(events.times[stop - 1]) for stop in events.offsets[1:]]
    train = set(numbers(result.train.histories))
    for part, held in (("valid", result.valid), ("test", result.test)):
        counts = result.metadata[part]
        seen_dropped, cold_dropped = counts.get("seen_targets_dropped", 0), counts.get("cold_targets_dropped", 0)
        expected = 0
        for user in np.unique(held.queries.users).tolist():
            own = numbers(events, user)
            assert not set(own) & train
            assert ends[user] >= result.metadata[f"{part}_from"]
            rows = np.flatnonzero(held.queries.users == user)
            for row in rows.tolist():
                (target,) = numbers(held.targets, row)
                assert numbers(held.queries.history, row) == own[: own.index(target)] != []
            expected += len(rows)
        assert len(held) == held.targets.size == expected == counts["queries"]
        if not (settings.drop_seen_targets or settings.drop_cold_targets):
            assert seen_dropped == cold_dropped == 0
        if settings.drop_seen_targets:
            assert counts["targets_in_history"] == 0
        assert not settings.drop_cold_targets or not len(held), "no session is known"
    assert all(
        ends[user] < result.metadata["valid_from"] for user in np.flatnonzero(result.train.histories.lengths).tolist()
    )
    assert not check_leakage(result)


@given(data=st.data())
def test_targets_are_of_the_target_action(data: st.DataObject) -> None:
    dataset = data.draw(logs(actions=True))
    result = split(dataset, data.draw(split_settings(STRATEGIES)))
    assert dataset.target == dataset.actions.index("buy")
    for held in (result.valid, result.test):
        assert held.targets.actions is not None
        assert (held.targets.actions == dataset.target).all()


@given(data=st.data())
def test_training_precedes_the_targets_of_a_temporal_split(data: st.DataObject) -> None:
    dataset = data.draw(logs())
    result = split(dataset, data.draw(split_settings(("global_temporal",))))
    first = {name: getattr(result, name).targets.times for name in ("valid", "test")}
    for times in first.values():
        assert not len(times) or result.train.histories.times.max() < times.min()
    if len(first["valid"]) and len(first["test"]):
        assert first["valid"].max() < first["test"].min()


@given(data=st.data())
def test_splits_are_reproducible(data: st.DataObject) -> None:
    dataset = data.draw(logs())
    settings = data.draw(split_settings(STRATEGIES))
    first, second = split(dataset, settings), split(dataset, settings)
    assert np.array_equal(first.train.histories.values, second.train.histories.values)
    assert same(first.valid, second.valid)
    assert same(first.test, second.test)
    assert first.metadata == second.metadata


@given(dataset=logs())
def test_leave_one_out_holds_out_the_last_two_events(dataset: Dataset) -> None:
    result = split(dataset)
    for user in range(dataset.n_users):
        row = numbers(dataset.histories, user)
        queries = np.flatnonzero(result.test.queries.users == user)
        if len(row) < 3:
            assert not len(queries)
            assert numbers(result.train.histories, user) == row
        else:
            assert numbers(result.train.histories, user) == row[:-2]
            assert numbers(result.valid.queries.history, int(queries[0])) == row[:-2]
            assert numbers(result.valid.targets, int(queries[0])) == [row[-2]]
            assert numbers(result.test.queries.history, int(queries[0])) == row[:-1]
            assert numbers(result.test.targets, int(queries[0])) == [row[-1]]
    assert result.metadata["train_only_users"] == int((dataset.histories.lengths < 3).sum())


@given(dataset=logs())
def test_leave_one_out_without_validation_holds_out_the_last_event(dataset: Dataset) -> None:
    result = split(dataset, SplitSettings(valid=0.0))
    assert not len(result.valid)
    for user in range(dataset.n_users):
        row = numbers(dataset.histories, user)
        queries = np.flatnonzero(result.test.queries.users == user)
        if len(row) < 2:
            assert not len(queries)
            assert numbers(result.train.histories, user) == row
        else:
            assert (
                numbers(result.train.histories, user)
                == numbers(result.test.queries.history, int(queries[0]))
                == row[:-1]
            )
            assert numbers(result.test.targets, int(queries[0])) == [row[-1]]


@given(dataset=logs(actions=True))
def test_leave_one_out_with_a_target_action_keeps_other_actions_as_input(dataset: Dataset) -> None:
    result = split(dataset)
    for user in range(dataset.n_users):
        row = numbers(dataset.histories, user)
        start = int(dataset.histories.offsets[user])
        target_positions = [p for p in range(len(row)) if dataset.histories.actions[start + p] == dataset.target]
        queries = np.flatnonzero(result.test.queries.users == user)
        if len(target_positions) < 2 or target_positions[-2] == 0:
            assert not len(queries)
            assert numbers(result.train.histories, user) == row
        else:
            assert numbers(result.train.histories, user) == row[: target_positions[-2]]
            assert numbers(result.test.queries.history, int(queries[0])) == row[: target_positions[-1]]
            assert numbers(result.test.targets, int(queries[0])) == [row[target_positions[-1]]]


@given(dataset=logs())
def test_test_sets_of_folds_cover_the_log(dataset: Dataset) -> None:
    tested: Counter[int] = Counter()
    repeated = 0
    for fold in range(3):
        result = split(dataset, SplitSettings(strategy="k_fold", folds=3, fold=fold, valid=0.0))
        tested.update(numbers(result.test.targets))
        repeated += result.metadata["test"]["repeated_targets"]
    assert set(tested.values()) <= {1}
    assert len(tested) + repeated == dataset.histories.size


@given(data=st.data())
def test_metadata_counts_cold_and_repeated_targets(data: st.DataObject) -> None:
    dataset = data.draw(logs())
    result = split(dataset, data.draw(split_settings(STRATEGIES)))
    users = {u for u in range(dataset.n_users) if numbers(result.train.histories, u)}
    seen = {int(item) for item in result.train.histories.items}
    for name, held in (("valid", result.valid), ("test", result.test)):
        counts = result.metadata[name]
        targets = [(row, item) for row in range(len(held)) for item in items(held.targets, row)]
        is_repeated = [item in items(held.queries.history, row) for row, item in targets]
        assert counts["queries"] == len(held)
        assert counts["targets"] == len(targets)
        assert counts["cold_users"] == sum(int(user) not in users for user in held.queries.users)
        assert counts["cold_items"] == len({item for _, item in targets} - seen)
        assert counts["cold_item_targets"] == sum(item not in seen for _, item in targets)
        assert counts["targets_in_history"] == pytest.approx(
            sum(is_repeated) / len(is_repeated) if is_repeated else 0.0
        )


@given(dataset=logs(), n=st.integers(1, 3), with_validation=st.booleans())
def test_leave_n_out_holds_out_the_last_events(dataset: Dataset, n: int, with_validation: bool) -> None:
    result = split(dataset, SplitSettings(strategy="leave_n_out", n=n, valid=0.1 if with_validation else 0.0))
    n_valid = n if with_validation else 0
    for user in range(dataset.n_users):
        row = numbers(dataset.histories, user)
        queries = np.flatnonzero(result.test.queries.users == user)
        if len(row) <= n + n_valid:
            assert not len(queries)
            assert numbers(result.train.histories, user) == row
        else:
            assert numbers(result.train.histories, user) == row[: -n - n_valid]
            assert numbers(result.test.queries.history, int(queries[0])) == row[:-n]
            assert set(numbers(result.test.targets, int(queries[0]))) <= set(row[-n:])


@given(dataset=logs())
def test_leave_n_out_of_one_is_leave_one_out(dataset: Dataset) -> None:
    leave_one_out, leave_n_out = split(dataset), split(dataset, SplitSettings(strategy="leave_n_out"))
    assert np.array_equal(leave_one_out.train.histories.values, leave_n_out.train.histories.values)
    assert same(leave_one_out.valid, leave_n_out.valid)
    assert same(leave_one_out.test, leave_n_out.test)


@given(data=st.data())
def test_only_cold_and_seen_targets_are_dropped(data: st.DataObject) -> None:
    dataset = data.draw(logs())
    settings = data.draw(split_settings(STRATEGIES)).model_copy(
        update={"drop_cold_targets": False, "drop_seen_targets": False}
    )
    whole = split(dataset, settings)
    known = {int(item) for item in whole.train.histories.items}
    for cold, seen in ((True, False), (False, True), (True, True)):
        filtered = split(dataset, settings.model_copy(update={"drop_cold_targets": cold, "drop_seen_targets": seen}))
        for before, after, name in ((whole.valid, filtered.valid, "valid"), (whole.test, filtered.test, "test")):
            expected: dict[int, list[int]] = {}
            for row, user in enumerate(before.queries.users):
                history = items(before.queries.history, row)
                for item in items(before.targets, row):
                    is_cold = cold and not (item in known and before.queries.known[row])
                    if not is_cold and not (seen and item in history):
                        expected.setdefault(int(user), []).append(item)
            actual = {int(user): items(after.targets, row) for row, user in enumerate(after.queries.users)}
            assert actual == expected
            counts = filtered.metadata[name]
            dropped = counts.get("cold_targets_dropped", 0) + counts.get("seen_targets_dropped", 0)
            assert dropped == before.targets.size - after.targets.size


@given(dataset=logs(), cutoff=st.integers(1, 9), valid=st.integers(0, 3), length=st.integers(0, 4))
def test_a_cut_at_a_time_divides_by_time(dataset: Dataset, cutoff: int, valid: int, length: int) -> None:
    times, end = dataset.histories.times, cutoff + length
    assert times is not None
    settings = SplitSettings(strategy="global_temporal", cutoff=cutoff, valid_cutoff=cutoff - valid, end=end)
    if not (times < cutoff - valid).any():
        with pytest.raises(ValueError, match="no event of table is left for training"):
            split(dataset, settings)
        return
    result = split(dataset, settings)
    assert result.train.histories.size == (times < cutoff - valid).sum()
    assert result.metadata["unused_events"] == (times >= end).sum()
    for held, low, high in ((result.valid, cutoff - valid, cutoff), (result.test, cutoff, end)):
        actual = held.targets.times
        assert actual is not None
        assert ((actual >= low) & (actual < high)).all()
    assert check_leakage(result) == []


@given(dataset=logs(), k=st.integers(2, 4), over=st.sampled_from(["interactions", "users"]))
def test_folds_divide_interactions_or_users(dataset: Dataset, k: int, over: Any) -> None:
    splits = list(folds(dataset, k, over, valid=0.0))
    assert len(splits) == k
    tested: Counter[int] = Counter()
    for result in splits:
        assert check_leakage(result) == []
        assert not len(result.valid)
        tested.update(numbers(result.test.targets) if over == "interactions" else result.test.queries.users.tolist())
    assert set(tested.values()) == {1}
    if over == "users":
        assert len(tested) == (dataset.histories.lengths >= 2).sum()


@given(dataset=logs(), count=st.integers(1, 3), train=st.sampled_from([None, 2, 5]), valid=st.sampled_from([None, 1]))
def test_sliding_windows_follow_each_other(dataset: Dataset, count: int, train: int | None, valid: int | None) -> None:
    times = dataset.histories.times
    assert times is not None
    stop = int(times.max()) + 1
    try:
        windows = list(sliding_windows(dataset, test=1, count=count, train=train, valid=valid))
    except ValueError as error:
        assert "leave nothing to train on" in str(error) or "is left for training" in str(error)  # noqa: PT017
        return
    assert len(windows) == count
    for number, result in enumerate(windows):
        cutoff = stop - count + number
        begin = 0 if train is None else cutoff - (valid or 0) - train
        used = result.train.histories.times
        assert used is not None
        assert result.metadata["window"] == number
        assert ((used >= begin) & (used < cutoff - (valid or 0))).all()
        assert used.size == ((times >= begin) & (times < cutoff - (valid or 0))).sum()
        assert result.test.targets.times is not None
        assert (result.test.targets.times == cutoff).all()
        assert check_leakage(result) == []
        events = result.train.histories.size + result.valid.targets.size + result.test.targets.size
        assert events + not_targets(result) + result.metadata["unused_events"] == dataset.histories.size


@given(dataset=logs())
def test_cold_users_and_items_do_not_occur_in_training(dataset: Dataset) -> None:
    try:
        users = split(dataset, SplitSettings(strategy="cold_users", test=0.4, valid=0.3))
    except ValueError:
        reject()  # all users with events are held out
    assert not users.train.histories.lengths[users.test.queries.users].any()
    assert users.test.queries.history.size == 0
    some_items = split(dataset, SplitSettings(strategy="cold_items", test=0.4, valid=0.3))
    assert not set(some_items.train.histories.items) & set(some_items.test.targets.items)
    assert not set(some_items.valid.targets.items) & set(some_items.test.targets.items)
    assert not set(some_items.test.queries.history.items) & set(some_items.test.targets.items)


@given(dataset=logs())
def test_no_split_trains_on_everything(dataset: Dataset) -> None:
    result = split(dataset, SplitSettings(strategy="none"))
    assert numbers(result.train.histories) == numbers(dataset.histories)
    assert (len(result.valid), len(result.test), result.metadata["unused_events"]) == (0, 0, 0)


@given(data=st.data(), share=st.sampled_from([0.2, 0.5]))
def test_items_held_out_of_training_occur_in_targets_only(data: st.DataObject, share: float) -> None:
    """The targets are those of the split without cold items; training and histories lack the events of these items."""
    dataset = data.draw(logs())
    strategies = tuple(name for name in STRATEGIES if name != "cold_items")
    plain = data.draw(split_settings(strategies)).model_copy(update={"drop_cold_targets": False})
    seed = data.draw(st.integers(0, 3))
    settings = SplitSettings(**{**plain.model_dump(), "cold_items": share, "seed": seed})
    whole = split(dataset, settings.model_copy(update={"cold_items": 0.0}))
    try:
        result = split(dataset, settings)
    except ValueError:
        reject()
    n_items = len(np.unique(dataset.histories.items))
    assert result.metadata["held_out_items"] == round(n_items * share)
    lost = set(numbers(whole.train.histories)) - set(numbers(result.train.histories))
    cold = {int(item) for item, number in zip(dataset.histories.items, dataset.histories.values, strict=True)
            if int(number) in lost}  # fmt: skip
    assert len(cold) <= round(n_items * share)
    assert not cold & set(result.train.histories.items.tolist())
    assert set(numbers(result.train.histories)) == set(numbers(whole.train.histories)) - lost
    for part, before in ((result.valid, whole.valid), (result.test, whole.test)):
        assert not cold & set(part.queries.history.items.tolist())
        if not settings.drop_seen_targets:
            assert numbers(part.targets) == numbers(before.targets)
    assert check_leakage(result) == []
    assert same(split(dataset, settings).test, result.test)


def test_the_seed_draws_the_cold_items() -> None:
    rows = [(user, item, 10 * user + item) for user in range(8) for item in range(10)]
    users, items_, times = zip(*rows, strict=True)
    dataset = load(pl.DataFrame({"user_id": users, "item_id": items_, "timestamp": times}))
    trained = [
        set(split(dataset, SplitSettings(cold_items=0.3, seed=seed)).train.histories.items.tolist())
        for seed in range(3)
    ]
    assert trained[0] != trained[1] != trained[2]
    assert split(dataset, SplitSettings(cold_items=0.3)).metadata["held_out_items"] == 3
    with pytest.raises(ValueError, match=r"cold_items: got 0\.1 with strategy cold_items"):
        SplitSettings(strategy="cold_items", cold_items=0.1)
    with pytest.raises(ValueError, match="seed: only used by strategy"):
        SplitSettings(seed=1)
