"""A store as answers use it: what it does not tell in time is a failure like any other.

A server that is frozen, or a network that swallows what is sent, is not refused: it is silence, for as long as the
system or the store's own limits allow. Who answers questions cannot wait for that. While a call is overdue, later ones
fail at once; the first one after it has come back is tried again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from typing import Any, Protocol, TypeVar

from segue.serving.stores.store import Event, Kept, Memory, Store, StoreError

__all__ = ["Reads", "Timely"]

T = TypeVar("T")


class Reads(Protocol):
    """What answers need of a store: see :class:`segue.serving.stores.store.Store`."""

    def kept(self, users: Sequence[str], most: int, after: int = 0) -> list[Kept]:
        """See :meth:`segue.serving.stores.store.Store.kept`."""
        ...

    def since(self, user: str, place: int, most: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.since`."""
        ...

    def memories(self, users: Sequence[str], model: str) -> list[Memory | None]:
        """See :meth:`segue.serving.stores.store.Store.memories`."""
        ...

    def remember(self, memories: Mapping[str, Memory]) -> None:
        """See :meth:`segue.serving.stores.store.Store.remember`."""
        ...


class Timely:
    """Calls a store on a thread of its own, and waits for at most so many seconds; one that is prompt, at once.

    Args:
        kept: the store.
        seconds: what a call may take; more is a :class:`~segue.serving.stores.store.StoreError`.
    """

    def __init__(self, kept: Store, seconds: float) -> None:
        self._store, self._seconds = kept, seconds
        self._thread = ThreadPoolExecutor(1, "segue-store")
        self._overdue = threading.Event()

    def kept(self, users: Sequence[str], most: int, after: int = 0) -> list[Kept]:
        """See :meth:`segue.serving.stores.store.Store.kept`."""
        return self._in_time(lambda: self._store.kept(users, most, after))

    def since(self, user: str, place: int, most: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.since`."""
        return self._in_time(lambda: self._store.since(user, place, most))

    def memories(self, users: Sequence[str], model: str) -> list[Memory | None]:
        """See :meth:`segue.serving.stores.store.Store.memories`."""
        return self._in_time(lambda: self._store.memories(users, model))

    def remember(self, memories: Mapping[str, Memory]) -> None:
        """See :meth:`segue.serving.stores.store.Store.remember`; what is late may be kept all the same."""
        self._in_time(lambda: self._store.remember(memories))

    def close(self) -> None:
        """End the thread; the store stays open."""
        self._thread.shutdown(wait=False)

    def _in_time(self, call: Callable[[], T]) -> T:
        if self._store.prompt:
            return call()
        if self._overdue.is_set():
            raise StoreError(f"{self._store.name}: a call has been overdue for a while")
        found = self._thread.submit(call)
        try:
            return found.result(self._seconds)
        except Late:
            if found.done():  # it came at the last moment, or this is what it says itself
                return found.result()
            self._overdue.set()
            found.add_done_callback(self._back)
            raise StoreError(f"{self._store.name}: no answer in {self._seconds:g} s") from None

    def _back(self, found: Future[Any]) -> None:
        self._overdue.clear()
