"""Combine catalog, users and choice model into a world that generates logs.

Shapes: U users, I items, T events, S states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import parse
from segue.core.types import Dataset, Events, Vocab
from segue.data.simulator.catalog import SimulatedCatalog
from segue.data.simulator.choice_model import AliasTables, ChoiceModel, build_alias_tables, build_choice_model
from segue.data.simulator.event_sampler import sample_events
from segue.data.simulator.settings import SimulatorSettings
from segue.data.simulator.users import UserPopulation

__all__ = ["Chunk", "SimulatedWorld"]

HEADER = "simulator"
"""Header entry of a dataset with the settings of its world."""
ROWS = 1_000_000
"""Approximate number of events per chunk."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Events of the users ``first``, ``first + 1``, ..."""

    first: int
    events: Events
    """One row per user, with times (seconds, UTC) and values (ratings 1 to 5)."""
    states: NDArray[np.int16]
    """``(T,)`` hidden state ``appetite * tastes + taste`` at each event; empty unless requested."""


@dataclass(frozen=True, eq=False)
class SimulatedWorld:
    """A simulated world, determined by its settings."""

    settings: SimulatorSettings
    catalog: SimulatedCatalog
    population: UserPopulation
    choice_model: ChoiceModel

    @classmethod
    def build(cls, settings: SimulatorSettings) -> SimulatedWorld:
        """Build the world of ``settings``."""
        streams = np.random.SeedSequence(settings.seed).spawn(3)
        catalog = SimulatedCatalog.build(settings, np.random.default_rng(streams[0]))
        population = UserPopulation.build(settings, np.random.default_rng(streams[1]))
        return cls(
            settings, catalog, population, build_choice_model(settings, catalog, np.random.default_rng(streams[2]))
        )

    @classmethod
    def of(cls, dataset: Dataset) -> SimulatedWorld:
        """Rebuild the world that generated ``dataset``.

        Raises:
            ValueError: the dataset is not simulated.
        """
        if HEADER not in dataset.header:
            raise ValueError(
                f"dataset {dataset.name}: not simulated, or filtered afterwards, so its optimum is unknown"
            )
        return cls.build(parse(SimulatorSettings, dataset.header[HEADER], f"dataset {dataset.name}: {HEADER}"))

    @cached_property
    def table(self) -> AliasTables:
        """Alias tables of the choice model, built on first use."""
        return build_alias_tables(self.choice_model.choice)

    def sample(
        self, first: int, users: int, scratch: NDArray[np.int32] | None = None, *, states: bool = False
    ) -> Chunk:
        """Sample the events of ``users`` users from ``first`` on.

        Args:
            scratch: ``(I,)`` zeros; may be passed on to calls for later users.
            states: whether to return the hidden states.
        """
        seen = np.zeros(self.settings.items, np.int32) if scratch is None else scratch
        offsets = np.concatenate([[0], np.cumsum(self.population.lengths(first, users))])
        size = int(offsets[-1])
        items, times, ratings = np.empty(size, np.int32), np.empty(size, np.int64), np.empty(size, np.float32)
        hidden = np.empty(size if states else 0, np.int16)
        prior_US = self.population.priors(self.population.codes(first, users))
        seed = self.settings.seed
        sample_events(
            self.choice_model, self.table, seed, first, prior_US, offsets, seen, items, times, ratings, hidden
        )
        return Chunk(first, Events(offsets, items, values=ratings, times=times), hidden)

    def chunks(self, rows: int = ROWS, *, states: bool = False) -> Iterator[Chunk]:
        """Yield the whole log by users, in chunks of about ``rows`` events.

        The log does not depend on the size of the chunks.
        """
        step = max(1, int(rows / self.settings.mean_length))
        scratch = np.zeros(self.settings.items, np.int32)
        for first in range(0, self.settings.users, step):
            yield self.sample(first, min(step, self.settings.users - first), scratch, states=states)

    def profiles(self, rows: int = ROWS) -> Iterator[pl.DataFrame]:
        """Yield all users in order, in tables of ``rows`` rows.

        The columns are ``id, age, gender, occupation``.
        """
        for first in range(0, self.settings.users, rows):
            yield self.population.frame(first, min(rows, self.settings.users - first))

    def dataset(self) -> Dataset:
        """Generate the whole log in memory."""
        users = pl.concat(list(self.profiles()))
        histories = self.sample(0, self.settings.users).events
        return Dataset(
            "simulated",
            Vocab(users["id"]),
            Vocab(self.catalog.frame["id"]),
            histories,
            item_features=self.catalog.frame.lazy(),
            user_features=users.lazy(),
            header=self.header,
        )

    @property
    def header(self) -> dict[str, object]:
        """Header of datasets from this world."""
        return {"source": "simulated", "warnings": [], HEADER: self.settings.model_dump(mode="json")}
