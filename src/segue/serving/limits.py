"""How much may be asked: so many requests a second by each key, so many at a time by all.

The rate is a token bucket, kept as one number per key: the moment at which its bucket is full again (the generic cell
rate algorithm, ITU-T I.371). Both are for one event loop: nothing is locked.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Rate", "Slots"]


class Rate:
    """Requests a second for each key.

    Args:
        rate: requests a second; 0: no limit.
        seconds: what is saved up at most, in seconds' worth of requests, though always one request.
        most: keys that are remembered; beyond that the one that was seen least recently starts anew.
        clock: seconds that only grow.
    """

    def __init__(
        self, rate: float, seconds: float = 2.0, most: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._each = 1 / rate if rate > 0 else 0.0
        self._slack = max(0.0, seconds - self._each)
        self._most, self._clock = most, clock
        self._full: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Keys that are remembered."""
        return len(self._full)

    def wait(self, key: str) -> float:
        """Seconds until ``key`` may ask again; 0: now, and the request is counted."""
        if not self._each:
            return 0.0
        now = self._clock()
        full = max(now, self._full.pop(key, now))
        early = full - now - self._slack
        allowed = early <= 1e-9
        self._full[key] = full + self._each if allowed else full
        if len(self._full) > self._most:
            self._full.popitem(last=False)
        return 0.0 if allowed else early


class Slots:
    """Requests at a time.

    Args:
        most: as many as may run.
    """

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0

    @property
    def taken(self) -> int:
        """Requests that run."""
        return self._taken

    def take(self) -> bool:
        """Take a slot if one is free; whoever got one gives it back."""
        if self._taken >= self._most:
            return False
        self._taken += 1
        return True

    def give(self) -> None:
        """Give a slot back."""
        self._taken -= 1
