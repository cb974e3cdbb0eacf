"""Greedy selection with quotas and diversity: maximal marginal relevance.

Source: Carbonell & Goldstein 1998, doi:10.1145/290941.291025. Each position takes the item with the greatest
``(1 - d) relevance - d similarity``, where ``similarity`` is to the most similar item above it (0 at the first
position). ``relevance`` is the score, scaled so that the best item of the pool has 1 and the last has 0; ``d = 0``
gives the order of the scores. Ties are ordered by score, then by item code.

The pool contains the best few hundred items. When quotas exclude all of them, the best of the remaining items are
added.

Shapes: I items, P items of the pool, V values of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Mask, Scores
from segue.core.recommend import top_k
from segue.serving.catalog.feature_column import ItemValues
from segue.serving.rules.item_similarity import ItemSimilarity
from segue.serving.scheduling.steps import Steps

__all__ = ["POOL_SIZE", "Quota", "select_mmr"]

POOL_SIZE = 256
"""Candidate items; more when the list is longer than a quarter of it."""

POSITIONS_PER_STEP = 16
"""Positions between two pauses."""


class Quota:
    """At most ``max_per_value`` items with each value of a feature.

    Args:
        item_values: the values of each item; an item without any is never restricted.
    """

    def __init__(self, item_values: ItemValues, max_per_value: int) -> None:
        self._item_values, self._max_per_value = item_values, max_per_value
        self._counts: dict[int, int] = {}
        self._is_full_V = np.zeros(len(item_values.values), np.bool_)

    def add(self, item: int) -> bool:
        """Count an item; return whether one of its values just became full."""
        became_full = False
        for value in self._item_values.codes_of(item):
            count = self._counts[value] = self._counts.get(value, 0) + 1
            if count == self._max_per_value:
                self._is_full_V[value] = became_full = True
        return became_full

    def full_mask(self, items: NDArray[np.integer[Any]]) -> Mask:
        """Return which of ``items`` have a full value."""
        item_values = self._item_values
        if 4 * len(items) > len(item_values):  # a full scan is cheaper than gathering this many
            mask_I = np.zeros(len(item_values), np.bool_)
            mask_I[item_values.rows[np.flatnonzero(self._is_full_V[item_values.codes])]] = True
            mask: Mask = mask_I[items]
            return mask
        rows, values = item_values.gather(items)
        mask = np.zeros(len(items), np.bool_)
        mask[rows[self._is_full_V[values]]] = True
        return mask


def select_mmr(
    ranked_I: Scores,
    fixed_items: Sequence[int | None],
    quotas: Sequence[Quota],
    diversify: float,
    similarity: ItemSimilarity | None,
) -> Steps[tuple[Codes, int]]:
    """Select the items for the free positions, in order.

    Pauses every few positions.

    Args:
        ranked_I: scores; minus infinity marks items that are not eligible.
        fixed_items: for each position of the list the pinned item, or ``None`` if the position is free.
        quotas: updated in place, with the items of ``fixed_items`` first.
        similarity: required if ``diversify`` is not 0.

    Returns:
        The items, and how many better ones quotas skipped.
    """
    for item in fixed_items:
        if item is not None:
            for quota in quotas:
                quota.add(item)
    size = max(POOL_SIZE, 4 * len(fixed_items))
    remaining: Codes | None = None
    pool = _CandidatePool(ranked_I, _top_indices(ranked_I, size), diversify, similarity)
    scale = pool.scale
    pool.drop_full(quotas)
    selected: list[int] = []
    above: list[int] = []
    for position, fixed in enumerate(fixed_items):
        if position % POSITIONS_PER_STEP == 0:
            yield
        if fixed is None:
            best = pool.pop_best()
            if best is None and quotas:  # the pool is exhausted: refill it with the best items that quotas admit
                remaining = np.flatnonzero(ranked_I > -np.inf).astype(np.int32) if remaining is None else remaining
                remaining = remaining[~(_full_mask(quotas, remaining) | np.isin(remaining, selected))]
                refill = remaining[_top_indices(ranked_I[remaining], size)]
                pool = _CandidatePool(ranked_I, refill, diversify, similarity, scale)
                for shown, item in enumerate(above):
                    if shown % POSITIONS_PER_STEP == 0:
                        yield
                    pool.mark_shown(item)
                best = pool.pop_best()
            if best is None:
                break
            selected.append(best)
            became_full = [quota.add(best) for quota in quotas]
            if any(became_full):
                pool.drop_full(quotas)
        above.append(selected[-1] if fixed is None else fixed)
        pool.mark_shown(above[-1])
    yield
    is_short = len(selected) < fixed_items.count(None)
    return np.array(selected, np.int32), _count_quota_skips(ranked_I, selected, quotas, is_short)


class _CandidatePool:
    """Items by descending score, with their marginal relevance for the next position."""

    def __init__(
        self,
        ranked_I: Scores,
        items: Codes,
        diversify: float,
        similarity: ItemSimilarity | None,
        scale: tuple[float, float] | None = None,
    ) -> None:
        scores = ranked_I[items].astype(np.float64)
        self.scale = scale or _relevance_scale(scores)
        self._items = items
        # minus infinity marks items that are not available any more
        self._relevance_P = (1 - diversify) * (scores - self.scale[0]) * self.scale[1]
        self._diversify = diversify
        self._similarity = similarity(items) if similarity is not None and diversify > 0 else None
        self._max_similarity_P: NDArray[np.float64] | None = None

    def pop_best(self) -> int | None:
        """Return the item for the next position and remove it; ``None`` if none is left."""
        if not len(self._items):
            return None
        marginal_P = self._relevance_P
        if self._max_similarity_P is not None:
            marginal_P = marginal_P - self._diversify * self._max_similarity_P
        first = int(marginal_P.argmax())
        if self._relevance_P[first] == -np.inf:
            return None
        self._relevance_P[first] = -np.inf
        return int(self._items[first])

    def mark_shown(self, item: int) -> None:
        """Account for ``item`` being above all items selected later."""
        if self._similarity is not None:
            similarity_P = self._similarity(item)
            before_P = self._max_similarity_P
            self._max_similarity_P = similarity_P if before_P is None else np.maximum(before_P, similarity_P)

    def drop_full(self, quotas: Sequence[Quota]) -> None:
        """Remove items that the quotas no longer admit."""
        if quotas:
            self._relevance_P[_full_mask(quotas, self._items)] = -np.inf


def _relevance_scale(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Return the offset and the factor that scale scores to relevance."""
    if not len(scores) or scores[0] == scores[-1]:
        return (float(scores[0]) if len(scores) else 0.0), 1.0
    return float(scores[-1]), 1.0 / float(scores[0] - scores[-1])


def _top_indices(scores: Scores, size: int) -> Codes:
    """Return the indices of the best scores, best first."""
    if not len(scores):
        return np.zeros(0, np.int32)
    found = top_k(scores[None], size)
    best: Codes = found.items[0, : found.lengths[0]]
    return best


def _full_mask(quotas: Sequence[Quota], items: NDArray[np.integer[Any]]) -> Mask:
    full = quotas[0].full_mask(items)
    for quota in quotas[1:]:
        full |= quota.full_mask(items)
    return full


def _count_quota_skips(ranked_I: Scores, selected: Sequence[int], quotas: Sequence[Quota], is_short: bool) -> int:
    """Count eligible items above the last selected one that a quota excludes."""
    if not quotas:
        return 0
    better = ranked_I > -np.inf
    if is_short:  # quotas exclude all remaining items
        return int(np.count_nonzero(better)) - len(selected)
    if not selected:
        return 0
    last = min((float(ranked_I[item]), -item) for item in selected)
    better &= ranked_I >= last[0]
    ties = np.flatnonzero(better & (ranked_I == last[0]))
    better[ties[ties > -last[1]]] = False
    better[list(selected)] = False
    return int(_full_mask(quotas, np.flatnonzero(better)).sum())
