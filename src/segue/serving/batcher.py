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
from itertools import islice
from typing import Generic, TypeVar

from segue.serving.scheduling.fair_queue import FairQueue, Overloaded
from segue.serving.scheduling.futures import deliver

__all__ = ["Batcher"]

J = TypeVar("J")
R = TypeVar("R")


@dataclass(eq=False)
class _PendingCall(Generic[J, R]):
    jobs: Sequence[J]
    client: str
    future: asyncio.Future[list[R]]


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
        call: _PendingCall[J, R] = _PendingCall(jobs, client, asyncio.get_running_loop().create_future())
        with self._changed:
            if not self._open:
                raise Overloaded
            deliver((dropped.future, Overloaded()) for dropped in self._queue.make_room(client, self._max_pending))
            self._queue.push(client, call)
            self._changed.notify()
        return await call.future

    def close(self, seconds: float | None = None) -> None:
        """Process the queued requests and stop.

        Args:
            seconds: how long to wait for the thread to end; ``None``: as long as it takes.
        """
        with self._changed:
            self._open = False
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while batch := self._next_batch():
            jobs = [job for call in batch for job in call.jobs]
            try:
                self._on_batch(len(jobs))
                results = self._process(jobs)
            except BaseException as error:
                deliver((call.future, error) for call in batch)
                continue
            remaining = iter(results)
            deliver((call.future, list(islice(remaining, len(call.jobs)))) for call in batch)

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
