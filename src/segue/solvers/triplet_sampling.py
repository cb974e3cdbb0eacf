"""Sample triplets for pairwise learning: user, item of the history, unseen item.

Shapes: T events, S triplets, I items.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import boolean, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array
from segue.core.types import Codes, Dataset

__all__ = ["TripletBatch", "TripletSampler"]

MAX_TRIES = 100
"""Maximum number of draws to find an unseen item."""


class TripletBatch(NamedTuple):
    """Users, positive items and negative items; each ``(S,)``."""

    users: Codes
    items: Codes
    negatives: Codes


class TripletSampler:
    """Sampler of one triplet for each event of a log.

    Args:
        train: the log.
        alpha: exponent of item counts in the sampling distribution; 0: uniform over all items.
    """

    def __init__(self, train: Dataset, alpha: float) -> None:
        seen_UI = train.histories.csr(train.n_items)
        self._users, self._items = train.histories.rows.astype(np.int32), train.histories.items
        self._offsets, self._seen = seen_UI.indptr.astype(np.int64), seen_UI.indices.astype(np.int32)
        self._n_items = train.n_items
        counts_I = np.bincount(self._items, minlength=train.n_items).astype(np.float64)
        self._cumulative_I = np.zeros(0) if alpha == 0 else np.cumsum(counts_I**alpha)

    def triples(self, rng: np.random.Generator) -> TripletBatch:
        """Sample one triplet for each event, in random order.

        Events for which no unseen item is found are left out.
        """
        negatives = self._sample(rng, len(self._users))
        pending = np.arange(len(negatives))
        for _ in range(MAX_TRIES):
            is_seen = np.empty(len(pending), np.bool_)
            _contains(self._offsets, self._seen, self._users[pending], negatives[pending], is_seen)
            pending = pending[is_seen]
            if not len(pending):
                break
            negatives[pending] = self._sample(rng, len(pending))
        order = rng.permutation(np.delete(np.arange(len(negatives)), pending))
        return TripletBatch(self._users[order], self._items[order], negatives[order])

    def _sample(self, rng: np.random.Generator, count: int) -> Codes:
        if not len(self._cumulative_I):
            return rng.integers(self._n_items, size=count, dtype=np.int32)
        # rounding may reach the end, where the last items may have no weight
        end = self._cumulative_I[-1]
        draws = np.minimum(rng.random(count) * end, np.nextafter(end, 0.0))
        items: Codes = np.searchsorted(self._cumulative_I, draws, side="right").astype(np.int32)
        return items


@fastmath_kernel(input_array(int64), input_array(int32), input_array(int32), input_array(int32), output_array(boolean))
def _contains(offsets: NDArray[np.int64], seen: Codes, users: Codes, items: Codes, out: NDArray[np.bool_]) -> None:
    """Look up whether ``users[t]`` has ``items[t]`` by binary search in sorted items."""
    for t in range(len(users)):
        low, stop = offsets[users[t]], offsets[users[t] + 1]
        high = stop
        while low < high:
            middle = (low + high) // 2
            if seen[middle] < items[t]:
                low = middle + 1
            else:
                high = middle
        out[t] = low < stop and seen[low] == items[t]
