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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl
    from scipy.sparse import csr_array

__all__ = [
    "Codes",
    "Dataset",
    "Domain",
    "Events",
    "HeldOut",
    "Mask",
    "Queries",
    "Ranks",
    "Recommendations",
    "Scores",
    "Split",
    "Vocab",
]

Codes: TypeAlias = NDArray[np.int32]
Mask: TypeAlias = NDArray[np.bool_]
Scores: TypeAlias = NDArray[np.float32]


def _frozen(array: NDArray[Any], dtype: type[np.generic[Any]] | None = None) -> NDArray[Any]:
    """A read-only view of ``array`` as ``dtype`` (a copy only if the type differs)."""
    view = np.asarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


class Vocab:
    """Outside ids, in the order of their codes, two-way.

    Args:
        ids: distinct texts; ``ids[code]`` is the outside id. A function is called at the first use, so that
            opening a dataset does not read its ids.
        size: the number of ids; needed when ``ids`` is a function.
    """

    def __init__(self, ids: Iterable[str] | Callable[[], pl.Series], size: int | None = None) -> None:
        self._load: Callable[[], pl.Series] | None = None
        self._ids: pl.Series | None = None
        self._codes: dict[str, int] | None = None
        if callable(ids):
            if size is None:
                raise ValueError("a vocabulary that is read later needs its size now")
            self._load, self._size = ids, size
        else:
            import polars as pl

            self._ids = pl.Series("id", ids, dtype=pl.String)
            self._size = len(self._ids)

    def __len__(self) -> int:
        return self._size

    @property
    def ids(self) -> pl.Series:
        """All ids as a text column, row = code."""
        if self._ids is None:
            assert self._load is not None
            self._ids = self._load()
        return self._ids

    def encode(self, ids: Iterable[str]) -> tuple[Codes, Mask]:
        """Codes of ``ids`` and which of them are known; the code of an unknown id is 0 and means nothing."""
        if self._codes is None:
            self._codes = {text: code for code, text in enumerate(self.ids)}
        found = [self._codes.get(text) for text in ids]
        known = np.array([code is not None for code in found], dtype=np.bool_)
        return np.array([code or 0 for code in found], dtype=np.int32), known

    def decode(self, codes: NDArray[np.integer[Any]]) -> list[str]:
        """The ids of ``codes``."""
        return self.ids.gather(np.asarray(codes, dtype=np.int64)).to_list()


@dataclass(frozen=True)
class Domain:
    """What a model has to know of its data before it sees any: sizes and the kinds of action."""

    n_users: int
    n_items: int
    actions: tuple[str, ...] = ("interaction",)
    """Kinds of action, row = code in ``Events.actions``."""
    target: int | None = None
    """The kind that is predicted; ``None``: every kind."""


@dataclass(frozen=True, eq=False)
class Events:
    """Rows of unequal length: who did what, when, how much; one row is one user's history, oldest first.

    ``items[offsets[r]:offsets[r + 1]]`` is row ``r``. Columns are aligned with ``items``; all but ``items``
    may be absent.
    """

    offsets: NDArray[np.int64]
    """``(N + 1,)``, from 0, never falling."""
    items: Codes
    """``(T,)`` item codes."""
    actions: NDArray[np.uint8] | None = None
    """``(T,)`` codes of ``Domain.actions``."""
    values: NDArray[np.float32] | None = None
    """``(T,)`` ratings, amounts, seconds: the scale of the data."""
    times: NDArray[np.int64] | None = None
    """``(T,)`` seconds since 1970 in UTC, or any integer clock where the data has no dates."""
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Further columns ``(T,)`` by name (device, place, ...)."""

    def __post_init__(self) -> None:
        types: dict[str, Any] = {
            "offsets": np.int64,
            "items": np.int32,
            "actions": np.uint8,
            "values": np.float32,
            "times": np.int64,
        }
        for name, dtype in types.items():
            array = getattr(self, name)
            if array is not None:
                object.__setattr__(self, name, _frozen(array, dtype))
        object.__setattr__(self, "context", {k: _frozen(v) for k, v in self.context.items()})
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise ValueError(f"offsets must run from 0 to the number of events {len(self.items)}")
        if (self.offsets[1:] < self.offsets[:-1]).any():
            raise ValueError("offsets must never fall: a row cannot end before it begins")
        for name, column in self.columns().items():
            if len(column) != len(self.items):
                raise ValueError(f"events.{name}: {len(column)} values for {len(self.items)} events")

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Self:
        """Events from item codes row by row: ``Events.of([[3, 1], [], [2]])``."""
        lists = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in lists], out=offsets[1:])
        return cls(offsets, np.concatenate(lists) if lists else np.zeros(0, dtype=np.int32))

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.offsets) - 1

    @property
    def size(self) -> int:
        """The number of events in all rows, T."""
        return len(self.items)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(N,)`` events per row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """``(T,)`` the row of each event."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns that are present, by name, ``items`` first, those of ``context`` last."""
        names = ("items", "actions", "values", "times")
        present = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return present | dict(self.context)

    def pick(self, index: NDArray[np.int64] | slice, offsets: NDArray[np.int64]) -> Events:
        """Events ``index`` of all columns, cut into rows by ``offsets``."""
        own = {f.name for f in fields(self)}
        columns = {name: column[index] for name, column in self.columns().items()}
        context = {name: columns.pop(name) for name in list(columns) if name not in own}
        return Events(offsets, context=context, **columns)

    def where(self, keep: Mask) -> Events:
        """The events for which ``keep (T,)`` holds; rows stay, some may become empty."""
        kept = np.concatenate([[0], np.cumsum(keep)])
        return self.pick(np.flatnonzero(keep), kept[self.offsets])

    def cut(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Events:
        """From each row its events ``start[r]:stop[r]`` (``0 <= start <= stop <= length``)."""
        lengths = stop - start
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        first = self.offsets[:-1] + start
        return self.pick(np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths), offsets)

    def last(self, count: int) -> Events:
        """The newest ``count`` events of each row (all of a shorter row)."""
        lengths = self.lengths
        return self.cut(np.maximum(lengths - count, 0), lengths)

    def take(self, rows: NDArray[np.integer[Any]]) -> Events:
        """Rows by index, in the order asked, repeats allowed."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        first = self.offsets[:-1][rows]
        return self.pick(np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths), offsets)

    def block(self, start: int, stop: int) -> Events:
        """Rows ``start:stop`` without copying any column."""
        first, last = int(self.offsets[start]), int(self.offsets[min(stop, len(self))])
        return self.pick(slice(first, last), self.offsets[start : stop + 1] - first)

    def csr(self, n_items: int, weights: NDArray[np.float32] | None = None) -> csr_array:
        """``(N, n_items)`` sparse matrix: 1 where the row holds the item, or the sum of ``weights (T,)``."""
        from scipy.sparse import csr_array

        data = np.ones(self.size, np.float32) if weights is None else weights
        matrix = csr_array((data, self.items, self.offsets), shape=(len(self), n_items), copy=True)
        matrix.sum_duplicates()
        if weights is None:
            matrix.data[:] = 1.0
        return matrix


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
        """What a model needs to know before it sees the data."""
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
        object.__setattr__(self, "users", _frozen(self.users, np.int32))
        object.__setattr__(self, "known", _frozen(self.known, np.bool_))
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
        return Queries(
            self.history.block(start, stop),
            self.users[start:stop],
            self.known[start:stop],
            None if self.times is None else self.times[start:stop],
            None if self.profile is None else self.profile[start:stop],
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
    """``(N, k)`` share of a softmax over the whole catalogue, where the scores are logits."""

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
