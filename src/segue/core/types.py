"""Define the central value types.

They are datasets, queries, splits, recommendations and ranks.

Shapes: U users, I items, N queries (rows), T events in total, C candidates, k recommended items.

Invariants, true of every value here:

* Items are ``0..n_items-1`` and users ``0..n_users-1``: column ``j`` of a score matrix is item ``j``.
* External ids are text. They become integer codes when data is read, and ids again in results.
* A row of events is ordered oldest first; ties in time keep the order of the file.
* Arrays inside values are read-only.
* Missing values are ``None``, a mask or a length, never a sentinel number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Events, Mask, Scores, read_only
from segue.core.examples.fields import Field
from segue.core.knowledge.knowledge import Knowledge
from segue.core.vocab import Vocab

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Codes",
    "DataSchema",
    "Dataset",
    "Events",
    "Feature",
    "FeatureKind",
    "HeldOut",
    "Mask",
    "Queries",
    "Ranks",
    "Recommendations",
    "Scores",
    "Split",
    "TextEncoding",
    "Vocab",
]


FeatureKind: TypeAlias = Literal["category", "tags", "number", "vector"]
"""How a feature is encoded."""


@dataclass(frozen=True)
class Feature:
    """One item or user feature and its numeric encoding.

    See :mod:`segue.core.features`.
    """

    name: str
    kind: FeatureKind
    size: int = 1
    """Number of columns of the encoded feature."""
    categories: tuple[str, ...] = ()
    """Category names; the index is the code. Other texts are encoded as unknown."""
    center: float = 0.0
    """Mean that is subtracted from numbers."""
    scale: float = 1.0
    """Divisor of numbers, or of each component of a vector."""
    low: float | None = None
    """Smallest number in training, before it is standardized; ``None``: not a number, or unknown."""
    high: float | None = None
    """Largest number in training, likewise."""


@dataclass(frozen=True)
class DataSchema:
    """The data a model is built for.

    It holds sizes, action names and the features that the model reads.
    """

    n_users: int
    n_items: int
    actions: tuple[str, ...] = ("interaction",)
    """Action names; the index is the code in ``Events.actions``."""
    target: int | None = None
    """Code of the action that is predicted; ``None``: all actions."""
    item_features: tuple[Feature, ...] = ()
    """Item features that the model reads; empty unless its settings request features."""
    user_features: tuple[Feature, ...] = ()
    """User features that the model reads, likewise."""
    event_context: tuple[Feature, ...] = ()
    """Context columns of events that the model reads, likewise; a code in ``Events.context`` is an index of
    ``Feature.categories``."""
    fields: tuple[Field, ...] = ()
    """Fields of a table of examples that the model reads; empty for a model of an interaction log."""
    n_without_events: int = 0
    """Number of items without any event, the last ones of the catalog."""
    n_entities: int = 0
    """Number of entities that are not items, for models that read the knowledge graph."""
    n_relations: int = 0
    """Number of relations, likewise."""

    @property
    def n_unscored(self) -> int:
        """Return the number of items that the model cannot score, the last ones.

        These are the items without events if the model reads neither item features nor the knowledge graph. ``score``
        returns arbitrary numbers for them; recommendations, rankings and metrics rank them last.
        """
        return 0 if self.item_features or self.n_relations else self.n_without_events


@dataclass(frozen=True, eq=False)
class TextEncoding:
    """How texts were encoded as vectors; see :mod:`segue.features.text`."""

    settings: Mapping[str, Any]
    """Columns, encoder and its settings, as JSON holds them."""
    arrays: Mapping[str, NDArray[Any]]
    """What the encoder learned from the texts."""
    digest: str
    """Hash of everything that determines the vectors."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared interaction log: ids, user histories, and item and user features."""

    name: str
    users: Vocab
    items: Vocab
    histories: Events
    """One row per user, oldest event first."""
    actions: tuple[str, ...] = ("interaction",)
    """Action names; the index is the code in ``histories.actions``."""
    target: int | None = None
    """Code of the action that is predicted; ``None``: all actions."""
    item_features: pl.LazyFrame | None = None
    """One row per item code: ``id`` and, where known, ``title``, ``genres`` (list of text), ``year``, ..."""
    user_features: pl.LazyFrame | None = None
    """One row per user code: ``id`` and, where known, ``age``, ``gender``, ``occupation``, ..."""
    header: Mapping[str, Any] = field(default_factory=dict)
    """Provenance: source, filters with counts, warnings, content hash."""
    text_encodings: tuple[TextEncoding, ...] = ()
    """How the text vectors in ``item_features`` were computed, so that new items are encoded the same way."""
    user_text_encodings: tuple[TextEncoding, ...] = ()
    """The same for ``user_features`` and new users."""
    knowledge: Knowledge | None = None
    """Facts about items as a graph; ``None``: no triples."""

    @property
    def n_users(self) -> int:
        """Return the number of users, U (rows of ``histories``)."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Return the number of items in the catalog, I."""
        return len(self.items)

    @property
    def target_events(self) -> NDArray[np.int64]:
        """Return the indices of the events with the target action, or of all events."""
        if self.target is None or self.histories.actions is None:
            return np.arange(self.histories.size)
        return np.flatnonzero(self.histories.actions == self.target)

    @property
    def event_context(self) -> tuple[Feature, ...]:
        """Return the context columns of the events, with the names of the codes."""
        columns = self.header.get("context", {})
        return tuple(
            Feature(name, "number" if names is None else "category", categories=tuple(names or ()))
            for name, names in columns.items()
        )

    @property
    def schema(self) -> DataSchema:
        """Return the schema for a model that reads no features."""
        n_without_events = self.header.get("counts", {}).get("items_without_events", 0)
        return DataSchema(self.n_users, self.n_items, self.actions, self.target, n_without_events=n_without_events)

    def knowledge_for(self, model: str) -> Knowledge:
        """Return the knowledge graph, which the model with this key requires.

        Raises:
            ValueError: there is none.
        """
        if self.knowledge is None:
            raise ValueError(
                f"{model}: needs knowledge triples, but '{self.name}' has none; load it with triples=... "
                "(--triples FILE), use a source that has them such as kg-lastfm, or derive them from item features "
                "with segue.add_knowledge"
            )
        return self.knowledge

    def knowledge_schema(self, model: str) -> DataSchema:
        """Return the schema for the model with this key, which reads the knowledge graph.

        Raises:
            ValueError: there is none.
        """
        found = self.knowledge_for(model)
        return replace(self.schema, n_entities=found.n_other_entities, n_relations=len(found.relations))

    def with_histories(self, histories: Events) -> Dataset:
        """Return a dataset with the same users and items and other histories.

        ``histories`` has one row per user.
        """
        if len(histories) != self.n_users:
            raise ValueError(f"got {len(histories)} histories for {self.n_users} users, expected one per user")
        return replace(self, histories=histories)

    def __repr__(self) -> str:
        parts = [
            repr(self.name),
            f"{self.n_users:,} users",
            f"{self.n_items:,} items",
            f"{self.histories.size:,} events",
        ]
        columns = [name for name in ("times", "values", "actions") if getattr(self.histories, name) is not None]
        return f"Dataset({', '.join(parts + [f'with {name}' for name in columns])})"


@dataclass(frozen=True, eq=False)
class Queries:
    """Requests for recommendations: one history and, where known, one user per query."""

    history: Events
    """One row per query; may be empty."""
    users: Codes
    """``(N,)`` user codes; meaningless where ``known`` is false."""
    known: Mask
    """``(N,)`` whether the user occurs in the training data."""
    times: NDArray[np.int64] | None = None
    """``(N,)`` query times; present only where the evaluation protocol lets the model use them."""
    profile: pl.DataFrame | None = None
    """User features, one row per query; ``None``: no features."""
    time_known: Mask | None = None
    """``(N,)`` whether the query time is real; ``None``: all are. Models read no other query times."""
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """``(N,)`` context of the query by name, in the form of ``Events.context``; present only where the evaluation
    protocol lets the model use it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "users", read_only(self.users, np.int32))
        object.__setattr__(self, "known", read_only(self.known, np.bool_))
        object.__setattr__(self, "context", {name: read_only(column) for name, column in self.context.items()})
        columns = {name: getattr(self, name) for name in ("users", "known", "times", "time_known")}
        for name, column in (columns | {f"context.{name}": column for name, column in self.context.items()}).items():
            if column is not None and len(column) != len(self.history):
                raise ValueError(f"queries.{name}: got {len(column)} values for {len(self.history)} histories")

    @classmethod
    def anonymous(cls, history: Events, profile: pl.DataFrame | None = None) -> Self:
        """Return queries of unknown users."""
        n = len(history)
        return cls(history, np.zeros(n, np.int32), np.zeros(n, np.bool_), profile=profile)

    @classmethod
    def of_users(cls, users: Codes, history: Events) -> Self:
        """Return queries of known users; ``history`` has one row per user."""
        return cls(history, users, np.ones(len(users), np.bool_))

    def __len__(self) -> int:
        return len(self.history)

    def rows_between(self, start: int, stop: int) -> Queries:
        """Return queries ``start:stop`` without copying histories."""
        if start == 0 and stop >= len(self):
            return self
        return Queries(
            self.history.rows_between(start, stop),
            self.users[start:stop],
            self.known[start:stop],
            None if self.times is None else self.times[start:stop],
            None if self.profile is None else self.profile[start:stop],
            None if self.time_known is None else self.time_known[start:stop],
            {name: column[start:stop] for name, column in self.context.items()},
        )

    def take(self, rows: NDArray[np.integer[Any]]) -> Queries:
        """Return queries by index, in the order of ``rows``."""
        return Queries(
            self.history.take(rows),
            self.users[rows],
            self.known[rows],
            None if self.times is None else self.times[rows],
            None if self.profile is None else self.profile[rows.tolist()],
            None if self.time_known is None else self.time_known[rows],
            {name: column[rows] for name, column in self.context.items()},
        )


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Queries with known answers.

    ``targets`` contains the true items (and values) of each query.
    """

    queries: Queries
    targets: Events
    users: Vocab | None = None
    """What the user codes mean; ``None``: the codes are those of the model, whatever that is."""
    items: Vocab | None = None
    """What the item codes mean, likewise."""
    actions: tuple[str, ...] | None = None
    """What the action codes mean, likewise."""
    event_context: tuple[Feature, ...] | None = None
    """What the codes of the context columns mean, likewise."""
    test_id: str | None = None
    """Identifies the test part of a split: a hash of the data and the settings; ``None``: no test part."""

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.queries):
            raise ValueError(f"targets: got {len(self.targets)} rows of targets for {len(self.queries)} queries")

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True, eq=False)
class Split:
    """Training data, and held-out queries for validation and test."""

    train: Dataset
    valid: HeldOut
    test: HeldOut
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Strategy, settings and counts: cold users, cold items, dropped targets, ..."""

    def __repr__(self) -> str:
        strategy = self.metadata.get("strategy", "")
        parts = [f"{self.train.histories.size:,} training events", f"{len(self.valid):,} validation queries"]
        name = ", ".join(repr(part) for part in (self.train.name, strategy) if part)
        return f"Split({name}, {', '.join(parts)}, {len(self.test):,} test queries)"


@dataclass(frozen=True, eq=False)
class Recommendations:
    """The best items per query, best first.

    Row ``n`` has ``lengths[n] <= k`` valid entries.
    """

    items: Codes
    """``(N, k)``"""
    scores: Scores
    """``(N, k)``"""
    lengths: NDArray[np.int64]
    """``(N,)``"""
    probabilities: Scores | None = None
    """``(N, k)`` softmax over the catalog (without seen items where those are excluded); only for logits."""

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def concat(cls, parts: Sequence[Recommendations], k: int) -> Self:
        """Concatenate ``parts``, each of width ``k``, along the queries."""
        if not parts:
            return cls(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32), np.zeros(0, np.int64))
        probabilities = [part.probabilities for part in parts if part.probabilities is not None]
        return cls(
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate(probabilities) if probabilities else None,
        )


@dataclass(frozen=True, eq=False)
class Ranks:
    """Positions of the true items in each query's ranking of the candidates.

    The top of that ranking is stored too. Entry ``t`` is one distinct true item of query ``rows[t]``.
    """

    offsets: NDArray[np.int64]
    """``(N + 1,)``; the targets of query n are ``offsets[n]:offsets[n + 1]``."""
    n_higher: NDArray[np.int64]
    """``(T,)`` candidates with a higher score than the target; all of them if the target is not a candidate."""
    n_tied: NDArray[np.int64]
    """``(T,)`` other candidates with the same score."""
    n_candidates: NDArray[np.int64]
    """``(N,)`` candidates that were ranked, including the targets."""
    top: Recommendations
    """The top k of each query."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """``(T,)`` query of each target."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def best_first(self) -> NDArray[np.int64]:
        """The targets that are candidates, by query and rank: indices of ``(T,)`` arrays."""
        listed = np.flatnonzero(self.n_higher < self.n_candidates[self.rows])
        return listed[np.lexsort((self.n_higher[listed], self.rows[listed]))]

    @cached_property
    def expected_ranks(self) -> NDArray[np.float64]:
        """``(T,)`` expected rank of each target from 1, ties in random order.

        The rank is infinite if the target is not a candidate. If m targets of a query have the same score among n tied
        candidates, the j-th of them gets the expected rank of the j-th of m, ``n_higher + j (n + 1) / (m + 1)``, so
        that at most k targets are within the top k.
        """
        order = self.best_first
        rows, higher = self.rows[order], self.n_higher[order]
        first = np.ones(len(rows), np.bool_)
        first[1:] = (rows[1:] != rows[:-1]) | (higher[1:] != higher[:-1])
        sizes = np.diff(np.append(np.flatnonzero(first), len(rows)))
        nth = np.arange(len(rows)) - np.repeat(np.flatnonzero(first), sizes) + 1
        ranks = np.full(len(self.n_higher), np.inf)
        ranks[order] = higher + nth * (self.n_tied[order] + 2) / (np.repeat(sizes, sizes) + 1)
        return ranks
