"""Encode queries as inputs of the forward filter.

The inputs are item codes, session flags, ratings and profiles.

Shapes: N queries, T events, S states, I items of the dataset.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.types import DataSchema, Dataset, Events, Queries, Vocab
from segue.data.simulator.choice_model import RATINGS, SESSION_GAP
from segue.data.simulator.forward_filter import UNKNOWN, FilterResult, next_item_probabilities, run_filter
from segue.data.simulator.world import SimulatedWorld

__all__ = ["INPUTS", "QueryEncoder"]

INPUTS = frozenset({"times", "values", "profile"})
"""Inputs that may be used besides the items of the history."""


@dataclass(frozen=True, eq=False)
class QueryEncoder:
    """Encoder of queries to a dataset that was generated from a world."""

    world: SimulatedWorld
    items: NDArray[np.int32]
    """``(I,)`` item codes in the world by item code of the dataset."""
    users: NDArray[np.int32]
    """``(U,)`` user codes in the world by user code of the dataset."""
    inputs: frozenset[str]

    @classmethod
    def of(cls, dataset: Dataset, inputs: Collection[str]) -> QueryEncoder:
        """Create an encoder for queries to ``dataset``.

        Args:
            inputs: what the encoder uses, of ``INPUTS``.

        Raises:
            ValueError: the dataset is not simulated, or a filter removed events other than at the end.
        """
        if not INPUTS.issuperset(inputs):
            raise ValueError(f"inputs: got {sorted(inputs)}, expected some of {sorted(INPUTS)}")
        removed = dataset.header.get("filters", {}).get("removed", {})
        if removals := [f"{name} removed {count} events" for name, count in removed.items() if count and name != "end"]:
            raise ValueError(f"dataset {dataset.name}: filtered ({', '.join(removals)}), expected complete histories")
        items, users = _world_codes(dataset.items), _world_codes(dataset.users)
        return cls(SimulatedWorld.of(dataset), items, users, frozenset(inputs))

    @property
    def schema(self) -> DataSchema:
        """Schema of the dataset."""
        return DataSchema(len(self.users), len(self.items))

    def run_filter(self, queries: Queries) -> tuple[Events, FilterResult]:
        """Return the filter result, and the histories in the codes of the world."""
        seen = queries.history
        history = Events(seen.offsets, self.items[seen.items])
        flags, next_flags = np.full(seen.size, UNKNOWN, np.int8), np.full(len(seen), UNKNOWN, np.int8)
        if "times" in self.inputs and seen.times is not None:
            flags[1:] = np.diff(seen.times) > SESSION_GAP
            if queries.times is not None:
                has_events = seen.lengths > 0
                last = seen.times[seen.offsets[1:][has_events] - 1]
                next_flags[has_events] = queries.times[has_events] - last > SESSION_GAP
        ratings = np.zeros(seen.size, np.int8)
        if "values" in self.inputs and seen.values is not None:
            valid = (seen.values >= 1) & (seen.values <= RATINGS) & (seen.values % 1 == 0)
            ratings[valid] = seen.values[valid]
        prior_NS = self.world.population.priors(self._profiles(queries))
        after = run_filter(
            self.world.choice_model, prior_NS, history.offsets, history.items, flags, ratings, next_flags
        )
        return history, after

    def probabilities(
        self, history: Events, after: FilterResult, belief_NS: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return P(next item) in the codes of the dataset, ``(N, I)``."""
        p_NI = next_item_probabilities(self.world.choice_model, history, after, belief_NS)
        return p_NI if np.array_equal(self.items, np.arange(p_NI.shape[1])) else p_NI[:, self.items]

    def _profiles(self, queries: Queries) -> NDArray[np.int64]:
        """Return profile codes, ``(N, 3)``.

        They come from the query if it has a profile, else from its user in the world.
        """
        population = self.world.population
        if "profile" not in self.inputs:
            return population.unknown(len(queries))
        if queries.profile is not None:
            return population.read(queries.profile)
        codes = population.unknown(len(queries))
        if queries.known.any():
            known = self.users[queries.users[queries.known]]
            first = int(known.min())
            codes[queries.known] = population.codes(first, int(known.max()) - first + 1)[known - first]
        return codes


def _world_codes(ids: Vocab) -> NDArray[np.int32]:
    """Return codes in the world from ids such as ``i017``."""
    return (ids.ids.str.slice(1).cast(pl.Int32) - 1).to_numpy()
