"""Rate limit per API key, and limits on what clients use at the same time.

The rate limit is a token bucket stored as one number per key: the time at which its bucket is full again (generic cell
rate algorithm, ITU-T I.371). Both classes must be used from one event loop, as nothing is locked.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RateLimiter", "SharedLimiter"]


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


class SharedLimiter:
    """Limits an amount in use, in total and per client.

    The amount is a number of concurrent requests, connections or bytes.

    Args:
        limit: maximum amount in use.
        per_client: maximum amount in use by one client; 0: no such limit.
    """

    def __init__(self, limit: int, per_client: int = 0) -> None:
        self._limit, self._per_client, self._in_use = limit, per_client, 0
        self._by_client: dict[str, int] = {}

    @property
    def in_use(self) -> int:
        """Amount in use."""
        return self._in_use

    @property
    def is_full(self) -> bool:
        """Whether nothing is left for any client."""
        return self._in_use >= self._limit

    def has_room(self, amount: int) -> bool:
        """Return whether ``amount`` is left, if not for every client."""
        return self._in_use + amount <= self._limit

    def try_acquire(self, client: str | None = None, amount: int = 1) -> bool:
        """Acquire ``amount`` if it is available, and return whether it was.

        The caller must release it.

        Args:
            client: ``None``: only the total is limited.
        """
        if self._in_use + amount > self._limit:
            return False
        if client is not None and self._per_client:
            used = self._by_client.get(client, 0) + amount
            if used > self._per_client:
                return False
            self._by_client[client] = used
        self._in_use += amount
        return True

    def release(self, client: str | None = None, amount: int = 1) -> None:
        """Release an acquired amount."""
        self._in_use -= amount
        if client is not None and self._per_client:
            remaining = self._by_client[client] - amount
            if remaining:
                self._by_client[client] = remaining
            else:
                del self._by_client[client]
