"""Estimate how long each source of the fallback chain takes, to meet deadlines.

Each source is cheaper than the one before it. The estimate follows recent measurements.
"""

from __future__ import annotations

import threading

__all__ = ["LatencyEstimator"]

SMOOTHING = 0.8
"""Weight of the old estimate when a source was faster than estimated; a slower measurement replaces it at once."""

MARGIN = 1.5
"""A source is assumed to need this many times its estimate."""

DECAY = 0.95
"""Factor applied to the estimate each time a source is skipped, so that it is tried again eventually."""


class LatencyEstimator:
    """Estimated duration of each source, in seconds. Thread-safe."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def can_meet_deadline(self, source: str, seconds: float) -> bool:
        """Return whether a source will probably finish within ``seconds``.

        A source without measurements is assumed to finish in time.
        """
        with self._lock:
            estimate = self._seconds.get(source, 0.0)
            if estimate * MARGIN <= seconds:
                return True
            self._seconds[source] = estimate * DECAY
            return False

    def record(self, source: str, seconds: float, is_failed: bool) -> None:
        """Record how long a source took; a failed one can only raise the estimate."""
        with self._lock:
            estimate = self._seconds.get(source, seconds)
            lower = estimate if is_failed else SMOOTHING * estimate + (1 - SMOOTHING) * seconds
            self._seconds[source] = seconds if seconds > estimate else lower
