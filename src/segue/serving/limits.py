"""Rate limit per API key and limit on concurrent requests.

The rate limit is a token bucket stored as one number per key: the time at which its bucket is full again (generic cell
rate algorithm, ITU-T I.371). Both classes must be used from one event loop, as nothing is locked.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["ConcurrencyLimiter", "RateLimiter"]


class RateLimiter:
    """Limits requests per second for each key.

    Args:
        rate: requests per second; 0 disables the limit.
        burst_seconds: bucket size in seconds' worth of requests; at least one request always fits.
        max_keys: number of keys to remember; beyond it the least recently used key starts with a full bucket.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        rate: float,
        burst_seconds: float = 2.0,
        max_keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = 1 / rate if rate > 0 else 0.0
        self._tolerance = max(0.0, burst_seconds - self._interval)
        self._max_keys, self._clock = max_keys, clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of keys remembered."""
        return len(self._full_at)

    def acquire(self, key: str) -> float:
        """Count a request of ``key`` and return 0 if it is allowed.

        Otherwise return the seconds to wait before the next request is allowed.
        """
        if not self._interval:
            return 0.0
        now = self._clock()
        full_at = max(now, self._full_at.pop(key, now))
        wait = full_at - now - self._tolerance
        allowed = wait <= 1e-9
        self._full_at[key] = full_at + self._interval if allowed else full_at
        if len(self._full_at) > self._max_keys:
            self._full_at.popitem(last=False)
        return 0.0 if allowed else wait


class ConcurrencyLimiter:
    """Limits the number of concurrent requests.

    Args:
        limit: maximum number of concurrent requests.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._in_use = limit, 0

    @property
    def in_use(self) -> int:
        """Number of requests being processed."""
        return self._in_use

    def try_acquire(self) -> bool:
        """Acquire a slot if one is free; the caller must then call :meth:`release`."""
        if self._in_use >= self._limit:
            return False
        self._in_use += 1
        return True

    def release(self) -> None:
        """Release a slot."""
        self._in_use -= 1
