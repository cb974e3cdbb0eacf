"""Compiled passes over scores: ranks of the targets, and the best items.

NumPy needs several passes with a temporary array each, and sorts or partitions for the best items; these loops read the
scores of a query from the processor's cache and write nothing but the result.

Shapes: I items, R queries of one block, T targets, k positions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.numba_kernels import kernel
from segue.core.recommend import top_k
from segue.core.types import Codes, Recommendations, Scores

__all__ = ["best_items", "count_removed", "count_scores"]

MAX_INSERTED = 100
"""List length up to which items are inserted one by one; for longer lists a partition is faster."""

CHUNK = 64
"""Scores compared at once with the lowest score of a list: almost always none is higher."""


def count_scores(
    scores_RI: Scores, offsets: NDArray[np.int64], values_T: Scores
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the scores above each target's score, and those equal to it.

    The target itself is not counted. Both have the shape ``(T,)``.

    Args:
        offsets: ``(R + 1,)``; the targets of query r are ``offsets[r]:offsets[r + 1]``.
        values_T: scores of the targets.
    """
    greater, equal = np.zeros(len(values_T), np.int64), np.zeros(len(values_T), np.int64)
    _count_kernel(scores_RI, offsets, values_T, greater, equal)
    return greater, equal


def count_removed(scores_RI: Scores) -> NDArray[np.int64]:
    """Count the scores of minus infinity of each query, ``(R,)``."""
    removed = np.zeros(len(scores_RI), np.int64)
    _removed_kernel(scores_RI, removed)
    return removed


def best_items(scores_RI: Scores, k: int) -> Recommendations:
    """Select the best ``k`` items per query.

    They are those of :func:`segue.core.recommend.top_k`.
    """
    if k > MAX_INSERTED:
        return top_k(scores_RI, k)
    n = len(scores_RI)
    items, scores = np.zeros((n, k), np.int32), np.zeros((n, k), np.float32)
    lengths = np.zeros(n, np.int64)
    _best_kernel(scores_RI, items, scores, lengths)
    return Recommendations(items, scores, lengths)


@kernel
def _count_kernel(
    scores: Scores,
    offsets: NDArray[np.int64],
    values: Scores,
    greater: NDArray[np.int64],
    equal: NDArray[np.int64],
) -> None:
    n_items = scores.shape[1]
    for row in range(len(offsets) - 1):
        for target in range(offsets[row], offsets[row + 1]):
            value = values[target]
            # counters are as wide as the scores, so that one instruction compares several
            n_greater, n_equal = np.uint32(0), np.uint32(0)
            for item in range(n_items):
                n_greater = np.uint32(n_greater + np.uint32(scores[row, item] > value))
                n_equal = np.uint32(n_equal + np.uint32(scores[row, item] == value))
            greater[target], equal[target] = n_greater, np.int64(n_equal) - 1


@kernel
def _removed_kernel(scores: Scores, removed: NDArray[np.int64]) -> None:
    for row in range(len(scores)):
        count = np.uint32(0)
        for item in range(scores.shape[1]):
            count = np.uint32(count + np.uint32(scores[row, item] == -np.inf))
        removed[row] = count


@kernel
def _best_kernel(scores: Scores, items: Codes, best: Scores, lengths: NDArray[np.int64]) -> None:
    """Insert each item that is better than the last of the list.

    Of equal items the first stays ahead.
    """
    n_items, k = scores.shape[1], items.shape[1]
    for row in range(len(scores)):
        length, lowest = 0, np.float32(-np.inf)  # what an item must exceed: any score, until the list is full
        for first in range(0, n_items, CHUNK):
            stop = min(first + CHUNK, n_items)
            n_higher = np.uint32(0)
            for item in range(first, stop):
                n_higher = np.uint32(n_higher + np.uint32(scores[row, item] > lowest))
            if n_higher == 0:
                continue
            for item in range(first, stop):
                score = scores[row, item]
                if score > lowest:
                    at = min(length, k - 1)
                    while at > 0 and best[row, at - 1] < score:
                        items[row, at], best[row, at] = items[row, at - 1], best[row, at - 1]
                        at -= 1
                    items[row, at], best[row, at] = item, score
                    length = min(length + 1, k)
                    if length == k:
                        lowest = best[row, k - 1]
        lengths[row] = length
