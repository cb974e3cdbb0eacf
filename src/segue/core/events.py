"""Rows of unequal length, and the arrays everything is made of.

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

__all__ = ["Codes", "Events", "Mask", "Scores", "frozen"]

Codes: TypeAlias = NDArray[np.int32]
Mask: TypeAlias = NDArray[np.bool_]
Scores: TypeAlias = NDArray[np.float32]


def frozen(array: NDArray[Any], dtype: type[np.generic[Any]] | None = None) -> NDArray[Any]:
    """A read-only view of ``array`` as ``dtype`` (a copy only if the type differs)."""
    view = np.asarray(array, dtype=dtype).view()
    view.flags.writeable = False
    return view


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
                object.__setattr__(self, name, frozen(array, dtype))
        object.__setattr__(self, "context", {k: frozen(v) for k, v in self.context.items()})
        self._check()
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
        found = object.__new__(Events)  # columns that fit each other still do, and are of the right types
        object.__setattr__(found, "offsets", frozen(offsets, np.int64))
        for name in ("items", "actions", "values", "times"):
            column = getattr(self, name)
            object.__setattr__(found, name, None if column is None else frozen(column[index]))
        object.__setattr__(found, "context", {name: frozen(column[index]) for name, column in self.context.items()})
        found._check()
        return found

    def _check(self) -> None:
        if len(self.offsets) == 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.items):
            raise ValueError(f"offsets must run from 0 to the number of events {len(self.items)}")
        if (self.offsets[1:] < self.offsets[:-1]).any():
            raise ValueError("offsets must never fall: a row cannot end before it begins")

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
        if lengths.max(initial=0) <= count:
            return self
        return self.cut(np.maximum(lengths - count, 0), lengths)

    def take(self, rows: NDArray[np.integer[Any]]) -> Events:
        """Rows by index, in the order asked, repeats allowed."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        first = self.offsets[:-1][rows]
        return self.pick(np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths), offsets)

    def block(self, start: int, stop: int) -> Events:
        """Rows ``start:stop`` without copying any column."""
        if start == 0 and stop >= len(self):
            return self
        first, last = int(self.offsets[start]), int(self.offsets[min(stop, len(self))])
        return self.pick(slice(first, last), self.offsets[start : stop + 1] - first)

    def csr(self, n_items: int, weights: NDArray[np.float32] | None = None) -> csr_array:
        """``(N, n_items)`` sparse matrix: 1 where the row holds the item, or the sum of ``weights (T,)``."""
        from scipy.sparse import csr_array

        data = np.ones(self.size, np.float32) if weights is None else weights
        matrix = csr_array((data, self.items, self.offsets), shape=(len(self), n_items), copy=True)
        if self.size > 4 * n_items:  # to turn it twice sorts the columns by counting, at half the price
            matrix = matrix.tocsc().tocsr()
        matrix.sum_duplicates()
        if weights is None:
            matrix.data[:] = 1.0
        return matrix
