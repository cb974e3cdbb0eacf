"""From a query to what the filter reads: codes of the world, session flags, ratings, profiles.

Shapes: N queries, T events, S states, I items of the dataset.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.types import Dataset, Domain, Events, Queries, Vocab
from segue.data.simulator.choice_model import RATINGS, SESSION_GAP
from segue.data.simulator.forward_filter import UNKNOWN, Next, distribution, follow
from segue.data.simulator.world import World

__all__ = ["READS", "Reader"]

READS = frozenset({"times", "values", "profile"})
"""What may be read beside the items of the history."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A world, the codes of a dataset made from it, and what may be read."""

    world: World
    items: NDArray[np.int32]
    """``(I,)`` the world's code of each item of the dataset."""
    users: NDArray[np.int32]
    """``(U,)`` the world's code of each user of the dataset."""
    reads: frozenset[str]

    @classmethod
    def of(cls, dataset: Dataset, reads: Collection[str]) -> Reader:
        """A reader of queries to ``dataset``, told ``reads`` out of ``READS`` beside the items.

        Raises:
            ValueError: a dataset that was not simulated, or from which a filter took events.
        """
        if not READS.issuperset(reads):
            raise ValueError(f"reads: got {sorted(reads)}, expected some of {sorted(READS)}")
        removed = dataset.header.get("filters", {}).get("removed", {})
        if gaps := [f"{name} removed {count} events" for name, count in removed.items() if count and name != "end"]:
            raise ValueError(f"dataset {dataset.name}: filtered ({', '.join(gaps)}), expected whole histories")
        return cls(World.of(dataset), _places(dataset.items), _places(dataset.users), frozenset(reads))

    @property
    def domain(self) -> Domain:
        """Sizes of the dataset."""
        return Domain(len(self.users), len(self.items))

    def follow(self, queries: Queries) -> tuple[Events, Next]:
        """The histories in the codes of the world, and the filter after them."""
        seen = queries.history
        history = Events(seen.offsets, self.items[seen.items])
        flags, coming = np.full(seen.size, UNKNOWN, np.int8), np.full(len(seen), UNKNOWN, np.int8)
        if "times" in self.reads and seen.times is not None:
            flags[1:] = np.diff(seen.times) > SESSION_GAP
            if queries.times is not None:
                some = seen.lengths > 0
                last = seen.times[seen.offsets[1:][some] - 1]
                coming[some] = queries.times[some] - last > SESSION_GAP
        ratings = np.zeros(seen.size, np.int8)
        if "values" in self.reads and seen.values is not None:
            valid = (seen.values >= 1) & (seen.values <= RATINGS) & (seen.values % 1 == 0)
            ratings[valid] = seen.values[valid]
        prior_NS = self.world.people.priors(self._profiles(queries))
        after = follow(self.world.law, prior_NS, history.offsets, history.items, flags, ratings, coming)
        return history, after

    def probabilities(self, history: Events, after: Next, belief_NS: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(N, I)`` P(next item) in the codes of the dataset."""
        p_NI = distribution(self.world.law, history, after, belief_NS)
        return p_NI if np.array_equal(self.items, np.arange(p_NI.shape[1])) else p_NI[:, self.items]

    def _profiles(self, queries: Queries) -> NDArray[np.int64]:
        """``(N, 3)`` profile codes: as the query says, else as the world knows its user."""
        people = self.world.people
        if "profile" not in self.reads:
            return people.unknown(len(queries))
        if queries.profile is not None:
            return people.read(queries.profile)
        codes = people.unknown(len(queries))
        if queries.known.any():
            known = self.users[queries.users[queries.known]]
            first = int(known.min())
            codes[queries.known] = people.codes(first, int(known.max()) - first + 1)[known - first]
        return codes


def _places(ids: Vocab) -> NDArray[np.int32]:
    """The world's codes from its ids, such as ``i017``."""
    return (ids.ids.str.slice(1).cast(pl.Int32) - 1).to_numpy()
