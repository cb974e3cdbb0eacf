"""Who had what: distinct pairs of a user and an item, in a random order, and items that a user did not have.

Shapes: U users, I items, P distinct pairs of the log, M pairs of a batch, K items drawn for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from segue.core.seen_items import Seen
from segue.core.types import Events, Mask

__all__ = ["Holdings"]

_Index: TypeAlias = NDArray[np.int64]

TRIES = 10
"""Times that an item is drawn anew for a user who had it, at most."""


class Holdings:
    """The distinct pairs of ``histories``, sorted by user, then item; at least one."""

    def __init__(self, histories: Events, n_items: int) -> None:
        had_UI = histories.csr(n_items)
        self.n_items = n_items
        self.offsets: _Index = had_UI.indptr.astype(np.int64)
        """``(U + 1,)`` where the pairs of each user begin."""
        self.users_P: _Index = np.repeat(np.arange(len(histories)), np.diff(self.offsets))
        self.items_P: _Index = had_UI.indices.astype(np.int64)
        self._keys_P = self.users_P * n_items + self.items_P

    def batches(self, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_Index]]:
        """All pairs once, dealt at random: the number of batches, and the pairs ``(M,)`` of each, rising.

        A batch holds as many pairs as ``size`` users have on average, of whichever users.
        """
        people = int(np.count_nonzero(np.diff(self.offsets)))
        count = min(-(-people // size), len(self.items_P))
        dealt = rng.permutation(len(self.items_P))
        return count, (np.sort(part) for part in np.array_split(dealt, count))

    def had(self, users: _Index, items: _Index) -> Mask:
        """Whether each user had each item; the two are broadcast."""
        keys = users * self.n_items + items
        at = np.minimum(np.searchsorted(self._keys_P, keys), len(self._keys_P) - 1)
        found: Mask = self._keys_P[at] == keys
        return found

    def others(self, users_M: _Index, count: int, rng: np.random.Generator) -> tuple[_Index, Mask]:
        """``(M, K)`` items drawn evenly from what each user did not have, and where there is none after all.

        A user who had nearly everything may be drawn items that he had; these are what the mask tells.
        """
        items_MK = rng.integers(self.n_items, size=(len(users_M), count))
        had_MK = self.had(users_M[:, None], items_MK)
        for _ in range(TRIES):
            rows, columns = np.nonzero(had_MK)
            if not len(rows):
                break
            items_MK[rows, columns] = rng.integers(self.n_items, size=len(rows))
            had_MK[rows, columns] = self.had(users_M[rows], items_MK[rows, columns])
        return items_MK, had_MK

    def seen(self, users_M: _Index) -> Seen:
        """All that the users, which rise, had; for losses that leave it out of the wrong answers."""
        users, rows_M = np.unique(users_M, return_inverse=True)
        lengths = np.diff(self.offsets)[users]
        ends = np.cumsum(lengths)
        rows_T = np.repeat(np.arange(len(users)), lengths)
        places_T = np.arange(len(rows_T)) - np.repeat(ends - lengths, lengths)
        items_T = self.items_P[np.repeat(self.offsets[users], lengths) + places_T]
        arrays = items_T, rows_T, places_T.astype(np.int32), rows_M, lengths[rows_M].astype(np.int32)
        return Seen(*(torch.from_numpy(array) for array in arrays))
