"""Divide the items into head, middle and tail by their training events.

Abdollahpouri, Burke and Mobasher 2019, "Managing popularity bias in recommender systems with personalized re-ranking",
arXiv:1901.07555: the head are the most popular items with a fifth of all events, the tail the least popular ones with a
fifth.

Shapes: I items.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Mask

__all__ = ["POPULARITY_GROUPS", "popularity_groups"]

POPULARITY_GROUPS = ("head", "middle", "tail")

SHARE_OF_EVENTS = 0.2
"""Share of the training events of the head, and of the tail."""


def popularity_groups(item_events_I: NDArray[np.int64]) -> Iterator[tuple[str, str, Mask]]:
    """Yield name, definition and ``(I,)`` mask of head, middle and tail.

    Items with the same number of events are in the same group. An item is in the head if the more popular items have
    less than a fifth of the events. Of the others, an item is in the tail if it and the items that are at most as
    popular have at most a fifth; items without events are in the tail.
    """
    levels, level_of_I, n_items = np.unique(item_events_I, return_inverse=True, return_counts=True)
    events = levels * n_items
    total = int(events.sum())
    at_most = np.cumsum(events)  # events of the items that are at most as popular
    is_head = (total - at_most < SHARE_OF_EVENTS * total) & (levels > 0)
    is_tail = ~is_head & (at_most <= SHARE_OF_EVENTS * total)
    for name, is_member in zip(POPULARITY_GROUPS, (is_head, ~is_head & ~is_tail, is_tail), strict=True):
        yield name, _describe(levels[is_member]), is_member[level_of_I]


def _describe(levels: NDArray[np.int64]) -> str:
    """Describe the numbers of events of a group."""
    if not len(levels):
        return "no item"
    low, high = int(levels[0]), int(levels[-1])
    if low == high:
        return f"{low:,} training event{'' if low == 1 else 's'}"
    return f"{low:,} to {high:,} training events"
