"""Recommend items at random: a lower bound for comparisons.

The score of an item is a hash of the run's seed, the query and the item. Equal queries get equal scores, whether scored
alone or in a batch, and only the seed is stored. The hash is SplitMix64 (Steele, Lea and Flood 2014,
doi:10.1145/2660193.2660195).

Shapes: N queries, I items, C candidates.
"""

from __future__ import annotations

import numpy as np

from segue.core.config import Settings
from segue.core.model import Solver, StateArrays, Validate
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.solvers.profiles.query_hash import Words, hash_queries, uniform_numbers

__all__ = ["Random"]


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
        items = np.arange(self.schema.n_items, dtype=np.int32)[None, :] if candidates is None else candidates
        return uniform_numbers(hash_queries(queries, self.seed_1), items)

    def arrays(self) -> StateArrays:
        """Return the seed."""
        return {"seed": self.seed_1}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        self.seed_1 = load_array(arrays, "seed", (1,), np.uint64)
