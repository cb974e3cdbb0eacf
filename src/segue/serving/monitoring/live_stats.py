"""Request statistics of the last minute, for the UI.

Prometheus provides the same in more detail; this needs nothing besides the service.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from segue.serving import schemas

__all__ = ["ArrivalCounter", "RequestStats"]

WINDOW_SECONDS = 60.0
"""Length of the window."""

MAX_REQUESTS = 100_000
"""Maximum number of requests kept; older ones are dropped."""


class ArrivalCounter:
    """ASGI middleware that counts arriving requests.

    It calls ``on_arrival`` for every request before anything else.
    """

    def __init__(self, app: Any, on_arrival: Callable[[], None]) -> None:
        self._app, self._on_arrival = app, on_arrival

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http":
            self._on_arrival()
        await self._app(scope, receive, send)


class RequestStats:
    """Counts and latencies of requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started_at = clock, clock()
        self._recent: deque[tuple[float, float]] = deque(maxlen=MAX_REQUESTS)
        self._sources: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._n_errors = 0

    def record_response(self, status: int, seconds: float) -> None:
        """Record the status and latency of a request under ``/v1``."""
        with self._lock:
            self._n_errors += status >= 500
            now = self._clock()
            self._drop_expired(now)  # also while no client calls `snapshot`
            self._recent.append((now, seconds))

    def record_source(self, source: str) -> None:
        """Record which source produced a response."""
        with self._lock:
            self._sources[source] += 1

    def snapshot(self, queued: int, in_flight: int) -> schemas.LiveStats:
        """Return the current statistics."""
        with self._lock:
            now = self._clock()
            self._drop_expired(now)
            latencies_ms = np.array([seconds for _, seconds in self._recent]) * 1000
            uptime = now - self._started_at
            quantiles: list[float | None] = [None] * 3
            if len(latencies_ms):
                quantiles = [round(float(x), 3) for x in np.quantile(latencies_ms, [0.5, 0.95, 0.99])]
            return schemas.LiveStats(
                requests_per_second=round(len(latencies_ms) / max(min(uptime, WINDOW_SECONDS), 1.0), 2),
                p50_ms=quantiles[0],
                p95_ms=quantiles[1],
                p99_ms=quantiles[2],
                in_flight=in_flight,
                queued=queued,
                sources=dict(self._sources),
                errors=self._n_errors,
                uptime_seconds=round(uptime, 1),
            )

    def _drop_expired(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - WINDOW_SECONDS:
            self._recent.popleft()
