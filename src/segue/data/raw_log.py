"""A log in memory while it is being prepared: what a source gives, and the same as flat coded columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.types import Codes, Mask

__all__ = ["COLUMNS", "GIVEN", "TIME_KNOWN", "Log", "Place", "Raw", "Say", "silent"]

Say: TypeAlias = Callable[[str], None]
"""Where decisions, counts and warnings are told."""

COLUMNS = {"user": "user_id", "item": "item_id", "time": "timestamp", "value": "rating", "action": "action"}
"""Our names of the columns of a log, and the names looked for in a file."""

GIVEN = "given:"
"""Prefix of the columns that hold splits made by others: 1 train, 2 test, 0 neither."""

TIME_KNOWN = "time_known"
"""The column of a source, and of ``Events.context``, that is false where a time only keeps the order."""


def silent(text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Place:
    """Where the rows of a table came from, for messages."""

    name: str
    """File, archive member or kind of table."""
    first: int = 0
    """Number of the first row in what people see: 2 in a CSV file with a header."""
    noun: str = "row"
    rows: int = 0
    more: tuple[Place, ...] = ()
    """The files that follow, where several are read as one table."""

    def of(self, row: int) -> str:
        """``ratings.csv, line 17`` for a row counted from 0."""
        place = self
        for follower in self.more:
            if row < place.rows:
                break
            row, place = row - place.rows, follower
        return f"{place.name}, {place.noun} {row + place.first}"


@dataclass(frozen=True, eq=False)
class Raw:
    """What a source gives: events in the order of the file, and what it knows of items and users."""

    events: pl.DataFrame
    """``user``, ``item`` and, where known, ``time``, ``value``, ``action``, ``given:*``; and ``time_known``, where some
    times are stand-ins."""
    place: Place
    items: pl.DataFrame | None = None
    """``id`` (text, distinct) and, where known, ``title``, ``genres``, ``year``, ``released``, ..."""
    users: pl.DataFrame | None = None
    """``id`` (text, distinct) and, where known, ``age``, ``gender``, ``occupation``, ``zip_code``."""
    names: Mapping[str, str] = field(default_factory=lambda: dict(COLUMNS))
    """What the source calls our columns."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What was decided while reading."""


@dataclass(frozen=True, eq=False)
class Log:
    """Events as flat columns, sorted by user, then time, then order of the file."""

    user_ids: pl.Series
    item_ids: pl.Series
    users: Codes
    """``(T,)``, like all that follow."""
    items: Codes
    times: NDArray[np.int64] | None = None
    values: NDArray[np.float32] | None = None
    actions: NDArray[np.uint8] | None = None
    time_known: Mask | None = None
    """Whether the time is real; ``None``: all that there are."""
    kinds: tuple[str, ...] = ("interaction",)
    given: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)

    def where(self, keep: Mask) -> Log:
        """The events for which ``keep (T,)`` holds; ids and codes stay."""
        changes: dict[str, Any] = {"given": {name: column[keep] for name, column in self.given.items()}}
        for name in (f.name for f in fields(self)):
            column = getattr(self, name)
            if isinstance(column, np.ndarray):
                changes[name] = column[keep]
        return replace(self, **changes)

    def compact(self) -> Log:
        """The same events with ids and codes of only the users and items that have any."""
        user_ids, users = _compact(self.user_ids, self.users)
        item_ids, items = _compact(self.item_ids, self.items)
        return replace(self, user_ids=user_ids, item_ids=item_ids, users=users, items=items)


def _compact(ids: pl.Series, codes: Codes) -> tuple[pl.Series, Codes]:
    seen = np.zeros(len(ids), np.bool_)
    seen[codes] = True
    if seen.all():
        return ids, codes
    return ids.filter(pl.Series(seen)), (np.cumsum(seen, dtype=np.int32) - 1)[codes]
