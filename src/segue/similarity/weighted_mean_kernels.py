"""Kernels that compute means of deviations weighted by similarity.

They are used by :mod:`segue.similarity.rating_predictor`. Of the rows with a rating, the ``k`` most similar with
similarity above 0 are used; ties keep the first. With fewer than ``min_k`` such rows, the mean is 0.

Shapes: P pairs, N users, B rows of a block of similarities, R rows, I items, D distinct items of histories.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, kernel, output_array
from segue.core.types import Codes, Scores

__all__ = ["item_based_means", "pairwise_means", "user_based_means"]

_RATING_LISTS = (input_array(int64), input_array(int32), input_array(float32))
"""Offsets of each list, the rows that have a rating, and the deviations of these ratings."""


@kernel
def _sift_down(heap_similarities: Scores, heap_positions: NDArray[np.int64], root: int, size: int) -> None:
    """Restore a min-heap below ``root``.

    Among equal similarities, the last position is the smallest.
    """
    similarity, position = heap_similarities[root], heap_positions[root]
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            heap_similarities[right] < heap_similarities[child]
            or (heap_similarities[right] == heap_similarities[child] and heap_positions[right] > heap_positions[child])
        ):
            child = right
        if similarity < heap_similarities[child] or (
            similarity == heap_similarities[child] and position > heap_positions[child]
        ):
            break
        heap_similarities[root], heap_positions[root] = heap_similarities[child], heap_positions[child]
        root = child
    heap_similarities[root], heap_positions[root] = similarity, position


@kernel
def _top_k_mean(
    similarities: Scores,
    codes: Codes,
    deviations: Scores,
    first: int,
    stop: int,
    k: int,
    min_k: int,
    heap_similarities: Scores,
    heap_positions: NDArray[np.int64],
) -> float:
    """Average deviations ``first:stop``; the heap arrays have room for ``k`` entries."""
    size, threshold = 0, np.float32(0.0)
    for t in range(first, stop):
        similarity = similarities[np.uint32(codes[t])]
        if similarity > threshold:
            if size < k:
                heap_similarities[size], heap_positions[size] = similarity, t
                size += 1
                if size == k:
                    for root in range(k // 2 - 1, -1, -1):
                        _sift_down(heap_similarities, heap_positions, root, k)
                    threshold = heap_similarities[0]
            else:
                heap_similarities[0], heap_positions[0] = similarity, t
                _sift_down(heap_similarities, heap_positions, 0, k)
                threshold = heap_similarities[0]
    if size < max(min_k, 1):
        return 0.0
    numerator, denominator = 0.0, 0.0
    for n in range(size):
        numerator += heap_similarities[n] * deviations[heap_positions[n]]
        denominator += heap_similarities[n]
    return numerator / denominator


@fastmath_kernel(
    int64,
    int64,
    input_array(int64),
    input_array(int32),
    *_RATING_LISTS,
    input_array(float32, 2),
    int64,
    int64,
    output_array(float32),
)
def pairwise_means(
    first: int,
    stop: int,
    rows: NDArray[np.int64],
    list_codes: Codes,
    offsets: NDArray[np.int64],
    codes: Codes,
    deviations: Scores,
    similarities: Scores,
    k: int,
    min_k: int,
    out: Scores,
) -> None:
    """Compute the ``(P,)`` mean of each pair p.

    It is the mean of list ``list_codes[p]``, by similarity to row ``rows[p]`` of ``(B, R)``.
    """
    longest = 0
    for p in range(first, stop):
        longest = max(longest, offsets[list_codes[p] + 1] - offsets[list_codes[p]])
    heap_similarities, heap_positions = np.empty(min(longest, k), np.float32), np.empty(min(longest, k), np.int64)
    for p in range(first, stop):
        begin, end = offsets[list_codes[p]], offsets[list_codes[p] + 1]
        out[p] = _top_k_mean(
            similarities[rows[p]], codes, deviations, begin, end, k, min_k, heap_similarities, heap_positions
        )


@fastmath_kernel(int64, int64, *_RATING_LISTS, input_array(float32, 2), int64, int64, output_array(float32, 2))
def item_based_means(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    codes: Codes,
    deviations: Scores,
    similarities: Scores,
    k: int,
    min_k: int,
    out: Scores,
) -> None:
    """Compute ``(N, I)`` means over each user's ratings.

    They are weighted by item similarities ``(I, D)``.
    """
    longest = 0
    for n in range(first, stop):
        longest = max(longest, offsets[n + 1] - offsets[n])
    heap_similarities, heap_positions = np.empty(min(longest, k), np.float32), np.empty(min(longest, k), np.int64)
    for n in range(first, stop):
        for item in range(len(similarities)):
            out[n, item] = _top_k_mean(
                similarities[item],
                codes,
                deviations,
                offsets[n],
                offsets[n + 1],
                k,
                min_k,
                heap_similarities,
                heap_positions,
            )


@fastmath_kernel(int64, int64, *_RATING_LISTS, input_array(float32, 2), int64, int64, output_array(float32, 2))
def user_based_means(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    items: Codes,
    deviations: Scores,
    similarities: Scores,
    k: int,
    min_k: int,
    out: Scores,
) -> None:
    """Compute ``(N, I)`` means over all users who rated the item.

    They are weighted by user similarities ``(N, R)``. Users are visited from most to least similar, until an item has
    ``k`` ratings.
    """
    n_items = out.shape[1]
    n_used = np.empty(n_items, np.int64)
    numerator, denominator = np.empty(n_items, np.float64), np.empty(n_items, np.float64)
    for n in range(first, stop):
        n_used[:] = 0
        numerator[:] = 0.0
        denominator[:] = 0.0
        neighbors = np.flatnonzero(similarities[n] > 0.0)
        order = np.argsort(-similarities[n][neighbors], kind="mergesort")
        for position in order:
            row = neighbors[position]
            weight = similarities[n, row]
            for t in range(offsets[row], offsets[row + 1]):
                item = np.uint32(items[t])
                if n_used[item] < k:
                    n_used[item] += 1
                    numerator[item] += weight * deviations[t]
                    denominator[item] += weight
        for code in range(n_items):
            out[n, code] = numerator[code] / denominator[code] if n_used[code] >= max(min_k, 1) else 0.0
