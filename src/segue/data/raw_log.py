"""Hold an interaction log in memory while a dataset is built.

The log is held as read from a source, and as encoded columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.types import Codes, Mask

__all__ = [
    "COLUMNS",
    "CONTEXT_PREFIXES",
    "MAX_CATEGORIES",
    "PREDEFINED_SPLIT_PREFIX",
    "TIME_KNOWN",
    "EncodedLog",
    "Log",
    "RawLog",
    "RawTriples",
    "SourceLocation",
    "no_log",
]

Log: TypeAlias = Callable[[str], None]
"""Receives decisions, counts and warnings as text."""

COLUMNS = {"user": "user_id", "item": "item_id", "time": "timestamp", "value": "rating", "action": "action"}
"""Internal column names, and the column names expected in a file."""

PREDEFINED_SPLIT_PREFIX = "split:"
"""Prefix of columns with predefined splits: 1 train, 2 test, 3 validation, 0 neither."""

CONTEXT_PREFIXES = ("context:", "context_number:", "context_coordinates:")
"""Prefixes of the names of context columns: categories, numbers and coordinates (``NAME:latitude``)."""

MAX_CATEGORIES = 65_536
"""Maximum number of categories of a context column."""

TIME_KNOWN = "time_known"
"""Column of a source, and of ``Events.context``; false where a time only preserves the order of events."""


def no_log(text: str) -> None:
    """Ignore ``text``."""


@dataclass(frozen=True)
class SourceLocation:
    """Where the rows of a table were read from, for error messages."""

    name: str
    """File, archive member or type of an in-memory table."""
    first: int = 1
    """Number of the first row as shown to users: 1, or 2 for the lines of a CSV file with a header."""
    noun: str = "row"
    rows: int = 0
    """Number of rows; used only with ``next_files``."""
    next_files: tuple[SourceLocation, ...] = ()
    """The files that follow, where several files are read as one table."""
    selected: NDArray[np.int64] | None = field(default=None, compare=False)
    """``(T,)`` rows of the table that a later step works on; ``None``: all."""

    def describe_row(self, row: int) -> str:
        """Return ``ratings.csv, line 17`` for a row counted from 0."""
        location = self
        row = row if self.selected is None else int(self.selected[row])
        for following in self.next_files:
            if row < location.rows:
                break
            row, location = row - location.rows, following
        return f"{location.name}, {location.noun} {row + location.first}"


@dataclass(frozen=True, eq=False)
class RawTriples:
    """Triples as read from a source."""

    table: pl.DataFrame
    """``head``, ``relation`` and ``tail`` as text."""
    location: SourceLocation
    links: pl.DataFrame | None = None
    """``item`` and ``entity`` as text; ``None``: heads that are ids of items are these items."""

    @property
    def digest(self) -> str:
        """Return a SHA-256 of the triples and links."""
        tables = [self.table] if self.links is None else [self.table, self.links]
        texts = [text for table in tables for column in table for text in (column.name, *column)]
        return hashlib.sha256("\n".join(map(repr, texts)).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class RawLog:
    """A log as read from a source.

    It contains events in the order of the file, and metadata of items and users.
    """

    events: pl.DataFrame
    """``user``, ``item`` and, where present, ``time``, ``value``, ``action``, ``split:*``, ``context:*`` (categories),
    ``context_number:*``, ``context_coordinates:*`` and ``time_known``."""
    location: SourceLocation
    items: pl.DataFrame | None = None
    """``id`` (text, distinct) and, where known, ``title``, ``genres``, ``year``, ``released``, ..."""
    users: pl.DataFrame | None = None
    """``id`` (text, distinct) and, where known, ``age``, ``gender``, ``occupation``, ``zip_code``."""
    listed_items: pl.Series | None = None
    """Ids (text) of the items of a table given by the user; they belong to the catalog even without events."""
    names: Mapping[str, str] = field(default_factory=lambda: dict(COLUMNS))
    """Column names of the source by internal name."""
    id_types: Mapping[str, str] = field(default_factory=dict)
    """Types of the ids of ``user`` and ``item`` in the source, where they differ from the types in ``events``."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Decisions made while reading."""
    triples: RawTriples | None = None
    """Facts about the items; ``None``: none."""


@dataclass(frozen=True, eq=False)
class EncodedLog:
    """Events as flat encoded columns ``(T,)``.

    They are sorted by user, then time, then row of the source.
    """

    user_ids: pl.Series
    item_ids: pl.Series
    users: Codes
    """``(T,)`` user codes; all columns that follow have the same length."""
    items: Codes
    times: NDArray[np.int64] | None = None
    values: NDArray[np.float32] | None = None
    actions: NDArray[np.uint8] | None = None
    time_known: Mask | None = None
    """Whether the time is real; ``None``: all times are."""
    action_names: tuple[str, ...] = ("interaction",)
    predefined_splits: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Context columns, see :class:`segue.core.events.Events`."""
    categories: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    """By context column: the categories in the order of the codes; ``None``: the column has numbers."""

    def __len__(self) -> int:
        return len(self.users)

    def where(self, keep: Mask) -> EncodedLog:
        """Return the events where ``keep (T,)`` is true; ids and codes stay the same."""
        splits = {name: column[keep] for name, column in self.predefined_splits.items()}
        context = {name: column[keep] for name, column in self.context.items()}
        changes: dict[str, Any] = {"predefined_splits": splits, "context": context}
        for name in (f.name for f in fields(self)):
            column = getattr(self, name)
            if isinstance(column, np.ndarray):
                changes[name] = column[keep]
        return replace(self, **changes)

    def compact(self) -> EncodedLog:
        """Return the same events with ids and codes of occurring users and items only."""
        user_ids, users = _compact(self.user_ids, self.users)
        item_ids, items = _compact(self.item_ids, self.items)
        return replace(self, user_ids=user_ids, item_ids=item_ids, users=users, items=items)


def _compact(ids: pl.Series, codes: Codes) -> tuple[pl.Series, Codes]:
    occurs = np.zeros(len(ids), np.bool_)
    occurs[codes] = True
    if occurs.all():
        return ids, codes
    return ids.filter(pl.Series(occurs)), (np.cumsum(occurs, dtype=np.int32) - 1)[codes]
