"""Compare ids, events and queries with plain lists."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.types import Dataset, Events, HeldOut, Queries, Ranks, Recommendations, Vocab

N_ITEMS = 7
ROWS = st.lists(st.lists(st.integers(0, N_ITEMS - 1), max_size=6), max_size=6)


def full(rows: list[list[int]]) -> Events:
    """Build events in which every column identifies the event."""
    plain = Events.of(rows)
    n = plain.size
    return Events(
        plain.offsets,
        plain.items,
        np.arange(n) % 3,
        np.arange(n) / 2,
        np.arange(n) * 10,
        {"position": np.arange(n) + 100},
    )


def lists(events: Events) -> list[list[tuple[float, ...]]]:
    """Return the events of each row as tuples of all columns."""
    table = list(zip(*(column.tolist() for column in events.columns().values()), strict=True))
    return [table[start:stop] for start, stop in zip(events.offsets[:-1], events.offsets[1:], strict=True)]


@given(ROWS)
def test_rows_lengths_and_columns(rows: list[list[int]]) -> None:
    events = full(rows)
    assert len(events) == len(rows)
    assert events.size == sum(map(len, rows))
    assert events.lengths.tolist() == [len(row) for row in rows]
    assert events.rows.tolist() == [number for number, row in enumerate(rows) for _ in row]
    assert list(events.columns()) == ["items", "actions", "values", "times", "position"]
    assert [[event[0] for event in row] for row in lists(events)] == rows
    assert list(Events.of(rows).columns()) == ["items"]


@given(ROWS, st.data())
def test_slice_rows(rows: list[list[int]], data: st.DataObject) -> None:
    stops = [data.draw(st.integers(0, len(row))) for row in rows]
    starts = [data.draw(st.integers(0, stop)) for stop in stops]
    events = full(rows)
    cut = events.slice_rows(np.array(starts, np.int64), np.array(stops, np.int64))
    assert lists(cut) == [row[a:b] for row, a, b in zip(lists(events), starts, stops, strict=True)]


@given(ROWS, st.integers(0, 8))
def test_last(rows: list[list[int]], count: int) -> None:
    events = full(rows)
    assert lists(events.last(count)) == [row[len(row) - min(count, len(row)) :] for row in lists(events)]


@given(ROWS, st.data())
def test_take(rows: list[list[int]], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)) if rows else []
    events = full(rows)
    assert lists(events.take(np.array(index, np.int64))) == [lists(events)[row] for row in index]


@given(ROWS, st.data())
def test_where(rows: list[list[int]], data: st.DataObject) -> None:
    events = full(rows)
    keep = data.draw(st.lists(st.booleans(), min_size=events.size, max_size=events.size))
    flags = iter(keep)
    expected = [[event for event in row if next(flags)] for row in lists(events)]
    assert lists(events.where(np.array(keep, np.bool_))) == expected


@given(ROWS, st.integers(0, 6), st.integers(0, 9))
def test_rows_between(rows: list[list[int]], start: int, length: int) -> None:
    events = full(rows)
    start = min(start, len(rows))
    block = events.rows_between(start, start + length)
    assert lists(block) == lists(events)[start : start + length]
    assert block.size == 0 or np.shares_memory(block.items, events.items)


@given(ROWS)
def test_select_everything(rows: list[list[int]]) -> None:
    events = full(rows)
    assert lists(events.select(np.arange(events.size), events.offsets)) == lists(events)


@given(ROWS)
def test_csr(rows: list[list[int]]) -> None:
    events = full(rows)
    ones, sums = np.zeros((len(rows), N_ITEMS)), np.zeros((len(rows), N_ITEMS))
    weights = np.arange(events.size, dtype=np.float32) + 1
    number = iter(weights)
    for r, row in enumerate(rows):
        for item in row:
            ones[r, item] = 1.0
            sums[r, item] += next(number)
    assert events.csr(N_ITEMS).toarray().tolist() == ones.tolist()
    assert events.csr(N_ITEMS).dtype == np.float32
    assert events.csr(N_ITEMS, weights).toarray().tolist() == sums.tolist()


def test_csr_does_not_change_the_weights() -> None:
    weights = np.array([1.0, 2.0], np.float32)
    Events.of([[1, 1]]).csr(2, weights)
    assert weights.tolist() == [1.0, 2.0]


def test_arrays_are_read_only() -> None:
    events = full([[1, 2], [3]])
    for column in [events.offsets, *events.columns().values()]:
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1
    queries = Queries.anonymous(events)
    with pytest.raises(ValueError, match="read-only"):
        queries.users[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        queries.users = events.items  # type: ignore[misc]


@pytest.mark.parametrize("offsets", [[], [1, 3], [0, 2], [0, 4], [0, 3, 1, 3]])
def test_invalid_offsets(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets"):
        Events(np.array(offsets, np.int64), np.array([1, 2, 3], np.int32))


def test_mismatched_lengths() -> None:
    with pytest.raises(ValueError, match=r"events\.times: got 1 values for 2 events"):
        Events(np.array([0, 2]), np.array([1, 2]), times=np.array([5]))
    with pytest.raises(ValueError, match=r"events\.position: got 3 values for 2 events"):
        Events(np.array([0, 2]), np.array([1, 2]), context={"position": np.arange(3)})
    with pytest.raises(ValueError, match=r"queries\.users: got 1 values for 2 histories"):
        Queries(Events.of([[1], []]), np.array([0]), np.array([True, True]))
    with pytest.raises(ValueError, match="1 rows of targets for 2 queries"):
        HeldOut(Queries.anonymous(Events.of([[1], []])), Events.of([[1]]))
    with pytest.raises(ValueError, match="1 histories for 2 users"):
        Dataset("d", Vocab(["a", "b"]), Vocab(["x"]), Events.of([[], []])).with_histories(Events.of([[]]))


@given(ROWS, st.integers(0, 6), st.integers(0, 9))
def test_query_blocks_include_all_columns(rows: list[list[int]], start: int, length: int) -> None:
    n = len(rows)
    start = min(start, n)
    profile = pl.DataFrame({"age": np.arange(n)})
    queries = Queries(full(rows), np.arange(n), np.arange(n) % 2 == 0, np.arange(n) * 7, profile)
    block = queries.rows_between(start, start + length)
    index = list(range(n))[start : start + length]
    assert len(block) == len(index)
    assert lists(block.history) == [lists(queries.history)[row] for row in index]
    assert block.users.tolist() == index
    assert block.known.tolist() == [row % 2 == 0 for row in index]
    assert block.times is not None
    assert block.times.tolist() == [row * 7 for row in index]
    assert block.profile is not None
    assert block.profile["age"].to_list() == index


@given(st.lists(st.text(max_size=5), unique=True, max_size=8), st.lists(st.text(max_size=5), max_size=8))
def test_vocab_round_trip(ids: list[str], queried: list[str]) -> None:
    vocab = Vocab(ids)
    codes, known = vocab.encode(ids)
    assert codes.tolist() == list(range(len(ids)))
    assert known.all()
    assert vocab.decode(codes) == ids
    codes, known = vocab.encode(queried)
    assert known.tolist() == [text in ids for text in queried]
    assert [ids[code] for code, there in zip(codes, known, strict=True) if there] == [t for t in queried if t in ids]
    assert codes.dtype == np.int32


def test_vocab_is_read_on_first_use() -> None:
    calls = []

    def read() -> pl.Series:
        calls.append(1)
        return pl.Series("id", ["a", "b"])

    vocab = Vocab(read, 2)
    assert len(vocab) == 2
    assert not calls
    assert vocab.decode(np.array([1, 0])) == ["b", "a"]
    assert vocab.encode(["b", "c"])[1].tolist() == [True, False]
    assert len(calls) == 1
    with pytest.raises(ValueError, match="expected the number of ids"):
        Vocab(read)


def test_expected_ranks_of_ties() -> None:
    nothing = Recommendations(np.zeros((1, 0), np.int32), np.zeros((1, 0), np.float32), np.zeros(1, np.int64))
    ranks = Ranks(np.array([0, 2]), np.array([0, 3]), np.array([0, 3]), np.array([10]), nothing)
    assert ranks.expected_ranks.tolist() == [1.0, 5.5]
    assert len(ranks) == 1
