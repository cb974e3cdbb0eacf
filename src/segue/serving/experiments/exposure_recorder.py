"""Recording of exposures in the background, also while the store is unavailable."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from segue.serving.errors import format_traceback
from segue.serving.monitoring.metrics import Metrics
from segue.serving.stores.store import Exposure, StoreError

__all__ = ["ExposureRecorder"]

logger = logging.getLogger("segue.serving")

MAX_EXPOSURES, MAX_BYTES = 100_000, 64_000_000
"""Maximum number and memory of exposures that wait for the store."""
BATCH_SIZE = 1_000
"""Maximum number of exposures in one call of the store."""
RETRY_SECONDS = 1.0
"""Delay before the store is tried again."""


class ExposureRecorder:
    """Queue of exposures that a thread writes to the store, oldest first.

    A failed write is repeated until it succeeds. If the store reports that the outcome of a write is unknown, its
    exposures may therefore be stored twice. The analysis does not count them twice, because only the first exposure of
    a user, and the first one with an item, matter (:mod:`segue.serving.experiments.outcomes`). If the queue is full,
    new exposures are dropped: the oldest ones determine when a user was first exposed.

    Args:
        write: stores exposures; raises :class:`~segue.serving.stores.store.StoreError`.
        max_exposures: maximum number of exposures in the queue.
        max_bytes: maximum memory of the queue, approximately.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Exposure]], Any],
        metrics: Metrics,
        max_exposures: int = MAX_EXPOSURES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._write, self._metrics = write, metrics
        self._max_exposures, self._max_bytes = max_exposures, max_bytes
        self._queue: deque[Exposure] = deque()
        self._bytes = self._n_dropped = 0
        self._changed = threading.Condition()
        self._closing_at: float | None = None
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="segue-exposures", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return the number of exposures in the queue."""
        return len(self._queue)

    def record(self, exposures: Sequence[Exposure]) -> None:
        """Add exposures to the queue, or drop those for which there is no room."""
        n_dropped = 0
        with self._changed:
            for exposure in exposures:
                size = _estimate_bytes(exposure)
                if len(self._queue) >= self._max_exposures or self._bytes + size > self._max_bytes:
                    n_dropped += 1
                    continue
                self._queue.append(exposure)
                self._bytes += size
            self._changed.notify()
        if n_dropped:
            self._record_dropped(n_dropped)

    def close(self, seconds: float) -> None:
        """Write the queued exposures and stop.

        What cannot be written within ``seconds`` is dropped.
        """
        with self._changed:
            self._closing_at = time.monotonic() + seconds
            self._changed.notify()
        self._thread.join(seconds)
        if self._queue:
            self._record_dropped(len(self._queue))

    def _run(self) -> None:
        while batch := self._next_batch():
            try:
                self._write(batch)
            except StoreError as error:
                if not self._is_failing:
                    logger.error("exposures wait for the event store: %s", error)
                self._is_failing = True
                if not self._wait_to_retry():
                    return
                continue
            except Exception as error:  # would happen again
                logger.error("exposures could not be recorded", extra={"traceback": format_traceback(error)})
                self._remove(batch)
                self._record_dropped(len(batch))
                continue
            self._remove(batch)
            self._metrics.record_exposures("stored", len(batch))
            if not self._queue and (self._is_failing or self._n_dropped):
                logger.warning("all waiting exposures are stored; %d were dropped", self._n_dropped)
                self._is_failing, self._n_dropped = False, 0

    def _next_batch(self) -> list[Exposure]:
        """Wait for exposures and return the oldest ones, which stay in the queue.

        Returns none once the recorder is closed and all are written.
        """
        with self._changed:
            while not self._queue and self._closing_at is None:
                self._changed.wait()
            return [self._queue[index] for index in range(min(len(self._queue), BATCH_SIZE))]

    def _remove(self, batch: Sequence[Exposure]) -> None:
        with self._changed:
            for exposure in batch:
                self._queue.popleft()
                self._bytes -= _estimate_bytes(exposure)

    def _wait_to_retry(self) -> bool:
        """Wait before the next attempt and return whether there is time for it."""
        with self._changed:
            end = time.monotonic() + RETRY_SECONDS
            while (remaining := end - time.monotonic()) > 0:
                if self._closing_at is not None and end > self._closing_at:
                    return False
                self._changed.wait(remaining)
        return True

    def _record_dropped(self, count: int) -> None:
        if not self._n_dropped:
            logger.error("exposures are dropped, as the event store does not accept them")
        self._n_dropped += count
        self._metrics.record_exposures("dropped", count)


def _estimate_bytes(exposure: Exposure) -> int:
    """Return approximately the memory of an exposure, without its shared names."""
    return 200 + sys.getsizeof(exposure.user) + sum(sys.getsizeof(item) + 8 for item in exposure.items)
