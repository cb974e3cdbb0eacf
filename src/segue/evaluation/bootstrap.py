"""Confidence intervals of means over queries by the percentile bootstrap.

Efron 1979, doi:10.1214/aos/1176344552.

Shapes: N queries, M columns (metrics, or differences between two models), B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "estimate", "estimate_values", "resample_means"]

RESAMPLES = 1000
CONFIDENCE = 0.95
BLOCK_DRAWS = 4_000_000
"""Row indices drawn at once."""
MULTINOMIAL_RATIO = 16
"""Queries per distinct row from which counts of distinct rows are drawn instead of single queries."""


@dataclass(frozen=True)
class Estimate:
    """A mean over queries with its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def estimate(values_NM: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES) -> list[Estimate]:
    """Estimate the mean of each column with its interval.

    Rows that contain a NaN are left out.

    The same seed gives the same intervals.

    Raises:
        ValueError: every row contains a NaN.
    """
    complete = values_NM[~np.isnan(values_NM).any(axis=1)]
    if len(complete) == 0:
        raise ValueError(f"none of {len(values_NM)} queries has a true item, expected at least one to average over")
    means_BM = resample_means(complete, np.random.default_rng(seed), resamples)
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(means_BM, [tail, 100.0 - tail], axis=0)
    means = complete.mean(axis=0)
    # an interval of width zero may miss the mean by a rounding error
    low, high = np.minimum(low, means), np.maximum(high, means)
    return [Estimate(*map(float, row)) for row in zip(means, low, high, strict=True)]


def estimate_values(values: Mapping[str, NDArray[np.float64]], seed: int) -> dict[str, Estimate]:
    """Estimate the mean of every metric with its interval.

    Metrics that are defined for the same queries share their bootstrap samples.
    """
    by_mask: dict[bytes, list[str]] = {}
    for name, column in values.items():
        by_mask.setdefault(np.isnan(column).tobytes(), []).append(name)
    found: dict[str, Estimate] = {}
    for names in by_mask.values():
        columns = np.column_stack([values[name] for name in names])
        found |= dict(zip(names, estimate(columns, seed), strict=True))
    return {name: found[name] for name in values}


def resample_means(
    values_NM: NDArray[np.float64], rng: np.random.Generator, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Compute ``(B, M)`` means of N rows drawn with replacement, B times.

    With few distinct rows, as with one target per query, the counts of the distinct rows are drawn: they are
    multinomial. Otherwise single rows are drawn, in blocks.
    """
    n = len(values_NM)
    sorted_NM = values_NM[np.lexsort(values_NM.T)]  # ten times faster than np.unique on whole rows
    first = np.flatnonzero(np.append(True, (sorted_NM[1:] != sorted_NM[:-1]).any(axis=1)))
    if len(first) * MULTINOMIAL_RATIO <= n:
        counts_U = np.diff(np.append(first, n))
        drawn_BU = rng.multinomial(n, counts_U / n, resamples)
        return np.asarray((drawn_BU @ sorted_NM[first]) / n)
    means = np.empty((resamples, values_NM.shape[1]))
    step = max(1, BLOCK_DRAWS // n)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = rng.integers(0, n, (size, n))
        drawn += np.arange(size)[:, None] * n
        weights = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = (weights @ values_NM) / n
    return means
