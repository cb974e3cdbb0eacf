"""Ratio of two costs from alternating repetitions, with an interval.

The repetitions of two programs take turns, so that a slow drift of the machine changes both members of a pair. The
ratio is the geometric mean over the pairs; its 95 % interval is that of Student's t for the mean of the logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

__all__ = ["Ratio", "estimate_ratio", "format_ratio"]


class Ratio(TypedDict):
    """A ratio of costs with its interval, which is missing for a single pair."""

    ratio: float
    low: float | None
    high: float | None
    pairs: int


def estimate_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Estimate the ratio of two costs, each measured once per pair.

    Raises:
        ValueError: no pair, another number of numerators than of denominators, or a cost that is not above 0.
    """
    from scipy.stats import t

    if len(numerators) != len(denominators) or not numerators:
        raise ValueError(
            f"costs: got {len(numerators)} and {len(denominators)}, expected as many of both, at least one"
        )
    if min(*numerators, *denominators) <= 0:
        raise ValueError(f"costs: got {list(numerators)} and {list(denominators)}, expected values above 0")
    logs = np.log(np.asarray(numerators) / np.asarray(denominators))
    n, mean = len(logs), float(logs.mean())
    if n == 1:
        return {"ratio": float(np.exp(mean)), "low": None, "high": None, "pairs": 1}
    half_width = float(t.ppf(0.975, n - 1) * logs.std(ddof=1) / np.sqrt(n))
    low, high = float(np.exp(mean - half_width)), float(np.exp(mean + half_width))
    return {"ratio": float(np.exp(mean)), "low": low, "high": high, "pairs": n}


def format_ratio(ratio: Ratio) -> str:
    """Format a ratio with its interval."""
    if ratio["low"] is None:
        return f"{ratio['ratio']:.2f}"
    return f"{ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
