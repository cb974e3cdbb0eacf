"""Catalog coverage and popularity percentiles of served items.

Source: Herlocker et al. 2004, doi:10.1145/963770.963772.

Shapes: I items, S items served.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Mask

__all__ = ["Coverage", "popularity_percentiles"]


class Coverage:
    """Share of the catalog served recently.

    Two bitmaps alternate: served items are marked in the current one, and after ``seconds`` the older one is cleared
    and becomes current. The window therefore covers between one and two times ``seconds``, at two bytes per item.

    Args:
        n_items: I, at least 1.
        seconds: time for which a bitmap is current.
        clock: monotonic clock in seconds.
    """

    def __init__(self, n_items: int, seconds: float = 3600.0, clock: Callable[[], float] = time.monotonic) -> None:
        if n_items < 1 or seconds <= 0:
            raise ValueError(
                f"coverage: got {n_items} items and {seconds} seconds, expected at least 1 and more than 0"
            )
        self._current_I: Mask = np.zeros(n_items, np.bool_)
        self._previous_I: Mask = np.zeros(n_items, np.bool_)
        self._seconds, self._clock, self._started_at = seconds, clock, clock()
        self._n_covered = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of items, I."""
        return len(self._current_I)

    def add(self, items_S: Codes) -> None:
        """Mark items as served, in time proportional to S."""
        with self._lock:
            self._rotate()
            new = items_S[~(self._current_I[items_S] | self._previous_I[items_S])]
            self._n_covered += len(np.unique(new))
            self._current_I[items_S] = True

    @property
    def ratio(self) -> float:
        """Share of the catalog that was served, from 0 to 1."""
        with self._lock:
            self._rotate()
            return self._n_covered / len(self._current_I)

    def _rotate(self) -> None:
        elapsed = self._clock() - self._started_at
        if elapsed < self._seconds:
            return
        self._current_I, self._previous_I = self._previous_I, self._current_I
        self._current_I[:] = False
        if elapsed >= 2 * self._seconds:  # idle for so long that both bitmaps have expired
            self._previous_I[:] = False
        self._n_covered = int(self._previous_I.sum())
        self._started_at += elapsed - elapsed % self._seconds


def popularity_percentiles(popularity_I: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return ``(I,)`` the share of items that are less popular than each item.

    Ties count half, so the mean is 0.5.

    Args:
        popularity_I: events per item, or any increasing function of it.
    """
    sorted_I = np.sort(popularity_I)
    n_below_I = np.searchsorted(sorted_I, popularity_I, side="left")
    n_up_to_I = np.searchsorted(sorted_I, popularity_I, side="right")
    return (n_below_I + n_up_to_I) / (2 * len(popularity_I))
