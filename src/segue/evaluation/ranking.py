"""Rank the true items against the whole catalog, in blocks of queries.

Shapes: N queries, I items, R queries of one block, T targets.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from segue.core.model import Recommender
from segue.core.recommend import exclude, score_blocks, top_k
from segue.core.types import Events, HeldOut, Mask, Ranks, Recommendations, Scores

__all__ = [
    "ExcludeSeen",
    "deduplicate",
    "describe_seen",
    "excludes_all_seen",
    "rank",
    "rank_lists",
    "removed_events",
]

ExcludeSeen: TypeAlias = bool | Annotated[int, Ge(2)]
"""Whether items of the history are removed from the ranking, or the number of its newest events whose items are."""

MIN_TARGETS_TO_SORT = 4
"""Targets per query from which sorting the scores once is cheaper than counting for each target."""


def rank(
    model: Recommender, held_out: HeldOut, k: int = 10, exclude_seen: ExcludeSeen = True, candidates: Mask | None = None
) -> Ranks:
    """Rank every true item in the catalog, and take the top ``k`` of each query.

    An item that a query lists twice as true is one target. With ``exclude_seen`` the items of the history are removed
    first; a target among them cannot be found: all remaining candidates count as higher.

    Args:
        k: length of the lists ``top``; 0 makes none, which is faster.
        exclude_seen: whether items of the history are removed from the ranking, or the number of its newest events
            whose items are.
        candidates: ``(n_items,)`` items that are ranked; ``None``: all of them. Other targets cannot be found.

    Raises:
        ValueError: a target outside the catalog, or scores that are not finite.
    """
    n_items = model.schema.n_items
    targets = deduplicate(held_out.targets)
    if targets.size and not 0 <= targets.items.min() <= targets.items.max() < n_items:
        raise ValueError(
            f"targets: item codes {targets.items.min()} to {targets.items.max()}, expected 0 to {n_items - 1}"
        )
    greater = np.zeros(targets.size, np.int64)
    equal = np.zeros(targets.size, np.int64)
    eligible = np.full(len(targets), n_items, np.int64)
    removed_items = np.flatnonzero(~candidates) if candidates is not None else np.zeros(0, np.int64)
    tops = []
    start = 0
    for block, scores_RI in score_blocks(model, held_out.queries):
        stop = start + len(block)
        truth = targets.rows_between(start, stop)
        entries = slice(targets.offsets[start], targets.offsets[stop])
        if exclude_seen:
            exclude(scores_RI, removed_events(block.history, exclude_seen))
        if len(removed_items):
            scores_RI[:, removed_items] = -np.inf
        if exclude_seen or len(removed_items):
            eligible[start:stop] -= np.count_nonzero(scores_RI == -np.inf, axis=1)
        values_T = scores_RI[truth.rows, truth.items]
        greater[entries], equal[entries] = _count(scores_RI, truth.offsets, values_T)
        if k > 0:
            tops.append(top_k(scores_RI, k))
        removed = targets.offsets[start] + np.flatnonzero(values_T == -np.inf)
        greater[removed] = eligible[start + truth.rows[removed - targets.offsets[start]]]
        equal[removed] = 0
        start = stop
    return Ranks(targets.offsets, greater, equal, eligible, Recommendations.concat(tops, k))


def excludes_all_seen(exclude_seen: ExcludeSeen) -> bool:
    """Return whether every item of the history is removed from the ranking."""
    return isinstance(exclude_seen, bool | np.bool_) and bool(exclude_seen)


def describe_seen(exclude_seen: ExcludeSeen) -> str:
    """Say what happens to the items of the history, such as ``ranked too``."""
    if not exclude_seen:
        return "ranked too"
    which = "" if excludes_all_seen(exclude_seen) else f" if they are among the newest {exclude_seen} events"
    return f"excluded from the ranking{which}"


def removed_events(history: Events, exclude_seen: ExcludeSeen) -> Events:
    """Return the events of each history whose items are removed from the ranking.

    Args:
        exclude_seen: see :func:`rank`.
    """
    if excludes_all_seen(exclude_seen):
        return history
    return history.last(int(exclude_seen))


def rank_lists(recommendations: Recommendations, targets: Events) -> Ranks:
    """Rank every true item in given lists.

    An item that is not in its list is not found.

    Raises:
        ValueError: another number of lists than of queries, or an item twice in a list.
    """
    n, k = recommendations.items.shape
    if n != len(targets):
        raise ValueError(f"got {n} lists for {len(targets)} queries, expected one list per query")
    targets = deduplicate(targets)
    lengths = np.asarray(recommendations.lengths, np.int64)
    used = np.arange(k) < lengths[:, None]
    rows, positions = np.nonzero(used)
    items = recommendations.items[used].astype(np.int64)
    width = 1 + max(items.max(initial=0), targets.items.max(initial=0))
    keys, order = np.unique(rows * width + items, return_index=True)
    if len(keys) < len(items):
        twice = np.setdiff1d(np.arange(len(items)), order)[0]
        raise ValueError(
            f"list {rows[twice]}: item {items[twice]} appears twice, again at rank {positions[twice] + 1}; "
            "expected distinct items"
        )
    wanted = targets.rows * width + targets.items
    at = np.searchsorted(keys, wanted)
    found = np.append(keys, -1)[at] == wanted
    greater = lengths[targets.rows]
    greater[found] = positions[order[at[found]]]
    return Ranks(targets.offsets, greater, np.zeros_like(greater), lengths, recommendations)


def deduplicate(targets: Events) -> Events:
    """Keep the first occurrence of each item within its row."""
    width = 1 + int(targets.items.max(initial=0))
    first = np.unique(targets.rows * width + targets.items, return_index=True)[1]
    if len(first) == targets.size:
        return targets
    keep = np.zeros(targets.size, np.bool_)
    keep[first] = True
    return targets.where(keep)


def _count(
    scores_RI: Scores, offsets: NDArray[np.int64], values_T: Scores
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the scores above each target's score, and those equal to it.

    The target itself is not counted.
    """
    lengths = np.diff(offsets)
    most = int(lengths.max(initial=0))
    if most >= MIN_TARGETS_TO_SORT:
        return _count_sorted(scores_RI, np.repeat(np.arange(len(lengths)), lengths), values_T)
    greater = np.zeros(len(values_T), np.int64)
    equal = np.zeros(len(values_T), np.int64)
    for nth in range(most):
        rows = np.flatnonzero(lengths > nth)
        entries = offsets[rows] + nth
        scores = scores_RI if len(rows) == len(lengths) else scores_RI[rows]
        value = values_T[entries, None]
        greater[entries] = np.count_nonzero(scores > value, axis=1)
        equal[entries] = np.count_nonzero(scores == value, axis=1) - 1
    return greater, equal


def _count_sorted(
    scores_RI: Scores, rows: NDArray[np.int64], values_T: Scores
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count as :func:`_count` does, by sorting each row once.

    A binary search finds all targets at once.
    """
    sorted_RI = np.sort(scores_RI, axis=1)
    n_items = sorted_RI.shape[1]
    n_lower, n_not_higher = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    step = 1 << (n_items.bit_length() - 1)
    while step:
        # both counts grow by `step` where the score just before them is still small enough
        for count, is_small in ((n_lower, np.less), (n_not_higher, np.less_equal)):
            ahead = np.minimum(count + step, n_items)
            count[:] = np.where(
                (count + step <= n_items) & is_small(sorted_RI[rows, ahead - 1], values_T), count + step, count
            )
        step >>= 1
    return n_items - n_not_higher, n_not_higher - n_lower - 1
