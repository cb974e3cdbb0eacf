"""Chance: every item is as good as any other, the floor under all comparisons.

The score of an item is a hash of the run's seed, the question and the item: the same question always gets the same
answer, alone or in a block, and nothing has to be remembered but the seed. The hash is SplitMix64 (Steele, Lea and
Flood 2014, doi:10.1145/2660193.2660195).

Shapes: N queries, I items, C candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.model import Arrays, Solver, Validate
from segue.core.model_arrays import take_back
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores

__all__ = ["Random"]

Words = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Random(Solver):
    """Scores spread evenly over [0, 1), without regard to anything."""

    class Config(Settings):
        """Nothing to set: the seed is the run's."""

    seed_1: Words

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Take the run's seed."""
        self.seed_1 = np.array([run.seed_of("random")], np.uint64)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """A hash of seed, user (where known), history and item."""
        items = np.arange(self.domain.n_items)[None, :] if candidates is None else candidates
        words_NC = items.astype(np.uint64) + self._key(queries)[:, None]
        return (_mix(words_NC) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)

    def _key(self, queries: Queries) -> Words:
        """``(N,)`` one number for each question."""
        history = queries.history
        positions = np.arange(history.size) - history.offsets[:-1][history.rows]
        events = _mix(history.items.astype(np.uint64) + (positions.astype(np.uint64) << np.uint64(32)))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(events, dtype=np.uint64)])
        users = np.where(queries.known, queries.users + 1, 0).astype(np.uint64)
        return _mix(_mix(self.seed_1 + users) + sums[history.offsets[1:]] - sums[history.offsets[:-1]])

    def arrays(self) -> Arrays:
        """The seed."""
        return {"seed": self.seed_1}

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        self.seed_1 = take_back(arrays, "seed", (1,), np.uint64)


def _mix(words: Words) -> Words:
    """SplitMix64 of each word; sums and products wrap round at 64 bits."""
    words = words + GOLDEN
    words ^= words >> np.uint64(30)
    words *= FIRST
    words ^= words >> np.uint64(27)
    words *= SECOND
    words ^= words >> np.uint64(31)
    return words
