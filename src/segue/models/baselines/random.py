"""Recommend items at random: a lower bound for comparisons.

The score of an item is a hash of the run's seed, the query and the item. Equal queries get equal scores, whether scored
alone or in a batch, and only the seed is stored. The hash is SplitMix64 (Steele, Lea and Flood 2014,
doi:10.1145/2660193.2660195).

Shapes: N queries, I items, C candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.model import Solver, StateArrays, Validate
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores

__all__ = ["Random"]

Words = NDArray[np.uint64]

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIER_1, MULTIPLIER_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Random(Solver):
    """Uniform random scores in [0, 1)."""

    class Config(Settings):
        """No settings: the seed is that of the run."""

    seed_1: Words

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Take the seed of the run."""
        self.seed_1 = np.array([run.derive_seed("random")], np.uint64)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Hash the seed, the user (if known), the history and the item."""
        items = np.arange(self.schema.n_items)[None, :] if candidates is None else candidates
        words_NC = items.astype(np.uint64) + self._query_hash(queries)[:, None]
        return (_splitmix64(words_NC) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)

    def _query_hash(self, queries: Queries) -> Words:
        """Return the ``(N,)`` hash of each query."""
        history = queries.history
        positions = np.arange(history.size) - history.offsets[:-1][history.rows]
        events = _splitmix64(history.items.astype(np.uint64) + (positions.astype(np.uint64) << np.uint64(32)))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(events, dtype=np.uint64)])
        users = np.where(queries.known, queries.users + 1, 0).astype(np.uint64)
        return _splitmix64(_splitmix64(self.seed_1 + users) + sums[history.offsets[1:]] - sums[history.offsets[:-1]])

    def arrays(self) -> StateArrays:
        """Return the seed."""
        return {"seed": self.seed_1}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        self.seed_1 = load_array(arrays, "seed", (1,), np.uint64)


def _splitmix64(words: Words) -> Words:
    """Compute SplitMix64 of each word; arithmetic is modulo 2^64."""
    words = words + GOLDEN_GAMMA
    words ^= words >> np.uint64(30)
    words *= MULTIPLIER_1
    words ^= words >> np.uint64(27)
    words *= MULTIPLIER_2
    words ^= words >> np.uint64(31)
    return words
