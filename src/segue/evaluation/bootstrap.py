"""How sure a mean over queries is: the percentile bootstrap (Efron 1979, doi:10.1214/aos/1176344552).

Shapes: N queries, M columns (metrics, or differences of two models), B resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "estimate", "resampled_means"]

RESAMPLES = 1000
BLOCK_DRAWS = 4_000_000
LEVEL = 0.95
FEW = 16
"""Queries per distinct row from which counts are drawn instead of queries."""


@dataclass(frozen=True)
class Estimate:
    """A mean over queries and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def estimate(values_NM: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES) -> list[Estimate]:
    """The mean of each column with its interval; rows with a NaN are queries that do not count.

    The same seed gives the same intervals.

    Raises:
        ValueError: no row without NaN.
    """
    counted = values_NM[~np.isnan(values_NM).any(axis=1)]
    if len(counted) == 0:
        raise ValueError(f"no query has a true item: nothing to average over {len(values_NM)} queries")
    means_BM = resampled_means(counted, np.random.default_rng(seed), resamples)
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(means_BM, [tail, 100.0 - tail], axis=0)
    means = counted.mean(axis=0)
    # numbers that do not vary have an interval of no width; without this it may miss the mean by a rounding error
    low, high = np.minimum(low, means), np.maximum(high, means)
    return [Estimate(*map(float, row)) for row in zip(means, low, high, strict=True)]


def resampled_means(
    values_NM: NDArray[np.float64], rng: np.random.Generator, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """``(B, M)`` means of N rows drawn with replacement, B times.

    Where few rows differ, as with one target per query, it is enough to draw how often each of them comes: their
    counts are multinomial. Otherwise the rows themselves are drawn, in blocks.
    """
    n = len(values_NM)
    sorted_NM = values_NM[np.lexsort(values_NM.T)]  # np.unique does the same for whole rows, ten times slower
    first = np.flatnonzero(np.append(True, (sorted_NM[1:] != sorted_NM[:-1]).any(axis=1)))
    if len(first) * FEW <= n:
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
