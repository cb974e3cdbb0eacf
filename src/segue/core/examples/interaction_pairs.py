"""Distinct user-item pairs of a log.

They are split into random batches, and unseen items are sampled for them.

Shapes: U users, I items, P distinct pairs, M pairs of a batch, K items sampled for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.core.seen_items import SeenItems
from segue.core.types import Events, Mask

__all__ = ["InteractionPairs", "PairBatch", "pair_batches"]

_Index: TypeAlias = NDArray[np.int64]

MAX_TRIES = 10
"""Maximum number of times that a sampled item the user has seen is replaced."""


class InteractionPairs:
    """The distinct pairs of ``histories``, sorted by user, then item; at least one."""

    def __init__(self, histories: Events, n_items: int) -> None:
        seen_UI = histories.csr(n_items)
        self.n_items = n_items
        self.offsets: _Index = seen_UI.indptr.astype(np.int64)
        """``(U + 1,)`` offsets of the pairs of each user."""
        self.users_P: _Index = np.repeat(np.arange(len(histories)), np.diff(self.offsets))
        self.items_P: _Index = seen_UI.indices.astype(np.int64)
        self._keys_P = self.users_P * n_items + self.items_P

    def batches(self, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_Index]]:
        """Split all pairs at random into batches.

        Return the number of batches, and the pairs ``(M,)`` of each, in ascending order.

        A batch has as many pairs as ``size`` users have on average, from any users.
        """
        n_users = int(np.count_nonzero(np.diff(self.offsets)))
        n_batches = min(-(-n_users // size), len(self.items_P))
        shuffled = rng.permutation(len(self.items_P))
        return n_batches, (np.sort(batch) for batch in np.array_split(shuffled, n_batches))

    def contains(self, users: _Index, items: _Index) -> Mask:
        """Return whether each user has each item; the two are broadcast."""
        keys = users * self.n_items + items
        index = np.minimum(np.searchsorted(self._keys_P, keys), len(self._keys_P) - 1)
        is_pair: Mask = self._keys_P[index] == keys
        return is_pair

    def sample_unseen(self, users_M: _Index, count: int, rng: np.random.Generator) -> tuple[_Index, Mask]:
        """Sample ``(M, K)`` items uniformly from those that each user has not seen.

        Returns:
            The items, and a mask of seen items among them: users who have seen nearly all items may get seen ones.
        """
        items_MK = rng.integers(self.n_items, size=(len(users_M), count))
        is_seen_MK = self.contains(users_M[:, None], items_MK)
        for _ in range(MAX_TRIES):
            rows, columns = np.nonzero(is_seen_MK)
            if not len(rows):
                break
            items_MK[rows, columns] = rng.integers(self.n_items, size=len(rows))
            is_seen_MK[rows, columns] = self.contains(users_M[rows], items_MK[rows, columns])
        return items_MK, is_seen_MK

    def seen(self, users_M: _Index) -> SeenItems:
        """Return all seen items of the users, for losses that exclude them.

        The users must be sorted.
        """
        users, rows_M = np.unique(users_M, return_inverse=True)
        lengths = np.diff(self.offsets)[users]
        ends = np.cumsum(lengths)
        rows_T = np.repeat(np.arange(len(users)), lengths)
        positions_T = np.arange(len(rows_T)) - np.repeat(ends - lengths, lengths)
        items_T = self.items_P[np.repeat(self.offsets[users], lengths) + positions_T]
        arrays = items_T, rows_T, positions_T.astype(np.int32), rows_M, lengths[rows_M].astype(np.int32)
        return SeenItems(*(torch.from_numpy(array) for array in arrays))


@dataclass(frozen=True, eq=False)
class PairBatch:
    """User-item pairs sorted by user, and all items of their users."""

    users_M: Tensor
    items_M: Tensor
    seen: SeenItems
    negatives_MK: Tensor | None = None
    """Sampled items of each pair; ``None``: the loss samples them."""
    is_negative_MK: Tensor | None = None
    """Which of them are negatives."""


def pair_batches(
    histories: Events, n_items: int, size: int, rng: np.random.Generator
) -> tuple[int, Iterator[PairBatch]]:
    """Return the number of batches and all pairs in random order.

    A batch has as many pairs as ``size`` users have on average.
    """
    pairs = InteractionPairs(histories, n_items)
    count, parts = pairs.batches(size, rng)

    def batch(part: _Index) -> PairBatch:
        users = pairs.users_P[part]
        return PairBatch(torch.from_numpy(users), torch.from_numpy(pairs.items_P[part]), pairs.seen(users))

    return count, (batch(part) for part in parts)
