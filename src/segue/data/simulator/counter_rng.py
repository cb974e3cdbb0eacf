"""Generate random numbers from (seed, purpose, user, counter) alone.

Source: SplitMix64, Steele et al. 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.numba_kernels import kernel

__all__ = ["EVENTS", "LENGTH", "PROFILE", "key", "uniform", "uniforms"]

PROFILE, LENGTH, EVENTS = 1, 2, 3
"""Purposes of random numbers; each user has one stream per purpose."""


@kernel
def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@kernel
def key(seed: int, purpose: int, user: int) -> Any:
    """Return the start of the stream of ``user`` for ``purpose``."""
    start = _mix(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15))
    start = _mix(start ^ (np.uint64(purpose) << np.uint64(32)))
    return _mix(start + np.uint64(user) * np.uint64(0xD1342543DE82EF95))


@kernel
def uniform(start: Any, count: int) -> float:
    """Return number ``count`` of the stream that starts at ``start``, in [0, 1)."""
    bits = _mix(start + (np.uint64(count) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    return float(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def uniforms(seed: int, purpose: int, first: int, users: int, width: int) -> NDArray[np.float64]:
    """Return the first ``width`` numbers of each user, ``(users, width)``.

    Users are numbered from ``first`` on.
    """
    out = np.empty((users, width))
    for row in range(users):
        start = key(seed, purpose, first + row)
        for column in range(width):
            out[row, column] = uniform(start, column)
    return out
