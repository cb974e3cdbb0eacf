"""Where the truth stands in the ranking of the whole catalogue: one pass over the scores, block by block.

Shapes: N queries, I items, R queries of one block, T targets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Recommender
from segue.core.recommend import exclude, score_blocks, top_k
from segue.core.types import Events, HeldOut, Ranks, Recommendations, Scores

__all__ = ["distinct", "rank", "rank_lists"]

SORTED_FROM = 4
"""Targets per query from which sorting the scores once is cheaper than counting for each target."""


def rank(model: Recommender, held_out: HeldOut, k: int = 10, repeats: bool = False) -> Ranks:
    """The rank of every true item among all items of the catalogue, and each query's best ``k``.

    An item that a query lists twice as true is one target. With ``repeats`` false, the items of the history are
    removed first; a target among them can't be found: all eligible candidates count as greater.

    Args:
        k: length of the lists ``top``; 0 makes none, which is faster.
        repeats: whether items of the history stay in the ranking.

    Raises:
        ValueError: a target outside the catalogue, or scores that are not finite.
    """
    n_items = model.domain.n_items
    targets = distinct(held_out.targets)
    if targets.size and not 0 <= targets.items.min() <= targets.items.max() < n_items:
        raise ValueError(
            f"targets: item codes {targets.items.min()} to {targets.items.max()}, expected 0..{n_items - 1}"
        )
    greater = np.zeros(targets.size, np.int64)
    equal = np.zeros(targets.size, np.int64)
    eligible = np.full(len(targets), n_items, np.int64)
    tops = []
    start = 0
    for block, scores_RI in score_blocks(model, held_out.queries):
        stop = start + len(block)
        truth = targets.block(start, stop)
        entries = slice(targets.offsets[start], targets.offsets[stop])
        if not repeats:
            exclude(scores_RI, block.history)
            eligible[start:stop] -= np.count_nonzero(scores_RI == -np.inf, axis=1)
        values_T = scores_RI[truth.rows, truth.items]
        greater[entries], equal[entries] = _count(scores_RI, truth.offsets, values_T)
        if k > 0:
            tops.append(top_k(scores_RI, k))
        removed = targets.offsets[start] + np.flatnonzero(values_T == -np.inf)
        greater[removed] = eligible[start + truth.rows[removed - targets.offsets[start]]]
        equal[removed] = 0
        start = stop
    return Ranks(targets.offsets, greater, equal, eligible, Recommendations.joined(tops, k))


def rank_lists(recommendations: Recommendations, targets: Events) -> Ranks:
    """The rank of every true item in lists that came from elsewhere; one that is not in its list is not found.

    Raises:
        ValueError: another number of lists than of queries, or an item that stands in a list twice.
    """
    n, k = recommendations.items.shape
    if n != len(targets):
        raise ValueError(f"{n} lists for {len(targets)} queries")
    targets = distinct(targets)
    lengths = np.asarray(recommendations.lengths, np.int64)
    used = np.arange(k) < lengths[:, None]
    rows, places = np.nonzero(used)
    items = recommendations.items[used].astype(np.int64)
    width = 1 + max(items.max(initial=0), targets.items.max(initial=0))
    keys, order = np.unique(rows * width + items, return_index=True)
    if len(keys) < len(items):
        twice = np.setdiff1d(np.arange(len(items)), order)[0]
        raise ValueError(
            f"list {rows[twice]}: item {items[twice]} stands there twice, the second at {places[twice] + 1}"
        )
    wanted = targets.rows * width + targets.items
    at = np.searchsorted(keys, wanted)
    found = np.append(keys, -1)[at] == wanted
    greater = lengths[targets.rows]
    greater[found] = places[order[at[found]]]
    return Ranks(targets.offsets, greater, np.zeros_like(greater), lengths, recommendations)


def distinct(targets: Events) -> Events:
    """The targets without those that stand in their row before."""
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
    """Scores of the row greater than each target's and, without the target itself, equal to it."""
    lengths = np.diff(offsets)
    most = int(lengths.max(initial=0))
    if most >= SORTED_FROM:
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
    """The same by one sort of each row and a binary search for all targets at once."""
    sorted_RI = np.sort(scores_RI, axis=1)
    n_items = sorted_RI.shape[1]
    below, upto = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    step = 1 << (n_items.bit_length() - 1)
    while step:
        # both counts grow by `step` where the score just before them is still small enough
        for count, small in ((below, np.less), (upto, np.less_equal)):
            ahead = np.minimum(count + step, n_items)
            count[:] = np.where(
                (count + step <= n_items) & small(sorted_RI[rows, ahead - 1], values_T), count + step, count
            )
        step >>= 1
    return n_items - upto, upto - below - 1
