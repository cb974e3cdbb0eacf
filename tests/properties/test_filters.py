"""Compare filters and preparation with plain Python."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segue.core.types import Dataset
from segue.data import Filters, load

Row = tuple[int, int, int, float]
rows = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 5), st.sampled_from([1.0, 3.0, 5.0])),
    min_size=1,
    max_size=50,
)


def table(events: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(events, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")


def decode_events(data: Dataset) -> list[Row]:
    """Return all events with their original ids, in the order of the dataset."""
    events = data.histories
    users, items = data.users.decode(events.rows), data.items.decode(events.items)
    assert events.times is not None
    assert events.values is not None
    return [
        (int(u), int(i), int(t), float(v)) for u, i, t, v in zip(users, items, events.times, events.values, strict=True)
    ]


def ordered(events: list[Row]) -> list[Row]:
    return sorted(events, key=lambda row: (row[0], row[2]))  # stable, as required of preparation


@given(rows)
def test_events_are_sorted_and_ties_keep_file_order(events: list[Row]) -> None:
    data = load(table(events))
    assert decode_events(data) == ordered(events)
    assert list(data.users.ids) == [str(u) for u in sorted({row[0] for row in events})]
    assert list(data.items.ids) == [str(i) for i in sorted({row[1] for row in events})]


@given(rows)
def test_repeated_and_identical_events_are_counted(events: list[Row]) -> None:
    counts = load(table(events)).header["counts"]
    assert counts["repeats"] == len(events) - len({(u, i) for u, i, _, _ in events})
    assert counts["identical"] == len(events) - len(set(events))
    assert counts["users_with_one_event"] == sum(n == 1 for n in Counter(row[0] for row in events).values())


@given(rows, st.integers(1, 4), st.integers(1, 4))
def test_k_core_is_stable_and_largest(events: list[Row], users: int, items: int) -> None:
    left = ordered(events)
    while True:  # remove one user or item at a time, which leads to the same core
        of_user, of_item = Counter(r[0] for r in left), Counter(r[1] for r in left)
        weak = next((("u", u) for u in of_user if of_user[u] < users), None) or next(
            (("i", i) for i in of_item if of_item[i] < items), None
        )
        if weak is None:
            break
        left = [r for r in left if r[0 if weak[0] == "u" else 1] != weak[1]]
    filters = Filters(min_user_events=users, min_item_events=items)
    if not left:
        with pytest.raises(ValueError, match="no event is left"):
            load(table(events), filters=filters)
        return
    data = load(table(events), filters=filters)
    assert decode_events(data) == left
    assert data.n_items == len({row[1] for row in left})
    assert sum(data.header["filters"]["removed"].values()) == len(events) - len(left)


@pytest.mark.parametrize("which", ["first", "last"])
@given(rows)
def test_one_of_repeated_events_is_kept(which: Any, events: list[Row]) -> None:
    positions: dict[tuple[int, int], int] = {}
    in_order = ordered(events)
    for position, row in enumerate(in_order):
        if which == "last" or row[:2] not in positions:
            positions[row[:2]] = position
    data = load(table(events), filters=Filters(duplicates=which))
    assert decode_events(data) == [in_order[position] for position in sorted(positions.values())]
    assert data.header["filters"]["removed"]["duplicates"] == len(events) - len(positions)


@given(rows)
def test_filters_by_value_and_time(events: list[Row]) -> None:
    left = [row for row in ordered(events) if row[3] >= 3.0 and 1 <= row[2] < 4]
    assume(left)
    filters = Filters(min_value=3.0, start="1970-01-01T00:00:01", end="1970-01-01T00:00:04+00:00")
    data = load(table(events), filters=filters)
    assert decode_events(data) == left
    removed = data.header["filters"]["removed"]
    assert sum(removed.values()) == len(events) - len(left)
    assert data.header["filters"]["settings"]["min_value"] == 3.0
