"""Splits over random logs: disjoint, complete, without leaks, the same twice. ``values`` number the events."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.types import Dataset, HeldOut
from segue.data import SplitSettings, load, split

ORDERED = ("leave_one_out", "temporal", "ratio", "held_out_users")
KINDS = (*ORDERED, "random", "random_ratio", "k_fold")


@st.composite
def logs(draw: st.DrawFn, actions: bool = False) -> Dataset:
    """A log of up to 8 users, 6 items and 60 events with many ties in time and repeats."""
    cells = st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(0, 9), st.sampled_from(["buy", "view"]))
    rows = draw(st.lists(cells, min_size=12, max_size=60))
    rows += [(8, i % 6, i, "buy") for i in range(4)]  # so that both kinds occur and something is left to train
    rows.append((8, 0, 4, "view"))
    users, items, times, kinds = zip(*rows, strict=True)
    table: dict[str, Any] = {"user_id": users, "item_id": items, "timestamp": times, "rating": range(len(rows))}
    if actions:
        return load(pl.DataFrame(table | {"action": kinds}), target="buy")
    return load(pl.DataFrame(table))


@st.composite
def settings_of(draw: st.DrawFn, kinds: tuple[str, ...]) -> SplitSettings:
    return SplitSettings(
        kind=draw(st.sampled_from(kinds)),
        test=draw(st.sampled_from([0.1, 0.2, 0.4])),
        valid=draw(st.sampled_from([0.0, 0.1, 0.3])),
        seed=draw(st.integers(0, 3)),
        folds=3,
        fold=draw(st.integers(0, 2)),
    )


def numbers(rows: Any, row: int | None = None) -> list[int]:
    part = rows.values if row is None else rows.values[rows.offsets[row] : rows.offsets[row + 1]]
    return [int(value) for value in part]


def items(rows: Any, row: int) -> list[int]:
    return [int(item) for item in rows.items[rows.offsets[row] : rows.offsets[row + 1]]]


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
def test_no_event_serves_twice(data: st.DataObject, actions: bool) -> None:
    dataset = data.draw(logs(actions))
    done = split(dataset, data.draw(settings_of(KINDS)))
    sets = [numbers(done.train.histories), numbers(done.valid.targets), numbers(done.test.targets)]
    every = [number for part in sets for number in part]
    assert len(every) == len(set(every))
    repeated = done.facts["valid"]["targets_repeated"] + done.facts["test"]["targets_repeated"]
    assert len(every) + repeated + done.facts["unused_events"] == dataset.histories.size


@pytest.mark.parametrize("actions", [False, True])
@given(data=st.data())
def test_queries_hold_nothing_of_their_targets_and_nothing_later(data: st.DataObject, actions: bool) -> None:
    dataset = data.draw(logs(actions))
    settings = data.draw(settings_of(KINDS))
    done = split(dataset, settings)
    place = {number: row for row, number in enumerate(numbers(dataset.histories))}
    train = set(numbers(done.train.histories))
    for name, held in (("valid", done.valid), ("test", done.test)):
        for row, user in enumerate(held.queries.users):
            history, targets = numbers(held.queries.history, row), numbers(held.targets, row)
            assert targets
            assert not set(history) & set(targets)
            own = set(numbers(dataset.histories, int(user)))
            assert {*history, *targets} <= own
            assert len(set(items(held.targets, row))) == len(targets)
            if settings.kind in ORDERED:
                assert all(place[a] < place[b] for a in history for b in targets)
            if settings.kind == "held_out_users":
                assert not own & train
                assert not held.queries.known[row]
            elif name == "valid":
                assert set(history) == own & train
            else:
                assert own & train <= set(history)
            assert held.queries.known[row] == bool(own & train)


@given(data=st.data())
def test_targets_are_of_the_wanted_kind(data: st.DataObject) -> None:
    dataset = data.draw(logs(actions=True))
    done = split(dataset, data.draw(settings_of(KINDS)))
    assert dataset.target == dataset.actions.index("buy")
    for held in (done.valid, done.test):
        assert held.targets.actions is not None
        assert (held.targets.actions == dataset.target).all()


@given(data=st.data())
def test_the_future_of_a_temporal_split_is_unseen(data: st.DataObject) -> None:
    dataset = data.draw(logs())
    done = split(dataset, data.draw(settings_of(("temporal",))))
    first = {name: getattr(done, name).targets.times for name in ("valid", "test")}
    for times in first.values():
        assert not len(times) or done.train.histories.times.max() < times.min()
    if len(first["valid"]) and len(first["test"]):
        assert first["valid"].max() < first["test"].min()


@given(data=st.data())
def test_the_same_settings_give_the_same_split(data: st.DataObject) -> None:
    dataset = data.draw(logs())
    settings = data.draw(settings_of(KINDS))
    one, two = split(dataset, settings), split(dataset, settings)
    assert np.array_equal(one.train.histories.values, two.train.histories.values)
    assert same(one.valid, two.valid)
    assert same(one.test, two.test)
    assert one.facts == two.facts


@given(dataset=logs())
def test_leave_one_out_is_what_it_says(dataset: Dataset) -> None:
    done = split(dataset)
    for user in range(dataset.n_users):
        row = numbers(dataset.histories, user)
        asked = np.flatnonzero(done.test.queries.users == user)
        if len(row) < 3:
            assert not len(asked)
            assert numbers(done.train.histories, user) == row
        else:
            assert numbers(done.train.histories, user) == row[:-2]
            assert numbers(done.valid.queries.history, int(asked[0])) == row[:-2]
            assert numbers(done.valid.targets, int(asked[0])) == [row[-2]]
            assert numbers(done.test.queries.history, int(asked[0])) == row[:-1]
            assert numbers(done.test.targets, int(asked[0])) == [row[-1]]
    assert done.facts["train_only_users"] == int((dataset.histories.lengths < 3).sum())


@given(dataset=logs())
def test_leave_one_out_without_validation_trains_all_but_the_last(dataset: Dataset) -> None:
    done = split(dataset, SplitSettings(valid=0.0))
    assert not len(done.valid)
    for user in range(dataset.n_users):
        row = numbers(dataset.histories, user)
        asked = np.flatnonzero(done.test.queries.users == user)
        if len(row) < 2:
            assert not len(asked)
            assert numbers(done.train.histories, user) == row
        else:
            assert numbers(done.train.histories, user) == numbers(done.test.queries.history, int(asked[0])) == row[:-1]
            assert numbers(done.test.targets, int(asked[0])) == [row[-1]]


@given(dataset=logs(actions=True))
def test_leave_one_out_of_one_kind_keeps_the_others_as_input(dataset: Dataset) -> None:
    done = split(dataset)
    for user in range(dataset.n_users):
        row = numbers(dataset.histories, user)
        start = int(dataset.histories.offsets[user])
        wanted = [p for p in range(len(row)) if dataset.histories.actions[start + p] == dataset.target]
        asked = np.flatnonzero(done.test.queries.users == user)
        if len(wanted) < 2 or wanted[-2] == 0:
            assert not len(asked)
            assert numbers(done.train.histories, user) == row
        else:
            assert numbers(done.train.histories, user) == row[: wanted[-2]]
            assert numbers(done.test.queries.history, int(asked[0])) == row[: wanted[-1]]
            assert numbers(done.test.targets, int(asked[0])) == [row[wanted[-1]]]


@given(dataset=logs())
def test_the_folds_together_are_the_log(dataset: Dataset) -> None:
    tested: Counter[int] = Counter()
    repeated = 0
    for fold in range(3):
        done = split(dataset, SplitSettings(kind="k_fold", folds=3, fold=fold, valid=0.0))
        tested.update(numbers(done.test.targets))
        repeated += done.facts["test"]["targets_repeated"]
    assert set(tested.values()) <= {1}
    assert len(tested) + repeated == dataset.histories.size


@given(data=st.data())
def test_facts_count_what_is_cold_and_repeated(data: st.DataObject) -> None:
    dataset = data.draw(logs())
    done = split(dataset, data.draw(settings_of(KINDS)))
    users = {u for u in range(dataset.n_users) if numbers(done.train.histories, u)}
    seen = {int(item) for item in done.train.histories.items}
    for name, held in (("valid", done.valid), ("test", done.test)):
        facts = done.facts[name]
        targets = [(row, item) for row in range(len(held)) for item in items(held.targets, row)]
        again = [item in items(held.queries.history, row) for row, item in targets]
        assert facts["queries"] == len(held)
        assert facts["targets"] == len(targets)
        assert facts["cold_users"] == sum(int(user) not in users for user in held.queries.users)
        assert facts["cold_items"] == len({item for _, item in targets} - seen)
        assert facts["cold_item_targets"] == sum(item not in seen for _, item in targets)
        assert facts["targets_in_history"] == pytest.approx(sum(again) / len(again) if again else 0.0)
