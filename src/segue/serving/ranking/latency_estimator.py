"""The ladder for trouble: who answers when the model that was asked cannot, or not in time.

Each step costs less and needs less than the one above it. What a step will take is foretold by what it took lately.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Pace"]

KEPT = 0.8
"""Share of the old figure in the new one, when a step was faster than that; a slower one counts at once."""

MARGIN = 1.5
"""A step is taken to need so many times what it took lately."""

FADING = 0.95
"""A step that is passed over is taken to be a little faster each time, so that it is tried again."""


class Pace:
    """How many seconds each step takes, as it seems."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def fits(self, step: str, seconds: float) -> bool:
        """Whether a step will be done in so many seconds; one that was never taken is tried."""
        with self._lock:
            expected = self._seconds.get(step, 0.0)
            if expected * MARGIN <= seconds:
                return True
            self._seconds[step] = expected * FADING
            return False

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """What is within is taken to be this step; of one that fails it only counts how long that took."""
        begun, failed = time.monotonic(), True
        try:
            yield
            failed = False
        finally:
            took = time.monotonic() - begun
            with self._lock:
                before = self._seconds.get(step, took)
                lower = before if failed else KEPT * before + (1 - KEPT) * took
                self._seconds[step] = took if took > before else lower
