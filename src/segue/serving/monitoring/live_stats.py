"""How the service fares now: requests of the last minute, for whoever looks at the page.

Prometheus tells the same at length; this needs nothing beside the service.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from segue.serving import schemas

__all__ = ["Arrivals", "Figures"]

WINDOW = 60.0
"""Seconds that are looked at."""

MOST = 100_000
"""Requests of the window that are kept; of more the newest."""


class Arrivals:
    """ASGI middleware that calls ``arrived`` with every request, before anything else is done with it."""

    def __init__(self, app: Any, arrived: Callable[[], None]) -> None:
        self._app, self._arrived = app, arrived

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] == "http":
            self._arrived()
        await self._app(scope, receive, send)


class Figures:
    """Counts and times of requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun = clock, clock()
        self._recent: deque[tuple[float, float]] = deque(maxlen=MOST)
        self._steps: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._errors = 0

    def left(self, status: int, seconds: float) -> None:
        """A request under ``/v1`` was answered after so many seconds."""
        with self._lock:
            self._errors += status >= 500
            now = self._clock()
            self._forget(now)  # also where nobody looks
            self._recent.append((now, seconds))

    def step(self, name: str) -> None:
        """A step of the ladder gave an answer."""
        with self._lock:
            self._steps[name] += 1

    def told(self, waiting: int, in_flight: int) -> schemas.Live:
        """The figures as they stand."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            milliseconds = np.array([seconds for _, seconds in self._recent]) * 1000
            uptime = now - self._begun
            points: list[float | None] = [None] * 3
            if len(milliseconds):
                points = [round(float(x), 3) for x in np.quantile(milliseconds, [0.5, 0.95, 0.99])]
            return schemas.Live(
                requests_per_second=round(len(milliseconds) / max(min(uptime, WINDOW), 1.0), 2),
                p50_ms=points[0],
                p95_ms=points[1],
                p99_ms=points[2],
                in_flight=in_flight,
                waiting=waiting,
                steps=dict(self._steps),
                errors=self._errors,
                uptime_seconds=round(uptime, 1),
            )

    def _forget(self, now: float) -> None:
        """Drop what is older than the window."""
        while self._recent and self._recent[0][0] < now - WINDOW:
            self._recent.popleft()
