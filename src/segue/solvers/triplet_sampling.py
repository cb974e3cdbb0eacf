"""Who had what, and something that he has not had: the triples that pairwise learning compares.

Shapes: T events, S triples, I items.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import boolean, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import read, summing_kernel, written
from segue.core.types import Codes, Dataset

__all__ = ["Draws", "Triples"]

ROUNDS = 100
"""Draws, at most, until one is found that the user has not had."""


class Triples(NamedTuple):
    """Who had which item, and not the other; each ``(S,)``."""

    users: Codes
    items: Codes
    others: Codes


class Draws:
    """The events of a log, each with another draw whenever it is asked for.

    Args:
        alpha: power of an item's count with which it is drawn; 0: every item alike, whether it has events or not.
    """

    def __init__(self, train: Dataset, alpha: float) -> None:
        seen_UI = train.histories.csr(train.n_items)
        self._users, self._items = train.histories.rows.astype(np.int32), train.histories.items
        self._begins, self._seen = seen_UI.indptr.astype(np.int64), seen_UI.indices.astype(np.int32)
        self._n_items = train.n_items
        counts_I = np.bincount(self._items, minlength=train.n_items).astype(np.float64)
        self._upto_I = np.zeros(0) if alpha == 0 else np.cumsum(counts_I**alpha)

    def triples(self, rng: np.random.Generator) -> Triples:
        """One triple for each event, in random order; none where a hundred draws found nothing he has not had."""
        others = self._any(rng, len(self._users))
        left = np.arange(len(others))
        for _ in range(ROUNDS):
            had = np.empty(len(left), np.bool_)
            _had(self._begins, self._seen, self._users[left], others[left], had)
            left = left[had]
            if not len(left):
                break
            others[left] = self._any(rng, len(left))
        order = rng.permutation(np.delete(np.arange(len(others)), left))
        return Triples(self._users[order], self._items[order], others[order])

    def _any(self, rng: np.random.Generator, count: int) -> Codes:
        if not len(self._upto_I):
            return rng.integers(self._n_items, size=count, dtype=np.int32)
        # rounding may reach the end, and the last item may have no weight: the last that has is meant
        end = self._upto_I[-1]
        places = np.minimum(rng.random(count) * end, np.nextafter(end, 0.0))
        found: Codes = np.searchsorted(self._upto_I, places, side="right").astype(np.int32)
        return found


@summing_kernel(read(int64), read(int32), read(int32), read(int32), written(boolean))
def _had(begins: NDArray[np.int64], seen: Codes, users: Codes, items: Codes, had: NDArray[np.bool_]) -> None:
    """Whether ``users[t]`` had ``items[t]``, by halving his sorted items."""
    for t in range(len(users)):
        low, stop = begins[users[t]], begins[users[t] + 1]
        high = stop
        while low < high:
            middle = (low + high) // 2
            if seen[middle] < items[t]:
                low = middle + 1
            else:
                high = middle
        had[t] = low < stop and seen[low] == items[t]
