"""What was worked out lately, by what it was worked out from, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Cache"]

V = TypeVar("V")


class Cache(Generic[V]):
    """Values by key; what was not asked for longest goes first. Any thread may ask.

    Args:
        most: bytes of all values together. A larger value is handed out and not kept.
        entries: values at most, whatever their size.
    """

    def __init__(self, most: int, entries: int = 4096) -> None:
        self._most, self._entries = most, entries
        self._kept: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of values kept."""
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of the values kept, as they were told."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], tuple[V, int]]) -> V:
        """The value of ``key``; what is not there is made: the value and its bytes. Two threads may both make it."""
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return found[0]
        value, size = make()
        with self._lock:
            if key not in self._kept and size <= self._most:
                self._kept[key] = (value, size)
                self._bytes += size
                while self._bytes > self._most or len(self._kept) > self._entries:
                    _, (_, gone) = self._kept.popitem(last=False)
                    self._bytes -= gone
        return value
