"""Share one engine thread between plain and expensive calls, and among clients.

There are two lanes. A *plain* call is one request of little cost: whatever is queued when the thread becomes free is
computed as one batch, without waiting for more. An *expensive* call, such as a large batch, runs in steps. Between two
steps the plain lane is emptied first; if it never is, the expensive lane still gets ``EXPENSIVE_SHARE`` of the time.

Within a lane, the client with the least consumption goes first: requests of the plain lane, seconds of the expensive
one. A full lane drops the newest call of the client that queues the most. A cancelled call is not started, or stops
after its current step.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from segue.serving.scheduling.fair_queue import FairQueue, Overloaded
from segue.serving.scheduling.futures import deliver

__all__ = ["MAX_EXPENSIVE_ROWS", "EngineScheduler", "Lane", "Outputs", "SchedulerMetrics"]

J = TypeVar("J")

Lane: TypeAlias = Literal["plain", "expensive"]

Outputs: TypeAlias = Generator[Sequence[tuple[int, Any]] | None, None, None]
"""Work in steps: each yields the results that are ready, with the index of their job, or ``None`` for none."""

SLICE_SECONDS = 0.002
"""Time after which an expensive call gives way to the expensive calls of other clients."""

EXPENSIVE_SHARE = 0.2
"""Share of the time that the expensive lane gets while the plain lane is never empty."""

MAX_EXPENSIVE_ROWS = 4
"""Requests of an expensive call that are computed together, in one step of the engine."""


class SchedulerMetrics(Protocol):
    """Receives measurements, on any thread."""

    def record_batch(self, size: int) -> None:
        """Record the number of plain calls that are computed together."""

    def record_queue_time(self, lane: str, seconds: float) -> None:
        """Record how long a call waited before it started."""

    def record_cancellation(self, lane: str) -> None:
        """Record a call that was cancelled before it was complete."""


@dataclass(eq=False)
class _Call(Generic[J]):
    """Jobs that one coroutine waits for."""

    jobs: Sequence[J]
    client: str
    lane: Lane
    submitted: float
    future: asyncio.Future[list[Any]]
    results: dict[int, Any] = field(default_factory=dict)
    outputs: Outputs | None = None
    """The work of an expensive call, once it has started."""
    is_cancelled: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether there is a result for each job."""
        return len(self.results) == len(self.jobs)

    def collect_results(self) -> list[Any] | RuntimeError:
        """Return the results in the order of the jobs, or an error if there are too few."""
        if not self.is_complete:
            return RuntimeError(f"got {len(self.results)} results for {len(self.jobs)} jobs")
        return [self.results[index] for index in range(len(self.jobs))]


class EngineScheduler(Generic[J]):
    """Runs the jobs of many coroutines in one thread.

    Args:
        run: the work of some jobs, of which at most the given number are computed together. It yields a result, or an
            exception as a result, once for each job.
        max_batch: largest number of plain calls in a batch.
        max_queued: largest number of calls in each lane.
        name: name of the thread.
    """

    def __init__(
        self,
        run: Callable[[Sequence[J], int], Outputs],
        max_batch: int,
        max_queued: int,
        name: str,
        metrics: SchedulerMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run, self._max_batch, self._max_queued, self._clock = run, max_batch, max_queued, clock
        self._metrics = metrics
        self._plain: FairQueue[_Call[J]] = FairQueue()
        self._expensive: FairQueue[_Call[J]] = FairQueue()
        self._changed = threading.Condition()
        self._is_open = True
        self._credit = 0.0  # seconds that the plain lane owes to the expensive one
        self._thread = threading.Thread(target=self._run_until_closed, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def __len__(self) -> int:
        """Return the number of calls that are queued, or expensive and unfinished."""
        return len(self._plain) + len(self._expensive)

    def length(self, lane: Lane) -> int:
        """Return the number of calls of a lane; see :meth:`__len__`."""
        return len(self._plain if lane == "plain" else self._expensive)

    async def submit(self, jobs: Sequence[J], client: str = "", *, is_expensive: bool) -> list[Any]:
        """Return the result or exception of each job, in order.

        If this coroutine is cancelled, the jobs are dropped.

        Args:
            jobs: at least one; exactly one for a plain call.
            client: whose share of the engine the jobs use.
            is_expensive: whether the jobs run in steps.

        Raises:
            Overloaded: too many calls are queued, or the service is shutting down.
        """
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        call = _Call(jobs, client, "expensive" if is_expensive else "plain", self._clock(), future)
        with self._changed:
            if not self._is_open:
                raise Overloaded
            dropped = self._lane(call).make_room(client, self._max_queued, lambda one: one.outputs is None)
            _deliver({one: Overloaded() for one in dropped})
            self._lane(call).push(client, call)
            self._changed.notify()
        try:
            return await future
        except asyncio.CancelledError:
            self._cancel(call)
            raise

    def close(self, seconds: float | None = None) -> None:
        """Finish the queued calls and stop.

        Args:
            seconds: how long to wait for the thread to end; ``None``: as long as it takes.
        """
        with self._changed:
            self._is_open = False
            self._changed.notify()
        self._thread.join(seconds)

    def run_next(self) -> bool:
        """Run one batch of plain calls, or one slice of an expensive call.

        Returns:
            Whether there was anything to run.
        """
        with self._changed:
            has_plain, has_expensive = len(self._plain) > 0, len(self._expensive) > 0
            is_due = self._credit >= SLICE_SECONDS
            batch = self._take_batch() if has_plain and not (has_expensive and is_due) else []
            call = self._expensive.pick() if has_expensive and not batch else None
        start = self._clock()
        if batch:
            self._run_batch(batch)
            earned = (self._clock() - start) * EXPENSIVE_SHARE / (1 - EXPENSIVE_SHARE)
            self._credit = min(self._credit + earned, SLICE_SECONDS) if has_expensive else 0.0
        elif call is not None:
            self._run_slice(call, is_due)
            self._credit = 0.0
        return bool(batch) or call is not None

    def _run_until_closed(self) -> None:
        while True:
            with self._changed:
                while not len(self) and self._is_open:
                    self._changed.wait()
                if not len(self):
                    return
            self.run_next()

    def _lane(self, call: _Call[J]) -> FairQueue[_Call[J]]:
        return self._plain if call.lane == "plain" else self._expensive

    def _cancel(self, call: _Call[J]) -> None:
        """Remove a call, or stop it after its current step."""
        with self._changed:
            if not call.is_complete:
                self._metrics.record_cancellation(call.lane)
            call.is_cancelled = True
            if call.outputs is None:
                self._lane(call).remove(call.client, call)

    def _take_batch(self) -> list[_Call[J]]:
        """Remove the next plain calls from their queue."""
        batch: list[_Call[J]] = []
        while len(self._plain) and len(batch) < self._max_batch:
            call = self._plain.pick()
            self._plain.charge(call.client, 1.0)
            self._plain.remove(call.client, call)
            batch.append(call)
        return batch

    def _run_batch(self, batch: Sequence[_Call[J]]) -> None:
        """Compute plain calls together; deliver each result as soon as it is ready."""
        now = self._clock()
        try:
            self._metrics.record_batch(len(batch))
            for call in batch:
                self._metrics.record_queue_time("plain", now - call.submitted)
            for results in self._run([call.jobs[0] for call in batch], self._max_batch):
                for index, result in results or ():
                    batch[index].results[0] = result
                if results:
                    _deliver({batch[index]: None for index, _ in results})
            _deliver({call: None for call in batch if not call.is_complete})
        except BaseException as error:
            _deliver({call: error for call in batch if not call.is_complete})

    def _run_slice(self, call: _Call[J], is_due: bool) -> None:
        """Run some steps of an expensive call.

        Args:
            is_due: whether the slice runs to its end even if plain calls are waiting.
        """
        start = self._clock()
        is_finished = False
        error: BaseException | None = None
        try:
            if call.outputs is None:
                self._metrics.record_queue_time("expensive", start - call.submitted)
                call.outputs = self._run(call.jobs, MAX_EXPENSIVE_ROWS)
            while not is_finished and self._clock() < start + SLICE_SECONDS and (is_due or not len(self._plain)):
                if call.is_cancelled:
                    call.outputs.close()
                    is_finished = True
                else:
                    output = next(call.outputs)
                    call.results.update(output or ())
        except StopIteration:
            is_finished = True
        except BaseException as failure:
            is_finished, error = True, failure
        with self._changed:
            self._expensive.charge(call.client, self._clock() - start)
            if is_finished:
                self._expensive.remove(call.client, call)
        if is_finished:
            _deliver({call: error})


def _deliver(outcomes: Mapping[_Call[Any], BaseException | None]) -> None:
    """Wake the coroutines that wait for calls, with the results or an error."""
    deliver((call.future, call.collect_results() if error is None else error) for call, error in outcomes.items())
