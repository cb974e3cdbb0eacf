"""Process concurrent requests in batches.

A batch is whatever is queued when the worker becomes free: no request waits for others to arrive. One thread runs all
batches, so that the event loop stays free for I/O. Clients get fair shares: the client with the fewest jobs so far goes
first, and a full queue drops the newest request of the client that queues the most.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from segue.serving.scheduling.fair_queue import FairQueue

__all__ = ["Batcher", "Overloaded"]

J = TypeVar("J")
R = TypeVar("R")


class Overloaded(Exception):
    """Too many requests are queued; try again after ``retry_after`` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"service overloaded; try again in {retry_after:.1f} s")
        self.retry_after = retry_after


@dataclass(eq=False)
class _PendingCall(Generic[J, R]):
    jobs: Sequence[J]
    client: str
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[list[R]]


class Batcher(Generic[J, R]):
    """Run ``process`` in its own thread on the jobs of many coroutines at once.

    Args:
        process: returns one result per job, in order; an exception fails every request of that batch. The jobs of one
            request are never split over batches.
        max_batch: largest number of jobs per call of ``process``, unless a single request has more.
        max_pending: largest number of queued requests.
        name: name of the thread.
        on_batch: called with the size of each batch, for metrics.
    """

    def __init__(
        self,
        process: Callable[[list[J]], list[R]],
        max_batch: int,
        max_pending: int,
        name: str,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._process, self._max_batch, self._max_pending, self._on_batch = process, max_batch, max_pending, on_batch
        self._queue: FairQueue[_PendingCall[J, R]] = FairQueue()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return the number of queued requests."""
        return len(self._queue)

    async def submit(self, jobs: Sequence[J], client: str = "") -> list[R]:
        """Return the results of ``jobs``, in order.

        Args:
            client: whose share the jobs use.

        Raises:
            Overloaded: too many requests are queued, or the service is shutting down.
        """
        loop = asyncio.get_running_loop()
        call: _PendingCall[J, R] = _PendingCall(jobs, client, loop, loop.create_future())
        with self._changed:
            if not self._open or not self._make_room(client):
                raise Overloaded(1.0)
            self._queue.push(client, call)
            self._changed.notify()
        return await call.result

    def close(self, seconds: float | None = None) -> None:
        """Process the queued requests and stop.

        Args:
            seconds: how long to wait for the thread to end; ``None``: as long as it takes.
        """
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(seconds)

    def _make_room(self, client: str) -> bool:
        """Return whether the queue has room, if necessary by dropping a request.

        That is the newest request of the client that queues the most.
        """
        if len(self._queue) < self._max_pending:
            return True
        longest, newest = self._queue.newest_of_longest()
        if self._queue.count(longest) <= self._queue.count(client) + 1:
            return False
        self._queue.remove(longest, newest)
        self._deliver([newest], None, Overloaded(1.0))
        return True

    def _run(self) -> None:
        while batch := self._next_batch():
            jobs = [job for call in batch for job in call.jobs]
            try:
                self._on_batch(len(jobs))
                results = self._process(jobs)
            except BaseException as error:
                self._deliver(batch, None, error)
                continue
            self._deliver(batch, results, None)

    def _next_batch(self) -> list[_PendingCall[J, R]]:
        """Wait for a batch of at least one request; empty once closed and drained."""
        with self._changed:
            while not len(self._queue) and self._open:
                self._changed.wait()
            batch: list[_PendingCall[J, R]] = []
            size = 0
            while len(self._queue):
                call = self._queue.pick()
                if batch and size + len(call.jobs) > self._max_batch:
                    break
                self._queue.charge(call.client, len(call.jobs))
                self._queue.remove(call.client, call)
                batch.append(call)
                size += len(call.jobs)
            return batch

    def _deliver(self, batch: list[_PendingCall[J, R]], results: list[R] | None, error: BaseException | None) -> None:
        start = 0
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[list[R]], list[R]]]] = {}
        for call in batch:
            end = start + len(call.jobs)
            by_loop.setdefault(call.loop, []).append((call.result, (results or [])[start:end]))
            start = end

        def resolve(pairs: list[tuple[asyncio.Future[list[R]], list[R]]]) -> None:
            for future, results_of_call in pairs:
                if future.done():  # the caller was cancelled
                    continue
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(results_of_call)

        for loop, pairs in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(resolve, pairs)
