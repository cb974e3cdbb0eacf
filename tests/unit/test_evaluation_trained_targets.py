"""Targets that the model was trained on are counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segue.core.types import Dataset, Events, HeldOut, Queries, Split, Vocab
from segue.evaluation.leakage import check_leakage, count_trained_targets


def log(rows: list[list[int]], n_items: int = 9) -> Dataset:
    return Dataset(
        "log", Vocab([str(n) for n in range(len(rows))]), Vocab([str(n) for n in range(n_items)]), Events.of(rows)
    )


def queries(histories: list[list[int]], users: list[int], known: list[bool] | None = None) -> Queries:
    mask = np.ones(len(users), np.bool_) if known is None else np.array(known)
    return Queries(Events.of(histories), np.array(users, np.int32), mask)


@pytest.mark.parametrize(
    ("history", "targets", "expected"),
    [
        ([], [1], 1),
        ([1], [1], 0),  # a repetition that the history knows
        ([1], [2, 3, 4], 2),
        ([1, 2, 3], [4], 0),
        ([1, 2, 3], [5], 0),
        ([], [], 0),
    ],
)
def test_targets_in_training_that_the_history_lacks_are_counted(
    history: list[int], targets: list[int], expected: int
) -> None:
    assert count_trained_targets(log([[1, 2, 3]]), HeldOut(queries([history], [0]), Events.of([targets]))) == expected


def test_only_known_users_of_the_dataset_count() -> None:
    train = log([[1, 2], [3], [4]])
    held_out = HeldOut(
        queries([[], [], [], []], [0, 1, 2, 3], [True, False, True, True]), Events.of([[1], [3], [4], [1]])
    )
    assert count_trained_targets(train, held_out) == 2
    outside = HeldOut(queries([[], []], [-1, 0]), Events.of([[4], [2]]))
    assert count_trained_targets(train, outside) == 1


def test_a_repeated_training_event_is_counted_by_its_occurrences() -> None:
    train = log([[1, 1, 2]])
    assert count_trained_targets(train, HeldOut(queries([[1]], [0]), Events.of([[1]]))) == 1
    assert count_trained_targets(train, HeldOut(queries([[1, 1]], [0]), Events.of([[1]]))) == 0


def test_events_are_compared_with_their_actions_and_times() -> None:
    def timed(rows: list[list[int]], times: list[int], actions: list[int]) -> Events:
        return replace(Events.of(rows), times=np.array(times), actions=np.array(actions, np.uint8))

    train = replace(log([[1, 2]]), histories=timed([[1, 2]], [5, 6], [0, 1]))
    base = queries([[]], [0])
    history = replace(base, history=timed([[]], [], []))
    for times, actions, expected in (([5], [0], 1), ([6], [0], 0), ([5], [1], 0)):
        assert count_trained_targets(train, HeldOut(history, timed([[1]], times, actions))) == expected


def test_several_faults_are_counted_and_named_by_the_first() -> None:
    train = log([[0, 1, 2], [3, 4], [5]])
    valid = HeldOut(queries([], []), Events.of([]))
    leaky = HeldOut(queries([[], [], [5]], [0, 1, 2]), Events.of([[1, 2], [4], [6]]))
    assert check_leakage(Split(train, valid, leaky, {})) == [
        "test: 3 targets are training events of their user, first item 1 of user 0",
        "test: 2 earlier events of the user are not in the history of the query, first item 0 of user 0",
    ]
    revealed = HeldOut(queries([[0, 1, 2, 7], [3, 4], [5, 8]], [0, 1, 2]), Events.of([[7], [6], [8]]))
    assert check_leakage(Split(train, valid, revealed, {})) == [
        "test: 2 targets are in the history of their own query, first item 7 of user 0"
    ]
    outside = HeldOut(queries([[0, 1, 2, 9], [3, 4, -1], [5]], [0, 1, 2]), Events.of([[7], [9], [10]]))
    assert check_leakage(Split(train, valid, outside, {})) == [
        "test: 2 items of targets are outside the catalog, first code 9",
        "test: 2 items of histories are outside the catalog, first code 9",
    ]
    strangers = HeldOut(queries([[], []], [3, -1]), Events.of([[7], [6]]))
    assert check_leakage(Split(train, valid, strangers, {})) == [
        "test: 2 known users are outside the dataset, first code 3"
    ]
    idle = HeldOut(queries([[], []], [1, 0]), Events.of([[7], [6]]))
    assert check_leakage(Split(log([[], []]), valid, idle, {})) == [
        "test: 2 users are marked known but have no training event, first user 1"
    ]


def test_validation_targets_belong_to_the_history_of_the_test_of_known_users() -> None:
    train = log([[0], [1], [2]])
    test = HeldOut(queries([[0, 3], [1], [2]], [0, 1, 2]), Events.of([[6], [7], [8]]))
    once = HeldOut(queries([[0], [1]], [0, 1]), Events.of([[3], [4]]))
    assert check_leakage(Split(train, once, test, {})) == [
        "test: 1 earlier events of the user are not in the history of the query, first item 4 of user 1"
    ]
    twice = HeldOut(queries([[0], [1], [1]], [0, 1, 1]), Events.of([[3], [4], [5]]))
    assert check_leakage(Split(train, twice, test, {})) == [], "with several validation queries none is required"
    unknown = HeldOut(queries([[0], []], [0, 1], [True, False]), Events.of([[3], [4]]))
    assert check_leakage(Split(train, unknown, test, {})) == []
    assert check_leakage(Split(train, once, test, {"is_ordered": False})) == []
    assert len(check_leakage(Split(train, once, test, {"is_ordered": False}), ordered=True)) == 1
    assert check_leakage(Split(train, once, test, {}), ordered=False) == []


def test_events_from_the_future_are_counted_and_named_by_the_first_query() -> None:
    def timed(rows: list[list[int]], times: list[int]) -> Events:
        return replace(Events.of(rows), times=np.array(times))

    train = replace(log([[0], [1], [2]]), histories=timed([[0], [1], [2]], [1, 9, 3]))
    valid = HeldOut(replace(queries([], []), history=timed([], [])), timed([], []))
    base = replace(queries([[], [], []], [0, 1, 2]), history=timed([[0], [1], [2]], [1, 9, 3]))
    test = HeldOut(base, timed([[6], [7, 8], [8]], [1, 12, 8, 2]))
    assert check_leakage(Split(train, valid, test, {})) == [
        "test: 2 history events are later than a target, first in query 1"
    ]
    asked = HeldOut(replace(base, times=np.array([1, 8, 2])), timed([[6], [7, 8], [8]], [1, 12, 9, 3]))
    assert check_leakage(Split(train, valid, asked, {})) == [
        "test: 2 history events are later than the query, first in query 1"
    ]
    later = HeldOut(base, timed([[6], [7, 8], [8]], [2, 12, 9, 3]))
    assert check_leakage(Split(train, valid, later, {"strategy": "global_temporal"})) == [
        "test: 2 training events are later than the first target, at 2"
    ]
    on_time = HeldOut(base, timed([[6], [7, 8], [8]], [9, 12, 9, 9]))
    assert check_leakage(Split(train, valid, on_time, {"strategy": "global_temporal"})) == []
