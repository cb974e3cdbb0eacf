"""Monitors whether the event store responds and how large it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from segue.serving.errors import format_traceback
from segue.serving.monitoring.metrics import Metrics
from segue.serving.stores.store import STORE_DAMAGED, STORE_FULL, STORE_LINKED, StoreError
from segue.serving.stores.timeout import TimeoutStore

__all__ = ["StoreMonitor"]

logger = logging.getLogger("segue.serving")

CHECK_SECONDS, SIZE_SECONDS, LOG_SECONDS = 1.0, 5.0, 10.0
"""Interval of the health checks; minimum intervals of measuring the size, and of logging the failures of a call."""


class StoreMonitor:
    """Checks the store once per second in its own thread.

    Each change of its condition is logged once. After a successful check, the store attempts calls again although
    earlier ones are overdue. If the store is larger than permitted, it stops growing
    (:attr:`~segue.serving.stores.timeout.TimeoutStore.size_problem`).

    Args:
        max_bytes: maximum size of the store; 0: no limit.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self, store: TimeoutStore, metrics: Metrics, max_bytes: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._metrics, self._max_bytes, self._clock = store, metrics, max_bytes, clock
        self._down_since: float | None = None
        self._down_cause = ""
        self._measured_at: float | None = None
        self._was_full = False
        self._logged_at: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        metrics.set_store_up(True)

    @property
    def is_down(self) -> bool:
        """Whether the last check failed."""
        return self._down_since is not None

    def problems(self) -> list[str]:
        """Return the problems of the store, without addresses and paths."""
        problems = []
        if self._down_since is not None:
            seconds = f"{self._clock() - self._down_since:.0f} s"
            problems.append(f"event store unavailable for {seconds}{self._down_cause}")
        if self.full_reason is not None:
            problems.append("event store full")
        return problems

    def log_failure(self, operation: str, error: StoreError) -> None:
        """Count a failed call of the store and log it with its stack.

        It is not logged if the store is known to be down or full, or if the operation failed a few seconds ago.
        """
        self._metrics.record_error("store")
        is_known = self.is_down or (STORE_FULL in str(error) and self.full_reason is not None)
        now = self._clock()
        if not is_known and now - self._logged_at.get(operation, -LOG_SECONDS) >= LOG_SECONDS:
            self._logged_at[operation] = now
            logger.error("store: %s failed: %s", operation, error, extra={"traceback": format_traceback(error)})

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="segue-store-monitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread without waiting for a check that has not returned."""
        self._stop.set()

    def check(self) -> None:
        """Check the store once; never raises."""
        try:
            self._store.ping()
        except Exception as error:  # otherwise the thread would end
            self._set_down(str(error) if isinstance(error, StoreError) else type(error).__name__)
        else:
            self._set_up()
            if self._measured_at is None or self._clock() - self._measured_at >= SIZE_SECONDS:
                self._measure_size()
        self._report_full()

    def _run(self) -> None:
        while True:
            self.check()
            if self._stop.wait(CHECK_SECONDS):
                return

    def _set_down(self, reason: str) -> None:
        causes = [cause for cause in (STORE_DAMAGED, STORE_LINKED) if cause in reason]
        self._down_cause = f": {causes[0]}" if causes else ""
        if self._down_since is None:
            self._down_since = self._clock()
            self._metrics.set_store_up(False)
            logger.error("event store unavailable: %s", reason)

    def _set_up(self) -> None:
        if self._down_since is not None:
            seconds, self._down_since = self._clock() - self._down_since, None
            self._metrics.set_store_up(True)
            logger.warning("event store available again after %.0f s", seconds)

    def _measure_size(self) -> None:
        try:
            size = self._store.size_bytes()
        except Exception as error:  # an unavailable store is reported by the next ping
            logger.debug("the size of the event store cannot be read: %s", type(error).__name__)
            return
        self._measured_at = self._clock()
        self._metrics.set_store_size(size, self._max_bytes)
        is_full = 0 < self._max_bytes <= size
        self._store.size_problem = (
            f"{STORE_FULL}: its size is {size:,} bytes, max_store_bytes is {self._max_bytes:,}" if is_full else None
        )

    @property
    def full_reason(self) -> str | None:
        """Why the store does not accept events, or ``None`` if it has room."""
        if self._store.size_problem is not None:
            return self._store.size_problem
        return f"{STORE_FULL}: no room on its disk or in its memory" if self._store.is_disk_full else None

    def _report_full(self) -> None:
        reason = self.full_reason
        if (reason is not None) != self._was_full:
            self._was_full = reason is not None
            if reason is not None:
                logger.error("events are refused: %s", reason)
            else:
                logger.warning("the event store is no longer full: events are accepted again")
