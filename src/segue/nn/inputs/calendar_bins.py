"""Bins of the calendar, and their cyclic encoding.

The bins are the hour of the day, the day of the week, the month and the season of a time.

Times are Unix seconds; the calendar is that of UTC. A log of local clock times that were read as UTC has local hours.

Shapes: B sequences, L positions, W bins, F numbers of the cyclic encoding, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CALENDAR_BINS", "MIN_DATE", "calendar_bins", "cyclic_basis"]

DAY = 86_400
MIN_DATE = 31_536_000
"""1971-01-01: a log whose times are all earlier counts something else than seconds since 1970."""

CALENDAR_BINS: dict[str, int] = {"hour": 24, "weekday": 7, "month": 12, "season": 4}
"""Number of bins of each calendar input. The last bin is a neighbor of the first."""


def calendar_bins(name: str, times_BL: Tensor) -> Tensor:
    """Return the int64 bins ``(B, L)`` of float64 Unix times; -1 for NaN.

    Args:
        name: ``hour`` (0 to 23), ``weekday`` (Monday is 0), ``month`` (January is 0) or ``season`` (0 is December to
            February).
    """
    seconds_BL = times_BL.nan_to_num(0.0).floor().long()
    return torch.where(times_BL.isnan(), -1, _BINS[name](seconds_BL))


def _hour(seconds: Tensor) -> Tensor:
    return seconds.remainder(DAY) // 3_600


def _weekday(seconds: Tensor) -> Tensor:
    return (_days(seconds) + 3).remainder(7)  # 1970-01-01 was a Thursday


def _month(seconds: Tensor) -> Tensor:
    # in years that start in March the leap day is the last day; 400 years have 146,097 days
    day_of_era = (_days(seconds) + 719_468).remainder(146_097)
    leap_days = day_of_era // 1_460 - day_of_era // 36_524 + day_of_era // 146_096
    year = (day_of_era - leap_days) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    return ((5 * day_of_year + 2) // 153 + 2).remainder(12)


def _season(seconds: Tensor) -> Tensor:
    return (_month(seconds) + 1).remainder(12) // 3


def _days(seconds: Tensor) -> Tensor:
    return torch.div(seconds, DAY, rounding_mode="floor")


_BINS: dict[str, Callable[[Tensor], Tensor]] = {
    "hour": _hour,
    "weekday": _weekday,
    "month": _month,
    "season": _season,
}


@cache
def cyclic_basis(n_bins: int) -> NDArray[np.float32]:
    """Return the cyclic encoding of each bin, ``(W, F)``; rows have length 1.

    A row holds the sine and cosine of all harmonics of the cycle; their weights fall with the frequency. Neighbors, the
    last and the first bin included, are therefore similar at first, and any function of the bin can be learned.
    """
    angle_W = 2 * np.pi * np.arange(n_bins) / n_bins
    columns = []
    for harmonic in range(1, n_bins // 2 + 1):
        columns.append(np.cos(harmonic * angle_W) / harmonic)
        if 2 * harmonic < n_bins:  # the sine of the highest harmonic of an even number of bins is 0
            columns.append(np.sin(harmonic * angle_W) / harmonic)
    basis_WF = np.stack(columns, axis=1)
    basis_WF /= np.linalg.norm(basis_WF, axis=1, keepdims=True)
    return basis_WF.astype(np.float32)
