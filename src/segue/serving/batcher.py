"""Concurrent requests answered together: while one batch is computed, the next one gathers.

Nobody waits for others to come: a batch is what is there when the worker is free. One thread does the work, so that
a model need not bear several callers, and the event loop stays free to read and write.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Batcher", "Busy"]

Q = TypeVar("Q")
A = TypeVar("A")


class Busy(Exception):
    """Too much waits already; try again in so many ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too much waits already; try again in {seconds:.1f} s")
        self.seconds = seconds


@dataclass(eq=False)
class _Waiting(Generic[Q, A]):
    asked: Sequence[Q]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[list[A]]


class Batcher(Generic[Q, A]):
    """Calls ``work`` on one thread of its own, with what many coroutines ask at the same time.

    Args:
        work: answers all that is asked, in its order; an exception is everybody's in that batch. A request is never
            split.
        most: what ``work`` gets at once, unless one request alone is larger.
        waiting: requests that may wait.
        seen: is told the size of each batch, for metrics.
    """

    def __init__(
        self,
        work: Callable[[list[Q]], list[A]],
        most: int,
        waiting: int,
        name: str,
        seen: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._work, self._most, self._limit, self._seen = work, most, waiting, seen
        self._queue: deque[_Waiting[Q, A]] = deque()
        self._there = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    async def ask(self, asked: Sequence[Q]) -> list[A]:
        """The answers to ``asked``, in its order.

        Raises:
            Busy: too many wait, or the service is closing.
        """
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Q, A] = _Waiting(asked, loop, loop.create_future())
        with self._there:
            if not self._open or len(self._queue) >= self._limit:
                raise Busy(1.0)
            self._queue.append(waiting)
            self._there.notify()
        return await waiting.answer

    def close(self, seconds: float | None = None) -> None:
        """Answer what waits, and stop; at most so many ``seconds`` are waited for work that does not end."""
        with self._there:
            self._open = False
            self._there.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while batch := self._next():
            asked = [question for waiting in batch for question in waiting.asked]
            try:
                self._seen(len(asked))
                answers = self._work(asked)
            except BaseException as error:
                self._deliver(batch, None, error)
                continue
            self._deliver(batch, answers, None)

    def _next(self) -> list[_Waiting[Q, A]]:
        """What is there, at least one request; nothing once all is done after closing."""
        with self._there:
            while not self._queue and self._open:
                self._there.wait()
            batch: list[_Waiting[Q, A]] = []
            size = 0
            while self._queue and (not batch or size + len(self._queue[0].asked) <= self._most):
                batch.append(self._queue.popleft())
                size += len(batch[-1].asked)
            return batch

    def _deliver(self, batch: list[_Waiting[Q, A]], answers: list[A] | None, error: BaseException | None) -> None:
        begin = 0
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[list[A]], list[A]]]] = {}
        for waiting in batch:
            end = begin + len(waiting.asked)
            by_loop.setdefault(waiting.loop, []).append((waiting.answer, (answers or [])[begin:end]))
            begin = end

        def settle(told: list[tuple[asyncio.Future[list[A]], list[A]]]) -> None:
            for future, own in told:
                if future.done():  # who asked has gone
                    continue
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(own)

        for loop, told in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, told)
