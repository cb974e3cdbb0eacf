"""The world: catalogue, people and law together; it writes logs and knows what they mean.

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
from segue.data.simulator.catalog import Catalogue
from segue.data.simulator.choice_model import Alias, Law, alias, choices
from segue.data.simulator.event_sampler import live
from segue.data.simulator.settings import SimulatorSettings
from segue.data.simulator.users import People

__all__ = ["Chunk", "World"]

HEADER = "simulator"
"""Key of a dataset's header that holds the settings of its world."""
ROWS = 1_000_000
"""Events made at once, about."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """The lives of the users ``first``, ``first + 1``, ..."""

    first: int
    events: Events
    """One row per user, with times (seconds, UTC) and values (ratings 1 to 5)."""
    states: NDArray[np.int16]
    """``(T,)`` the hidden state ``appetite * tastes + taste`` at each event; length 0 where not asked for."""


@dataclass(frozen=True, eq=False)
class World:
    """Built from its settings alone, the same each time."""

    settings: SimulatorSettings
    catalogue: Catalogue
    people: People
    law: Law

    @classmethod
    def build(cls, settings: SimulatorSettings) -> World:
        """The world that ``settings`` describe."""
        streams = np.random.SeedSequence(settings.seed).spawn(3)
        catalogue = Catalogue.build(settings, np.random.default_rng(streams[0]))
        people = People.build(settings, np.random.default_rng(streams[1]))
        return cls(settings, catalogue, people, choices(settings, catalogue, np.random.default_rng(streams[2])))

    @classmethod
    def of(cls, dataset: Dataset) -> World:
        """The world that made ``dataset``; a dataset that is not simulated is a ``ValueError``."""
        if HEADER not in dataset.header:
            raise ValueError(f"dataset {dataset.name}: not simulated, or filtered afterwards; its truth is not known")
        return cls.build(parse(SimulatorSettings, dataset.header[HEADER], f"dataset {dataset.name}: {HEADER}"))

    @cached_property
    def table(self) -> Alias:
        """Tables to draw from the law with; made at the first use."""
        return alias(self.law.choice)

    def live(self, first: int, users: int, scratch: NDArray[np.int32] | None = None, *, states: bool = False) -> Chunk:
        """The lives of ``users`` users from ``first`` on.

        Args:
            scratch: ``(I,)`` zeros, to be handed from chunk to later chunk.
            states: whether to keep the hidden states.
        """
        seen = np.zeros(self.settings.items, np.int32) if scratch is None else scratch
        offsets = np.concatenate([[0], np.cumsum(self.people.lengths(first, users))])
        size = int(offsets[-1])
        items, times, ratings = np.empty(size, np.int32), np.empty(size, np.int64), np.empty(size, np.float32)
        hidden = np.empty(size if states else 0, np.int16)
        prior_US = self.people.priors(self.people.codes(first, users))
        seed = self.settings.seed
        live(self.law, self.table, seed, first, prior_US, offsets, seen, items, times, ratings, hidden)
        return Chunk(first, Events(offsets, items, values=ratings, times=times), hidden)

    def chunks(self, rows: int = ROWS, *, states: bool = False) -> Iterator[Chunk]:
        """The whole log, user by user, in chunks of about ``rows`` events; their size changes nothing in it."""
        step = max(1, int(rows / self.settings.mean_length))
        scratch = np.zeros(self.settings.items, np.int32)
        for first in range(0, self.settings.users, step):
            yield self.live(first, min(step, self.settings.users - first), scratch, states=states)

    def profiles(self, rows: int = ROWS) -> Iterator[pl.DataFrame]:
        """All users in order, in frames of ``rows``: ``id, age, gender, occupation``."""
        for first in range(0, self.settings.users, rows):
            yield self.people.frame(first, min(rows, self.settings.users - first))

    def dataset(self) -> Dataset:
        """The whole log in memory."""
        users = pl.concat(list(self.profiles()))
        histories = self.live(0, self.settings.users).events
        return Dataset(
            "simulated",
            Vocab(users["id"]),
            Vocab(self.catalogue.frame["id"]),
            histories,
            item_features=self.catalogue.frame.lazy(),
            user_features=users.lazy(),
            header=self.header,
        )

    @property
    def header(self) -> dict[str, object]:
        """What a dataset of this world says of where it comes from."""
        return {"source": "simulated", "warnings": [], HEADER: self.settings.model_dump(mode="json")}
