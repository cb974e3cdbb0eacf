"""Rank the true items against the whole catalog, in blocks of queries.

Shapes: N queries, I items, R queries of one block, T targets.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import numpy as np
from annotated_types import Ge

from segue.core.model import Recommender
from segue.core.recommend import exclude, score_blocks
from segue.core.types import Codes, Events, HeldOut, Mask, Ranks, Recommendations

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

BLOCK_CELLS = 2_000_000
"""Places of lists compared with targets at once."""


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
    from segue.evaluation.compiled.rank_counts import best_items, count_removed, count_scores  # compiles

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
            eligible[start:stop] -= count_removed(scores_RI)
        values_T = scores_RI[truth.rows, truth.items]
        greater[entries], equal[entries] = count_scores(scores_RI, truth.offsets, values_T)
        if k > 0:
            tops.append(best_items(scores_RI, k))
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
    # the place of an item after the end of a list gets a negative code of its own, which is no item
    positions = np.arange(k, dtype=np.int32)
    items_Nk = np.where(positions < lengths[:, None], recommendations.items, -1 - positions)
    _check_distinct(items_Nk)
    rows_T = targets.rows
    greater = lengths[rows_T]
    step = max(1, BLOCK_CELLS // max(1, k))
    for start in range(0, targets.size, step):
        part = slice(start, start + step)
        cells = np.flatnonzero(items_Nk[rows_T[part]] == targets.items[part, None])
        greater[start + cells // k] = cells % k
    return Ranks(targets.offsets, greater, np.zeros_like(greater), lengths, recommendations)


def _check_distinct(items_Nk: Codes) -> None:
    """Raise an error if an item is twice in a list."""
    sorted_Nk = np.sort(items_Nk, axis=1)
    is_wrong = (sorted_Nk[:, 1:] == sorted_Nk[:, :-1]).any(axis=1)
    if not is_wrong.any():
        return
    row = int(np.argmax(is_wrong))
    first = np.unique(items_Nk[row], return_index=True)[1]
    position = int(np.setdiff1d(np.arange(items_Nk.shape[1]), first)[0])
    raise ValueError(
        f"list {row}: item {items_Nk[row, position]} appears twice, again at rank {position + 1}; expected distinct "
        "items"
    )


def deduplicate(targets: Events) -> Events:
    """Keep the first occurrence of each item within its row."""
    width = 1 + int(targets.items.max(initial=0))
    keys = targets.rows * width + targets.items
    if (keys[1:] > keys[:-1]).all():
        return targets
    sorted_keys = np.sort(keys)
    if (sorted_keys[1:] > sorted_keys[:-1]).all():
        return targets
    first = np.unique(keys, return_index=True)[1]
    keep = np.zeros(targets.size, np.bool_)
    keep[first] = True
    return targets.where(keep)
