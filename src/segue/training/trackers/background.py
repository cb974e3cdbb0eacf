"""Pass calls to a tracker through a bounded queue, in a background thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from segue.core.messages import hide_passwords
from segue.training.trackers.client import TrackerClient

__all__ = ["BackgroundTracker"]

MAX_CALLS = 1_000
"""Calls that wait at most; further ones are dropped."""

FLUSH_SECONDS = 60.0
"""Time for the remaining calls at the end of a run."""

STALL_SECONDS = 20.0
"""A tracker whose current call takes longer than this at the end of a run is given up."""

GRACE_SECONDS = 1.0
"""A tracker that was blocked before the end of the run has this much time."""

Call = Callable[[], object]


class BackgroundTracker:
    """Sends what a run logs to one tracker.

    Nothing that the tracker does reaches the run. Errors, dropped calls and a tracker that blocks are reported through
    ``report``, each once, and listed in ``problems``.

    Args:
        start: the first call; where it fails, no further calls are made.
        report: receives each problem as text; called in the background thread, or by :meth:`close`.
        max_calls: calls that wait at most.
    """

    def __init__(
        self, client: TrackerClient, start: Call, report: Callable[[str], None], max_calls: int = MAX_CALLS
    ) -> None:
        self.client = client
        self.problems: list[str] = []
        self._report_text, self._max_calls = report, max_calls
        self._calls: deque[Call] = deque()
        self._changed = threading.Condition()
        self._call_began: float | None = None
        self._is_closing = self._is_abandoned = False
        self._n_dropped = self._n_failed = 0
        self._thread = threading.Thread(target=self._work, args=(start,), name=f"tracker {client.name}", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of one step, unless too many calls wait."""
        copied = dict(values)
        self.submit(lambda: self.client.log(step, copied))

    def submit(self, call: Call, is_required: bool = False) -> None:
        """Let the background thread make a call.

        Args:
            is_required: whether the call waits even if the queue is full.
        """
        with self._changed:
            is_full = len(self._calls) >= self._max_calls and not is_required
            if not is_full:
                self._calls.append(call)
                self._changed.notify_all()
                return
            self._n_dropped += 1
            is_first = self._n_dropped == 1
        if is_first:
            self._report(f"{self._max_calls:,} calls are waiting, so further ones are dropped until it catches up")

    def close(self) -> None:
        """End the thread after the calls that wait; does not wait for it."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    def wait(
        self,
        flush_seconds: float = FLUSH_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """Wait until the thread has ended, or give up.

        Args:
            flush_seconds: time for all calls.
            stall_seconds: time for one call, which may have begun long ago.
            grace_seconds: time for a call that already took ``stall_seconds``.
        """
        began = time.monotonic()
        while self._thread.is_alive():
            now = time.monotonic()
            with self._changed:
                current = now if self._call_began is None else self._call_began
                limit = min(began + flush_seconds, max(current + stall_seconds, began + grace_seconds))
                n_waiting = len(self._calls) + (self._call_began is not None)
                if now >= limit and n_waiting:
                    self._is_abandoned = True
                    break
            self._thread.join(min(0.05, max(0.0, limit - now)) or 0.01)
        if self._is_abandoned:
            self.client.abandon()
            seconds = time.monotonic() - current
            self._report(f"gave up, its last call took {seconds:.0f} s so far; {n_waiting:,} calls were not completed")
        if self._n_failed > 1:
            self.problems.append(f"{self.client.name}: {self._n_failed:,} calls failed")
        if self._n_dropped:
            self.problems.append(f"{self.client.name}: {self._n_dropped:,} calls were dropped")

    def _work(self, start: Call) -> None:
        is_usable = self._make(start)
        while True:
            with self._changed:
                while not self._calls and not self._is_closing:
                    self._changed.wait()
                if not self._calls or self._is_abandoned:
                    return
                call = self._calls.popleft()
                self._call_began = time.monotonic()
            if is_usable:
                self._make(call)
            with self._changed:
                self._call_began = None

    def _make(self, call: Call) -> bool:
        """Make one call and report an error; return whether there was none."""
        with self._changed:
            self._call_began = time.monotonic()
        try:
            call()
        except BaseException as error:  # a client may raise anything, and training continues
            self._n_failed += 1
            if self._n_failed == 1 and not self._is_abandoned:
                text = hide_passwords(str(error).strip()).partition("\n")[0][:300]
                self._report(f"{type(error).__name__}: {text}" if text else type(error).__name__)
            return False
        finally:
            with self._changed:
                self._call_began = None
        return True

    def _report(self, text: str) -> None:
        text = f"{self.client.name}: {text}"
        self.problems.append(text)
        self._report_text(f"warning: tracker {text}")
