"""Seen items before each target equal a direct search of the history."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segue.core.batches import Objective, Windows, collect_seen_items, training_batches
from segue.core.types import Events
from segue.nn.training_targets import all_action, cloze, next_item

N_ITEMS = 9
OBJECTIVES: dict[str, Objective] = {
    "next_item": next_item,
    "all_action": partial(all_action, horizon=2),
    "cloze": partial(cloze, mask_prob=0.4),
}
lists = st.lists(st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=12), min_size=1, max_size=6)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(rows=lists, seed=st.integers(0, 99), cut=st.tuples(st.integers(0, 99), st.integers(0, 99)), data=st.data())
def test_seen_items_before_each_target(
    name: str, rows: list[list[int]], seed: int, cut: tuple[int, int], data: st.DataObject
) -> None:
    histories = Events.of(rows)
    row_of_window = np.repeat(np.arange(len(rows)), 2)  # two windows of each history
    start = histories.offsets[row_of_window] + np.random.default_rng(seed).integers(0, histories.lengths[row_of_window])
    windows = Windows(histories, row_of_window, start, histories.offsets[row_of_window + 1], N_ITEMS)
    batch = OBJECTIVES[name](windows, np.random.default_rng(seed))
    seen = collect_seen_items(windows, batch)
    expected = np.zeros((len(batch.targets_M), N_ITEMS), bool)
    for target, position in enumerate(batch.positions_M.tolist()):
        b, offset = divmod(position, batch.items_BL.shape[1])
        stop = windows.stop[b] if name == "cloze" else start[b] + offset
        expected[target, histories.items[histories.offsets[row_of_window[b]] : stop]] = True
    first, last = sorted(row % len(expected) for row in cut)
    actual = seen.catalog_mask(first, last + 1, N_ITEMS)
    np.testing.assert_array_equal(actual.numpy(), expected[first : last + 1])
    items = data.draw(st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=7))
    np.testing.assert_array_equal(seen.mask_for_items(torch.tensor(items)).numpy(), expected[:, items])


def test_batches_have_seen_items_only_on_request() -> None:
    histories = Events.of([[1, 2, 3], [4, 5]])
    for seen in (False, True):
        _, batches = training_batches(
            histories, N_ITEMS, 2, 4, np.random.default_rng(0), next_item, all_windows=True, pool=1, seen=seen
        )
        for batch in batches:
            assert (batch.seen is not None) == seen
            assert (batch.to("meta").seen is not None) == seen
