"""One place after the other: lists with quotas, and lists whose items differ.

Maximal marginal relevance (Carbonell & Goldstein 1998, doi:10.1145/290941.291025): at each place the item with the
greatest ``(1 - d) relevance - d likeness``, where ``likeness`` is that to the most alike item above it, 0 at the first
place. ``relevance`` is the score, scaled so that the best of the pool has 1 and the last of it 0; ``d = 0`` is the
order of the scores. Equal ones stand by score, then by code.

The pool are the best few hundred items. When quotas leave none of it, the best of the others join.

Shapes: I items, P items of the pool, V values of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Mask, Scores
from segue.core.recommend import top_k
from segue.serving.catalog.feature_column import Groups
from segue.serving.rules.item_similarity import Likeness

__all__ = ["POOL", "Quota", "choose"]

POOL = 256
"""Items that are looked at; more where the list is longer than a quarter of it."""


class Quota:
    """At most ``most`` items of each value.

    Args:
        groups: the values of each item; one that has none is free.
    """

    def __init__(self, groups: Groups, most: int) -> None:
        self._groups, self._most = groups, most
        self._counts = np.zeros(len(groups.values), np.int32)

    def take(self, item: int) -> bool:
        """Count an item; whether a value is full now that was not before."""
        own = self._groups.codes[self._groups.offsets[item] : self._groups.offsets[item + 1]]
        self._counts[own] += 1
        return bool((self._counts[own] == self._most).any())

    def full(self, items: NDArray[np.integer[Any]]) -> Mask:
        """Which of ``items`` have a value that is full."""
        groups = self._groups
        if 4 * len(items) > len(groups):  # to look at all is cheaper than to gather so many
            found_I = np.zeros(len(groups), np.bool_)
            found_I[groups.rows[np.flatnonzero(self._counts[groups.codes] >= self._most)]] = True
            found: Mask = found_I[items]
            return found
        rows, values = groups.of(items)
        found = np.zeros(len(items), np.bool_)
        found[rows[self._counts[values] >= self._most]] = True
        return found


def choose(
    ranked_I: Scores, shown: Sequence[int | None], quotas: Sequence[Quota], diversify: float, likeness: Likeness | None
) -> tuple[Codes, int]:
    """The items for the free places of a list, in order, and how many better ones quotas passed over.

    Args:
        ranked_I: scores; minus infinity is not eligible.
        shown: for each place of the list the item that stands there anyway, or ``None``: it is free.
        quotas: what they hold is counted here, that of ``shown`` first.
        likeness: needed where ``diversify`` is not 0.
    """
    for item in shown:
        if item is not None:
            for quota in quotas:
                quota.take(item)
    size = max(POOL, 4 * len(shown))
    left: Codes | None = None
    pool = _Pool(ranked_I, _best(ranked_I, size), diversify, likeness)
    scale = pool.scale
    pool.close(quotas)
    chosen: list[int] = []
    above: list[int] = []
    for pinned in shown:
        if pinned is None:
            found = pool.best()
            if found is None and quotas:  # nothing of the pool is left: the best of what is still open
                left = np.flatnonzero(ranked_I > -np.inf).astype(np.int32) if left is None else left
                left = left[~(_full(quotas, left) | np.isin(left, chosen))]
                pool = _Pool(ranked_I, left[_best(ranked_I[left], size)], diversify, likeness, scale, above)
                found = pool.best()
            if found is None:
                break
            chosen.append(found)
            full = [quota.take(found) for quota in quotas]
            if any(full):
                pool.close(quotas)
        above.append(chosen[-1] if pinned is None else pinned)
        pool.show(above[-1])
    return np.array(chosen, np.int32), _passed(ranked_I, chosen, quotas, len(chosen) < shown.count(None))


class _Pool:
    """Items in the order of their scores, with what each is worth at the next place."""

    def __init__(
        self,
        ranked_I: Scores,
        items: Codes,
        diversify: float,
        likeness: Likeness | None,
        scale: tuple[float, float] | None = None,
        above: Sequence[int] = (),
    ) -> None:
        scores = ranked_I[items].astype(np.float64)
        self.scale = scale or _scale(scores)
        self._items = items
        self._open = np.ones(len(items), np.bool_)
        self._worth = (1 - diversify) * (scores - self.scale[0]) * self.scale[1]
        self._diversify = diversify
        self._like = likeness(items) if likeness is not None and diversify > 0 else None
        self._most_P: NDArray[np.float64] | None = None
        for item in above:
            self.show(item)

    def best(self) -> int | None:
        """The item for the next place, which is then taken."""
        if not self._open.any():
            return None
        worth_P = self._worth if self._most_P is None else self._worth - self._diversify * self._most_P
        first = int(np.argmax(np.where(self._open, worth_P, -np.inf)))
        self._open[first] = False
        return int(self._items[first])

    def show(self, item: int) -> None:
        """``item`` stands above all that follows."""
        if self._like is not None:
            like_P = self._like(item)
            self._most_P = like_P if self._most_P is None else np.maximum(self._most_P, like_P)

    def close(self, quotas: Sequence[Quota]) -> None:
        """Leave out what quotas no longer admit."""
        if quotas:
            self._open &= ~_full(quotas, self._items)


def _scale(scores: NDArray[np.float64]) -> tuple[float, float]:
    """What to take from a score, and then to multiply it with."""
    if not len(scores) or scores[0] == scores[-1]:
        return (float(scores[0]) if len(scores) else 0.0), 1.0
    return float(scores[-1]), 1.0 / float(scores[0] - scores[-1])


def _best(scores: Scores, size: int) -> Codes:
    """The places of the best, best first."""
    if not len(scores):
        return np.zeros(0, np.int32)
    found = top_k(scores[None], size)
    best: Codes = found.items[0, : found.lengths[0]]
    return best


def _full(quotas: Sequence[Quota], items: NDArray[np.integer[Any]]) -> Mask:
    full = quotas[0].full(items)
    for quota in quotas[1:]:
        full |= quota.full(items)
    return full


def _passed(ranked_I: Scores, chosen: Sequence[int], quotas: Sequence[Quota], short: bool) -> int:
    """Eligible items that a quota keeps out, of those that stand above the last that was chosen."""
    if not quotas:
        return 0
    better = ranked_I > -np.inf
    if short:  # quotas keep out all that are left
        return int(np.count_nonzero(better)) - len(chosen)
    if not chosen:
        return 0
    last = min((float(ranked_I[item]), -item) for item in chosen)
    better &= ranked_I >= last[0]
    ties = np.flatnonzero(better & (ranked_I == last[0]))
    better[ties[ties > -last[1]]] = False
    better[list(chosen)] = False
    return int(_full(quotas, np.flatnonzero(better)).sum())
