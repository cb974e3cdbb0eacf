"""Timeout for store calls on the request path.

A frozen server, or a network that drops packets, does not refuse connections but stays silent for as long as the
system's or the store's own limits allow, which is too long for a request. While a call is overdue, later calls fail
immediately; the first call after it has returned is attempted again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Protocol, TypeVar

from segue.serving.stores.store import Event, Store, StoreError, UserEvents, UserState

__all__ = ["ReadStore", "TimeoutStore"]

T = TypeVar("T")


class ReadStore(Protocol):
    """Part of the event store that recommendation requests need.

    See :class:`segue.serving.stores.store.Store`.
    """

    def recent_events(self, users: Sequence[str], limit: int, after: int = 0) -> list[UserEvents]:
        """See :meth:`segue.serving.stores.store.Store.recent_events`."""
        ...

    def events_after(self, user: str, sequence: int, limit: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.events_after`."""
        ...

    def get_states(self, users: Sequence[str], model: str) -> list[UserState | None]:
        """See :meth:`segue.serving.stores.store.Store.get_states`."""
        ...

    def put_states(self, states: Mapping[str, UserState]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_states`."""
        ...


class TimeoutStore:
    """Calls a store in a separate thread with a timeout.

    In-process stores are called directly.

    Args:
        store: the store.
        seconds: timeout, after which a call raises :class:`~segue.serving.stores.store.StoreError`.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        self._store, self._seconds = store, seconds
        self._thread = ThreadPoolExecutor(1, "segue-store")
        self._overdue = threading.Event()

    def recent_events(self, users: Sequence[str], limit: int, after: int = 0) -> list[UserEvents]:
        """See :meth:`segue.serving.stores.store.Store.recent_events`."""
        return self._with_timeout(lambda: self._store.recent_events(users, limit, after))

    def events_after(self, user: str, sequence: int, limit: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.events_after`."""
        return self._with_timeout(lambda: self._store.events_after(user, sequence, limit))

    def get_states(self, users: Sequence[str], model: str) -> list[UserState | None]:
        """See :meth:`segue.serving.stores.store.Store.get_states`."""
        return self._with_timeout(lambda: self._store.get_states(users, model))

    def put_states(self, states: Mapping[str, UserState]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_states`.

        A call may succeed even after a timeout.
        """
        self._with_timeout(lambda: self._store.put_states(states))

    def close(self) -> None:
        """Stop the thread; the store stays open."""
        self._thread.shutdown(wait=False)

    def _with_timeout(self, call: Callable[[], T]) -> T:
        if self._store.is_in_process:
            return call()
        if self._overdue.is_set():
            raise StoreError(f"{self._store.name}: an earlier call is overdue")
        future = self._thread.submit(call)
        try:
            return future.result(self._seconds)
        except FutureTimeoutError:
            if future.done():  # finished at the last moment, or raised a timeout error itself
                return future.result()
            self._overdue.set()
            future.add_done_callback(self._clear_overdue)
            raise StoreError(f"{self._store.name}: no response within {self._seconds:g} s") from None

    def _clear_overdue(self, future: Future[Any]) -> None:
        self._overdue.clear()
