"""The values that travel through Segue: ids, events, datasets, questions and answers.

Shapes: U users, I items, N queries (rows), T events in total, C candidates, k places in a list.

Invariants, true of every value here:

* Items are ``0..n_items-1`` and users ``0..n_users-1``: column ``j`` of a score matrix is item ``j``.
* Outside ids are text; they become codes when data is read and text again when an answer leaves.
* A row of events is ordered oldest first; ties in time keep the order of the file.
* Arrays inside values are read-only.
* Absence is ``None``, a mask or a length, never a magic number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Events, Mask, Scores, frozen
from segue.core.vocab import Vocab

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Codes",
    "Dataset",
    "Domain",
    "Events",
    "Feature",
    "HeldOut",
    "Mask",
    "Queries",
    "Ranks",
    "Recommendations",
    "Scores",
    "Split",
    "Vocab",
]


@dataclass(frozen=True)
class Feature:
    """Something known of items or of users, and how a model reads it; see :mod:`segue.core.features`."""

    name: str
    kind: Literal["category", "tags", "number", "vector"]
    size: int = 1
    """Columns it takes in a row of numbers."""
    categories: tuple[str, ...] = ()
    """Texts, row = code; one that is not among them is not known."""
    centre: float = 0.0
    """What is taken from a number."""
    scale: float = 1.0
    """What a number, or each of a vector, is divided by."""


@dataclass(frozen=True)
class Domain:
    """What a model has to know of its data before it sees any: sizes, the kinds of action, features where it asks."""

    n_users: int
    n_items: int
    actions: tuple[str, ...] = ("interaction",)
    """Kinds of action, row = code in ``Events.actions``."""
    target: int | None = None
    """The kind that is predicted; ``None``: every kind."""
    item_features: tuple[Feature, ...] = ()
    """What the model reads of items; empty unless it asks for features."""
    user_features: tuple[Feature, ...] = ()
    """What the model reads of users, likewise."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared log: ids, histories, and what is known of items and users."""

    name: str
    users: Vocab
    items: Vocab
    histories: Events
    """One row per user, oldest event first."""
    actions: tuple[str, ...] = ("interaction",)
    target: int | None = None
    item_features: pl.LazyFrame | None = None
    """One row per item code: ``id`` and, where known, ``title``, ``genres`` (list of text), ``year``, ..."""
    user_features: pl.LazyFrame | None = None
    """One row per user code: ``id`` and, where known, ``age``, ``gender``, ``occupation``, ..."""
    header: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: source, filters with counts, warnings, content hash."""

    @property
    def n_users(self) -> int:
        """The number of users, U (rows of ``histories``)."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """The number of items in the catalogue, I."""
        return len(self.items)

    @property
    def domain(self) -> Domain:
        """What a model that asks for no features needs to know before it sees the data."""
        return Domain(self.n_users, self.n_items, self.actions, self.target)

    def having(self, histories: Events) -> Dataset:
        """The same users and items with other histories (one row per user)."""
        if len(histories) != self.n_users:
            raise ValueError(f"{len(histories)} histories for {self.n_users} users")
        return replace(self, histories=histories)


@dataclass(frozen=True, eq=False)
class Queries:
    """Questions "what next?": for each, the history before the moment of asking, and who asks."""

    history: Events
    """One row per query; may be empty."""
    users: Codes
    """``(N,)`` user codes; meaningless where ``known`` is false."""
    known: Mask
    """``(N,)`` whether the user was there in training."""
    times: NDArray[np.int64] | None = None
    """``(N,)`` time of asking, only where the protocol tells it to the model."""
    profile: pl.DataFrame | None = None
    """One row per query of user features, or none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "users", frozen(self.users, np.int32))
        object.__setattr__(self, "known", frozen(self.known, np.bool_))
        for name, column in {"users": self.users, "known": self.known, "times": self.times}.items():
            if column is not None and len(column) != len(self.history):
                raise ValueError(f"queries.{name}: {len(column)} values for {len(self.history)} histories")

    @classmethod
    def anonymous(cls, history: Events, profile: pl.DataFrame | None = None) -> Self:
        """Queries of people who were not there in training."""
        n = len(history)
        return cls(history, np.zeros(n, np.int32), np.zeros(n, np.bool_), profile=profile)

    @classmethod
    def of_users(cls, users: Codes, history: Events) -> Self:
        """Queries of known users, ``history`` one row for each."""
        return cls(history, users, np.ones(len(users), np.bool_))

    def __len__(self) -> int:
        return len(self.history)

    def block(self, start: int, stop: int) -> Queries:
        """Queries ``start:stop`` without copying histories."""
        if start == 0 and stop >= len(self):
            return self
        return Queries(
            self.history.block(start, stop),
            self.users[start:stop],
            self.known[start:stop],
            None if self.times is None else self.times[start:stop],
            None if self.profile is None else self.profile[start:stop],
        )

    def take(self, rows: NDArray[np.integer[Any]]) -> Queries:
        """Queries by index, in the order asked."""
        return Queries(
            self.history.take(rows),
            self.users[rows],
            self.known[rows],
            None if self.times is None else self.times[rows],
            None if self.profile is None else self.profile[rows.tolist()],
        )


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Questions whose answers are known: ``targets`` holds the true items (and values) of each query."""

    queries: Queries
    targets: Events

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.queries):
            raise ValueError(f"{len(self.targets)} rows of targets for {len(self.queries)} queries")

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True, eq=False)
class Split:
    """What trains and what is held out."""

    train: Dataset
    valid: HeldOut
    test: HeldOut
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it was split, and counts: cold users, cold items, users without a question, ..."""


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The best items of each query, best first; row ``n`` holds ``lengths[n] <= k`` of them, the rest is unused."""

    items: Codes
    """``(N, k)``"""
    scores: Scores
    """``(N, k)``"""
    lengths: NDArray[np.int64]
    """``(N,)``"""
    probabilities: Scores | None = None
    """``(N, k)`` share of a softmax over the catalogue without the history, where that is removed; of logits alone."""

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def joined(cls, parts: Sequence[Recommendations], k: int) -> Self:
        """The lists of all ``parts``, each of width ``k``, one after the other."""
        if not parts:
            return cls(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32), np.zeros(0, np.int64))
        shares = [part.probabilities for part in parts if part.probabilities is not None]
        return cls(
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate(shares) if shares else None,
        )


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the truth stands in each query's ranking of the eligible catalogue, and the top of that ranking.

    Entry ``t`` is one distinct true item of query ``rows[t]``.
    """

    offsets: NDArray[np.int64]
    """``(N + 1,)`` the targets of query n are ``offsets[n]:offsets[n + 1]``."""
    greater: NDArray[np.int64]
    """``(T,)`` eligible candidates with a higher score than the target; all, where it was not eligible itself."""
    equal: NDArray[np.int64]
    """``(T,)`` other eligible candidates with the same score."""
    eligible: NDArray[np.int64]
    """``(N,)`` candidates that were ranked, the targets among them."""
    top: Recommendations
    """The first k of each query."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def rows(self) -> NDArray[np.int64]:
        """``(T,)`` the query of each target."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def places(self) -> NDArray[np.float64]:
        """``(T,)`` expected rank of each target from 1, ties in random order; infinite if it was not eligible.

        Of m targets of a query that share their score with each other, the j-th gets the expected rank of the first,
        second, ... of them, ``greater + j (n + 1) / (m + 1)`` among n equals: no more than k ever stand in the top k.
        """
        rows = self.rows
        order = np.lexsort((self.greater, rows))
        rows, above = rows[order], self.greater[order]
        first = np.ones(len(rows), np.bool_)
        first[1:] = (rows[1:] != rows[:-1]) | (above[1:] != above[:-1])
        sizes = np.diff(np.append(np.flatnonzero(first), len(rows)))
        nth = np.arange(len(rows)) - np.repeat(np.flatnonzero(first), sizes) + 1
        places = np.empty(len(rows))
        places[order] = above + nth * (self.equal[order] + 2) / (np.repeat(sizes, sizes) + 1)
        places[self.greater >= np.repeat(self.eligible, np.diff(self.offsets))] = np.inf
        return places
