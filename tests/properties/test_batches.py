"""Training windows: every event is a target at most once, and its input is the previous event."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from segue.core.batches import length_bucketed_batches, query_batches, training_batches
from segue.core.types import Events, Queries
from segue.nn.training_targets import next_item

FILL = 1000
rows = st.lists(st.lists(st.integers(0, 999), max_size=12), min_size=1, max_size=12)


def numbered(lengths: list[int]) -> Events:
    """Each event has a distinct item, so that inputs and targets can be distinguished."""
    ends = np.cumsum(lengths)
    return Events.of([list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)])


@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=15),
    length=st.integers(1, 8),
    size=st.integers(1, 5),
    all_windows=st.booleans(),
    seed=st.integers(0, 99),
)
def test_targets_and_inputs(lengths: list[int], length: int, size: int, all_windows: bool, seed: int) -> None:
    histories = numbered(lengths)
    count, batches = training_batches(
        histories, FILL, length, size, np.random.default_rng(seed), next_item, all_windows=all_windows, pool=2
    )
    batch_list = list(batches)
    assert len(batch_list) == count
    firsts = {int(first) for first, n in zip(histories.offsets[:-1], lengths, strict=True) if n}
    targets: Counter[int] = Counter()
    for batch in batch_list:
        assert batch.items_BL.shape[1] == int(batch.lengths_B.max()) <= length
        inputs = batch.items_BL.reshape(-1)[batch.positions_M]
        targets.update(batch.targets_M.tolist())
        for previous, target in zip(inputs.tolist(), batch.targets_M.tolist(), strict=True):
            assert previous == (FILL if target in firsts else target - 1)
        assert len(batch.positions_M) == int(batch.lengths_B.sum())
        is_padding = torch.ones(batch.items_BL.numel(), dtype=torch.bool)
        is_padding[batch.positions_M] = False
        assert (batch.items_BL.reshape(-1)[is_padding] == FILL).all()
    if all_windows:
        expected = set(range(histories.size))
    else:
        expected = {
            int(e)
            for first, n in zip(histories.offsets[:-1], lengths, strict=True)
            for e in range(int(first) + max(0, n - length), int(first) + n)
        }
    assert targets == Counter(dict.fromkeys(expected, 1))


@given(lists=rows, limit=st.one_of(st.none(), st.integers(1, 9)), tokens=st.integers(1, 40))
def test_query_batches_hold_start_token_and_newest_events(
    lists: list[list[int]], limit: int | None, tokens: int
) -> None:
    seen: dict[int, list[int]] = {}
    for rows_B, read in query_batches(Queries.anonymous(Events.of(lists)), FILL, limit, tokens):
        assert read.items_BL.numel() <= tokens or len(rows_B) == 1
        for row, items, length in zip(rows_B, read.items_BL.tolist(), read.lengths_B.tolist(), strict=True):
            seen[int(row)] = items[:length]
            assert set(items[length:]) <= {FILL}
    for row, items in enumerate(lists):
        fits = limit is None or len(items) < limit
        assert seen[row] == ([FILL, *items] if fits else items[-limit:] if limit else items)


@given(lengths=st.lists(st.integers(1, 50), max_size=40), size=st.integers(1, 7), pool=st.integers(1, 4))
def test_length_buckets_hold_every_row_once(lengths: list[int], size: int, pool: int) -> None:
    batches = length_bucketed_batches(np.array(lengths, dtype=np.int64), size, np.random.default_rng(0), pool)
    assert sorted(np.concatenate([*batches, np.zeros(0, np.int64)]).tolist()) == list(range(len(lengths)))
    assert all(0 < len(batch) <= size for batch in batches)
