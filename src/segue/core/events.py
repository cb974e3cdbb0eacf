"""Store event histories as flat columns with row offsets.

Shapes: N rows, T events in total.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["CONTEXT", "MAX_SECONDS", "Codes", "Events", "Mask", "Scores", "check_codes", "read_only"]

CONTEXT = "context:"
"""Prefix of the names of context columns where they stand beside other columns."""

MAX_SECONDS = 10**11
"""Times in seconds are below this bound, the year 5138; greater numbers are in milliseconds or a finer unit."""

Codes: TypeAlias = NDArray[np.int32]
Mask: TypeAlias = NDArray[np.bool_]
Scores: TypeAlias = NDArray[np.float32]


def read_only(array: NDArray[Any], dtype: type[np.generic[Any]] | None = None) -> NDArray[Any]:
    """Return a read-only view of ``array`` as ``dtype``.

    The array is copied only if its type differs.
    """
    view = np.asarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Events:
    """Event rows of unequal length.

    One row is usually one user's history, oldest event first. Row ``r`` is ``items[offsets[r]:offsets[r + 1]]``. All
    columns are aligned with ``items`` and, except ``items``, optional.
    """

    offsets: NDArray[np.int64]
    """``(N + 1,)``, starting at 0, non-decreasing."""
    items: Codes
    """``(T,)`` item codes."""
    actions: NDArray[np.uint8] | None = None
    """``(T,)`` indices into ``DataSchema.actions``."""
    values: NDArray[np.float32] | None = None
    """``(T,)`` ratings, amounts or durations, in the scale of the data."""
    times: NDArray[np.int64] | None = None
    """``(T,)`` Unix time in seconds (UTC), or any integer clock where the data has no dates."""
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Further columns ``(T,)`` by name: ``time_known``, and the context of events: int32 codes of categories, -1 where
    missing, or float32 numbers, NaN where missing."""

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
                object.__setattr__(self, name, read_only(array, dtype))
        object.__setattr__(self, "context", {k: read_only(v) for k, v in self.context.items()})
        self._check()
        for name, column in self.columns().items():
            if len(column) != len(self.items):
                raise ValueError(f"events.{name}: got {len(column)} values for {len(self.items)} events")

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Self:
        """Create events from lists of item codes: ``Events.of([[3, 1], [], [2]])``."""
        lists = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in lists], out=offsets[1:])
        return cls(offsets, np.concatenate(lists) if lists else np.zeros(0, dtype=np.int32))

    def __len__(self) -> int:
        """Return the number of rows, N."""
        return len(self.offsets) - 1

    @property
    def size(self) -> int:
        """Return the number of events in all rows, T."""
        return len(self.items)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """``(N,)`` events per row."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """``(T,)`` row of each event."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def time_known(self) -> Mask:
        """``(T,)`` whether each time is real.

        A time is not real if it is absent, or a placeholder that only preserves the order of events.
        """
        known = self.context.get("time_known")
        return np.full(self.size, self.times is not None) if known is None or self.times is None else known

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns that are present by name.

        ``items`` comes first, the columns of ``context`` last.
        """
        names = ("items", "actions", "values", "times")
        present = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return present | dict(self.context)

    def select(self, index: NDArray[np.int64] | slice, offsets: NDArray[np.int64]) -> Events:
        """Return the events at ``index``, cut into rows by ``offsets``."""
        events = object.__new__(Events)  # skip the checks of types and lengths: they still hold
        object.__setattr__(events, "offsets", read_only(offsets, np.int64))
        for name in ("items", "actions", "values", "times"):
            column = getattr(self, name)
            object.__setattr__(events, name, None if column is None else read_only(column[index]))
        object.__setattr__(events, "context", {name: read_only(column[index]) for name, column in self.context.items()})
        events._check()
        return events

    def _check(self) -> None:
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise ValueError(f"events.offsets: must start at 0 and end at the number of events {len(self.items)}")
        if (self.offsets[1:] < self.offsets[:-1]).any():
            raise ValueError("events.offsets: must be non-decreasing")

    def where(self, keep: Mask) -> Events:
        """Return the events where ``keep (T,)`` is true.

        The number of rows stays the same.
        """
        n_kept_before = np.concatenate([[0], np.cumsum(keep)])
        return self.select(np.flatnonzero(keep), n_kept_before[self.offsets])

    def slice_rows(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Events:
        """Return events ``start[r]:stop[r]`` of each row r.

        Requires ``0 <= start <= stop <= length``.
        """
        lengths = stop - start
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        first = self.offsets[:-1] + start
        return self.select(np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths), offsets)

    def last(self, count: int) -> Events:
        """Return the newest ``count`` events of each row (all events of a shorter row)."""
        lengths = self.lengths
        if lengths.max(initial=0) <= count:
            return self
        return self.slice_rows(np.maximum(lengths - count, 0), lengths)

    def take(self, rows: NDArray[np.integer[Any]]) -> Events:
        """Return rows by index, in the order of ``rows``.

        An index may occur several times.
        """
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        first = self.offsets[:-1][rows]
        return self.select(np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths), offsets)

    def rows_between(self, start: int, stop: int) -> Events:
        """Return rows ``start:stop`` without copying any column."""
        if start == 0 and stop >= len(self):
            return self
        first, last = int(self.offsets[start]), int(self.offsets[min(stop, len(self))])
        return self.select(slice(first, last), self.offsets[start : stop + 1] - first)

    def csr(self, n_items: int, weights: NDArray[np.float32] | None = None) -> csr_array:
        """Return a sparse matrix ``(N, n_items)`` of the items in each row.

        A cell is 1 where the row has the item, or the sum of ``weights (T,)`` of its events.
        """
        from scipy.sparse import csr_array

        data = np.ones(self.size, np.float32) if weights is None else weights
        matrix = csr_array((data, self.items, self.offsets), shape=(len(self), n_items), copy=True)
        if self.size > 4 * n_items:  # two transpositions are a counting sort, twice as fast as sorting
            matrix = matrix.tocsc().tocsr()
        matrix.sum_duplicates()
        if weights is None:
            matrix.data[:] = 1.0
        return matrix


def check_codes(events: Events, n_rows: int, n_items: int, n_actions: int) -> None:
    """Check that events have ``n_rows`` rows and known codes.

    Raises:
        ValueError: the number of rows differs, or the code of an item or action is out of range.
    """
    if len(events) != n_rows:
        raise ValueError(f"offsets: {len(events)} rows, expected {n_rows}")
    for name, codes, size in (("items", events.items, n_items), ("actions", events.actions, n_actions)):
        if codes is not None and len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise ValueError(f"{name}: codes from {codes.min()} to {codes.max()}, expected 0 to {size - 1}")
