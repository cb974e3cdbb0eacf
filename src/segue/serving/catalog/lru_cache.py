"""A least-recently-used cache, bounded in bytes and entries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["LruCache"]

V = TypeVar("V")


class LruCache(Generic[V]):
    """Values by key; the least recently used are evicted first. Thread-safe.

    Args:
        max_bytes: total size of all values. A larger value is returned but not stored.
        max_entries: number of values at most.
    """

    def __init__(self, max_bytes: int, max_entries: int = 4096) -> None:
        self._max_bytes, self._max_entries = max_bytes, max_entries
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of stored values."""
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """Total size of the stored values, as reported by ``compute``."""
        return self._bytes

    def get(self, key: Hashable, compute: Callable[[], tuple[V, int]]) -> V:
        """Return the value of ``key``, computing it (and its size in bytes) if absent.

        Two threads may compute the same value at the same time.
        """
        with self._lock:
            if (entry := self._values.get(key)) is not None:
                self._values.move_to_end(key)
                return entry[0]
        value, size = compute()
        with self._lock:
            if key not in self._values and size <= self._max_bytes:
                self._values[key] = (value, size)
                self._bytes += size
                while self._bytes > self._max_bytes or len(self._values) > self._max_entries:
                    _, (_, evicted_size) = self._values.popitem(last=False)
                    self._bytes -= evicted_size
        return value
