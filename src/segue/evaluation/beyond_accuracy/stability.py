"""Overlap of the lists of two models, or of two seeds of a model.

Shapes: N queries, k positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Recommendations
from segue.evaluation.beyond_accuracy.lists import Values
from segue.evaluation.bootstrap import estimate_values

__all__ = ["describe_overlaps", "jaccard_overlap", "rank_biased_overlaps"]

BLOCK_CELLS = 2_000_000
"""Pairs of positions compared at once."""


def describe_overlaps(lists: Mapping[str, Sequence[Recommendations]], k: int) -> list[dict[str, Any]]:
    """Estimate the overlap of each pair of models, and of the seeds of each model.

    Two models are compared at their first seed; the overlap of the seeds of a model is the mean over pairs of seeds.

    Args:
        lists: the lists of each seed, by model.

    Returns:
        One record per pair: ``first``, ``second`` (the same name for seeds), and for ``jaccard`` and ``rbo`` the mean
        over the queries and the ends of its 95 % bootstrap interval, as ``jaccard``, ``jaccard_low``, ``jaccard_high``.

    Raises:
        ValueError: as :func:`jaccard_overlap`.
    """
    records = []
    for first, second in combinations_with_replacement(lists, 2):
        pairs = [(lists[first][0], lists[second][0])] if first != second else list(combinations(lists[first], 2))
        if not pairs:
            continue
        values = {
            "jaccard": np.mean([jaccard_overlap(*pair, k) for pair in pairs], axis=0),
            "rbo": np.mean([rank_biased_overlaps(*pair, k) for pair in pairs], axis=0),
        }
        record: dict[str, Any] = {"first": first, "second": second}
        for name, found in estimate_values(values, seed=0).items():
            record |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        records.append(record)
    return records


def jaccard_overlap(first: Recommendations, second: Recommendations, k: int) -> Values:
    """Compute the Jaccard index of two lists per query, ``(N,)``.

    Of the first ``k`` items, it is the number of common items divided by that of distinct items; 1 for two empty lists.

    Raises:
        ValueError: another number of lists, or a k that is not between 1 and the width of the lists.
    """
    k = _check_lists(first, second, k)
    lengths = np.minimum(first.lengths, k), np.minimum(second.lengths, k)
    common = np.concatenate([np.zeros(0), *(is_equal.sum(axis=(1, 2)) for is_equal in _matches(first, second, k))])
    distinct = lengths[0] + lengths[1] - common
    return np.where(distinct > 0, common / np.maximum(distinct, 1), 1.0)


def rank_biased_overlaps(first: Recommendations, second: Recommendations, k: int, persistence: float = 0.9) -> Values:
    """Compute the rank-biased overlap of two lists per query, ``(N,)``, from 0 to 1.

    It is extrapolated from the first ``k`` items. The weight of agreement at depth d decreases as ``persistence ** d``:
    at 0.9 the first ten positions have 86 % of the weight. Webber, Moffat and Zobel 2010, doi:10.1145/1852102.1852106,
    equation 32.

    Raises:
        ValueError: as :func:`jaccard_overlap`, or a persistence that is not between 0 and 1.
    """
    if not 0.0 < persistence < 1.0:
        raise ValueError(f"persistence: got {persistence}, expected a number between 0 and 1")
    k = _check_lists(first, second, k)
    depth = np.arange(1, k + 1)
    is_depth = np.maximum(depth[:, None], depth).ravel()[:, None] == depth  # depth at which a pair is in both lists
    at_depth = [is_equal.reshape(len(is_equal), -1) @ is_depth.astype(np.float64)
                for is_equal in _matches(first, second, k)]  # fmt: skip
    shared = np.cumsum(np.concatenate([np.zeros((0, k)), *at_depth]), axis=1)
    lengths = np.minimum(first.lengths, k), np.minimum(second.lengths, k)
    short, long = np.minimum(*lengths), np.maximum(*lengths)
    rows = np.arange(len(shared))
    at_short, at_long = shared[rows, np.maximum(short, 1) - 1], shared[rows, np.maximum(long, 1) - 1]
    short_N1, divisor = short[:, None], np.maximum(short, 1)
    extra = np.where(depth > short_N1, (at_short / divisor)[:, None] * (depth - short_N1) / depth, 0.0)
    agreement = np.where(depth <= long[:, None], shared / depth + extra, 0.0)
    observed = (1.0 - persistence) / persistence * (agreement @ persistence**depth)
    rest = ((at_long - at_short) / np.maximum(long, 1) + at_short / divisor) * persistence**long
    return np.asarray(np.where(short > 0, observed + rest, long == 0), np.float64)


def _check_lists(first: Recommendations, second: Recommendations, k: int) -> int:
    if len(first) != len(second):
        raise ValueError(f"lists: got {len(first)} and {len(second)}, expected the same queries")
    if not len(first):
        raise ValueError("lists: got none, expected at least one; nothing was ranked")
    width = min(first.items.shape[1], second.items.shape[1])
    is_number = isinstance(k, int | np.integer) and not isinstance(k, bool)
    if not is_number or not 1 <= k <= width:
        raise ValueError(f"k: got {k!r}, expected 1 to {width}, the length of the lists")
    return int(k)


def _matches(first: Recommendations, second: Recommendations, k: int) -> Iterator[NDArray[np.bool_]]:
    """Yield which positions of two lists have the same item, by blocks of queries."""
    step = max(1, BLOCK_CELLS // (k * k))
    positions = np.arange(k)
    for start in range(0, len(first), step):
        rows = slice(start, start + step)
        in_first = positions < first.lengths[rows, None]
        in_second = positions < second.lengths[rows, None]
        is_equal = first.items[rows, :k, None] == second.items[rows, None, :k]
        yield is_equal & in_first[:, :, None] & in_second[:, None, :]
