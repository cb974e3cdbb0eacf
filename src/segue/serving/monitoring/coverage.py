"""How much of the catalogue is served, and how popular that is (Herlocker et al. 2004, doi:10.1145/963770.963772).

Shapes: I items, S items served.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Mask

__all__ = ["Coverage", "percentiles"]


class Coverage:
    """The share of the catalogue that was served lately.

    Two bitmaps take turns: what is served is marked in one of them, and after ``seconds`` the older one is wiped and
    goes on. So the window reaches back between one and two times ``seconds``, and the memory is two bytes an item.

    Args:
        n_items: I, at least 1.
        seconds: how long a bitmap is written to.
        clock: seconds that never fall.
    """

    def __init__(self, n_items: int, seconds: float = 3600.0, clock: Callable[[], float] = time.monotonic) -> None:
        if n_items < 1 or seconds <= 0:
            raise ValueError(f"coverage: {n_items} items, {seconds} seconds; expected at least one item, and some time")
        self._now_I: Mask = np.zeros(n_items, np.bool_)
        self._before_I: Mask = np.zeros(n_items, np.bool_)
        self._seconds, self._clock, self._since = seconds, clock, clock()
        self._marked = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The number of items, I."""
        return len(self._now_I)

    def add(self, items_S: Codes) -> None:
        """Mark items as served. Costs as much as is served, whatever the size of the catalogue."""
        with self._lock:
            self._turn()
            fresh = items_S[~(self._now_I[items_S] | self._before_I[items_S])]
            self._marked += len(np.unique(fresh))
            self._now_I[items_S] = True

    @property
    def share(self) -> float:
        """Served items among all, from 0 to 1."""
        with self._lock:
            self._turn()
            return self._marked / len(self._now_I)

    def _turn(self) -> None:
        passed = self._clock() - self._since
        if passed < self._seconds:
            return
        self._now_I, self._before_I = self._before_I, self._now_I
        self._now_I[:] = False
        if passed >= 2 * self._seconds:  # nothing was served for so long that both are old
            self._before_I[:] = False
        self._marked = int(self._before_I.sum())
        self._since += passed - passed % self._seconds


def percentiles(popularity_I: NDArray[np.generic]) -> NDArray[np.float64]:
    """``(I,)`` for each item the share of items that are less popular, ties counting half; from 0 to 1, 0.5 on average.

    Args:
        popularity_I: events per item, their share, or anything else that grows with them.
    """
    order_I = np.sort(popularity_I)
    below_I = np.searchsorted(order_I, popularity_I, side="left")
    upto_I = np.searchsorted(order_I, popularity_I, side="right")
    return (below_I + upto_I) / (2 * len(popularity_I))
