"""Timeouts for store calls.

A frozen server, or a network that drops packets, does not refuse connections but stays silent for as long as the
system's or the store's own limits allow, which is too long for a request. While a call is overdue, later calls of the
same kind fail immediately. They are attempted again after the overdue call has returned or a health check succeeded.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from segue.serving.stores.store import (
    OUTCOME_UNKNOWN,
    STORE_FULL,
    Deletion,
    Event,
    Exposure,
    ItemChange,
    Store,
    StoreError,
    UserEvents,
    UserState,
)

__all__ = ["ReadStore", "TimeoutStore"]

T = TypeVar("T")

MAX_CALLS = 16
"""Maximum number of running calls of one kind, including overdue ones."""
ERASURE_SECONDS = 1.0
"""Additional time of a deletion, for which it may wait until the user's bytes are erased."""
PRUNE_SECONDS = 60.0
"""Timeout for deleting outdated states, which happens in many small steps."""
STATES_PAUSE_SECONDS = 1.0
"""Time without state updates in an in-process store after one has failed, as it may have waited for a lock."""
DISK_FULL_SECONDS = 30.0
"""Time for which a store counts as full after it has reported that its disk or memory is full."""


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
    """Store whose calls run in separate threads with a timeout.

    Only the reads of an in-process store, and its state updates, are called directly: they do not wait for a server,
    and a change of threads would take longer than the call. Reads, writes, deletions, maintenance and pings have
    separate threads, so that a kind of call that is stuck does not affect the others.

    Args:
        wrapped: the store.
        read_seconds: timeout of reads and of state updates, for which responses wait.
        write_seconds: timeout of writes and of health checks.
        clock: monotonic clock in seconds.

    Raises:
        StoreError: by all calls that are overdue. For writes the message contains
            :data:`~segue.serving.stores.store.OUTCOME_UNKNOWN`.
    """

    def __init__(
        self,
        wrapped: Store,
        read_seconds: float,
        write_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wrapped, self.name, self.is_in_process = wrapped, wrapped.name, wrapped.is_in_process
        self.size_problem: str | None = None
        """Why the store must not grow; events and exposures are then refused, and states are not stored."""
        self._read_seconds, self._write_seconds, self._clock = read_seconds, write_seconds, clock
        self._disk_full_at: float | None = None
        self._states_paused_until = -math.inf
        self._reads, self._writes, self._deletions, self._maintenance, self._pings = self._lanes = tuple(
            _CallLane(wrapped.name, kind) for kind in ("reads", "writes", "deletions", "maintenance", "pings")
        )

    @property
    def is_disk_full(self) -> bool:
        """Whether the disk or memory was full a moment ago, with no event stored since."""
        return self._disk_full_at is not None and self._clock() < self._disk_full_at + DISK_FULL_SECONDS

    def append(self, events: Sequence[Event]) -> list[bool]:
        """See :meth:`segue.serving.stores.store.Store.append`."""
        self._check_size()
        try:
            is_new = self._write(lambda: self.wrapped.append(events))
        except StoreError as error:
            if STORE_FULL in str(error):
                self._disk_full_at = self._clock()
            raise
        self._disk_full_at = None
        return is_new

    def recent_events(self, users: Sequence[str], limit: int, after: int = 0) -> list[UserEvents]:
        """See :meth:`segue.serving.stores.store.Store.recent_events`."""
        return self._read(lambda: self.wrapped.recent_events(users, limit, after))

    def events_after(self, user: str, sequence: int, limit: int) -> tuple[tuple[Event, ...], int]:
        """See :meth:`segue.serving.stores.store.Store.events_after`."""
        return self._read(lambda: self.wrapped.events_after(user, sequence, limit))

    def get_states(self, users: Sequence[str], model: str) -> list[UserState | None]:
        """See :meth:`segue.serving.stores.store.Store.get_states`."""
        return self._read(lambda: self.wrapped.get_states(users, model))

    def put_states(self, states: Mapping[str, UserState]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_states`.

        States are dropped if the store must not grow, and a call may succeed even after a timeout.
        """
        if self.size_problem is not None:
            return
        if self._clock() < self._states_paused_until:
            raise StoreError(f"{self.name}: states could not be stored a moment ago")
        try:
            self._read(lambda: self.wrapped.put_states(states))
        except StoreError:
            if self.is_in_process:  # otherwise every response would wait for the same lock
                self._states_paused_until = self._clock() + STATES_PAUSE_SECONDS
            raise

    def prune_states(self, before: int) -> int:
        """See :meth:`segue.serving.stores.store.Store.prune_states`."""
        return self._maintenance.run(lambda: self.wrapped.prune_states(before), PRUNE_SECONDS)

    def delete_user(self, user: str) -> Deletion:
        """See :meth:`segue.serving.stores.store.Store.delete_user`."""
        seconds = self._write_seconds + ERASURE_SECONDS
        return self._deletions.run(lambda: self.wrapped.delete_user(user), seconds, OUTCOME_UNKNOWN)

    def put_items(self, items: Mapping[str, str | None]) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_items`."""
        if any(content is not None for content in items.values()):
            self._check_size()
        self._write(lambda: self.wrapped.put_items(items))

    def item_changes(self, after: int, limit: int) -> list[ItemChange]:
        """See :meth:`segue.serving.stores.store.Store.item_changes`."""
        return self._read(lambda: self.wrapped.item_changes(after, limit))

    def get_setting(self, name: str) -> str | None:
        """See :meth:`segue.serving.stores.store.Store.get_setting`."""
        return self._read(lambda: self.wrapped.get_setting(name))

    def put_setting(self, name: str, value: str) -> None:
        """See :meth:`segue.serving.stores.store.Store.put_setting`."""
        self._write(lambda: self.wrapped.put_setting(name, value))

    def record_exposures(self, exposures: Sequence[Exposure]) -> None:
        """See :meth:`segue.serving.stores.store.Store.record_exposures`."""
        self._check_size()
        self._write(lambda: self.wrapped.record_exposures(exposures))

    def exposures(self, experiment: str) -> Iterator[Exposure]:
        """See :meth:`segue.serving.stores.store.Store.exposures`; without a timeout."""
        return self.wrapped.exposures(experiment)

    def events(self, after: int = 0) -> Iterator[tuple[int, Event]]:
        """See :meth:`segue.serving.stores.store.Store.events`; without a timeout."""
        return self.wrapped.events(after)

    def size_bytes(self) -> int:
        """See :meth:`segue.serving.stores.store.Store.size_bytes`."""
        return self._maintenance.run(self.wrapped.size_bytes, self._write_seconds)

    def ping(self) -> None:
        """Check the health of the store.

        On success, calls are attempted again even if earlier ones are overdue.
        """
        self._pings.run(self.wrapped.ping, self._write_seconds)
        for lane in self._lanes:
            lane.forget_overdue_calls()

    def close(self) -> None:
        """Close the store; calls that are overdue end with the process."""
        for lane in self._lanes:
            lane.close()
        self.wrapped.close()

    def _check_size(self) -> None:
        if self.size_problem is not None:
            raise StoreError(f"{self.name}: {self.size_problem}")

    def _read(self, call: Callable[[], T]) -> T:
        return call() if self.is_in_process else self._reads.run(call, self._read_seconds)

    def _write(self, call: Callable[[], T]) -> T:
        return self._writes.run(call, self._write_seconds, OUTCOME_UNKNOWN)


class _CallLane:
    """Runs calls of one kind in daemon threads with a timeout.

    Threads that still wait for the store do not keep the process alive, unlike those of ``ThreadPoolExecutor``.
    """

    def __init__(self, store: str, kind: str) -> None:
        self._store, self._kind, self._is_open = store, kind, True
        self._slots, self._idle = threading.Semaphore(MAX_CALLS), threading.Semaphore(0)
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._overdue: set[Future[Any]] = set()
        self._n_threads = 0

    def run(self, call: Callable[[], T], seconds: float, outcome: str = "") -> T:
        """Return the result of ``call``.

        Args:
            seconds: timeout.
            outcome: added to the error if the call has begun and is overdue.

        Raises:
            StoreError: the call is overdue, or was not begun because earlier ones are.
        """
        start = time.monotonic()
        self._check_earlier_calls()
        if not self._slots.acquire(timeout=seconds):
            raise StoreError(f"{self._store}: {MAX_CALLS} earlier {self._kind} have not returned within {seconds:g} s")
        try:
            self._check_earlier_calls()  # one may be overdue since this one has begun to wait
        except StoreError:
            self._slots.release()
            raise
        future: Future[T] = Future()
        self._calls.put((future, call))
        if not self._idle.acquire(blocking=False):
            self._n_threads += 1
            threading.Thread(target=self._run_calls, name=f"segue-store-{self._kind}", daemon=True).start()
        try:
            return future.result(max(0.0, start + seconds - time.monotonic()))
        except FutureTimeoutError:
            if future.done():  # finished at the last moment, or raised a timeout error itself
                return future.result()
            self._overdue.add(future)
            future.add_done_callback(self._overdue.discard)
            suffix = f"; {outcome}" if outcome else ""
            raise StoreError(f"{self._store}: no response within {seconds:g} s{suffix}") from None

    def forget_overdue_calls(self) -> None:
        """Attempt new calls even if earlier ones have not returned."""
        self._overdue.clear()

    def close(self) -> None:
        """Stop the threads as soon as their calls have returned."""
        self._is_open = False
        for _ in range(self._n_threads):
            self._calls.put(None)

    def _check_earlier_calls(self) -> None:
        if not self._is_open:
            raise StoreError(f"{self._store}: the store is closed")
        if self._overdue:
            raise StoreError(f"{self._store}: an earlier call is overdue")

    def _run_calls(self) -> None:
        while (entry := self._calls.get()) is not None:
            future, call = entry
            result, error = None, None
            try:
                result = call()
            except BaseException as raised:
                error = raised
            self._idle.release()
            self._slots.release()
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
            del future, call, entry, result, error  # may be large, and the thread may be idle for long
