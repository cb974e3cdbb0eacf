"""Weighted means of what the nearest of those who tell something tell: the compiled loops of
:mod:`segue.similarity.rating_predictor`.

Of all rows that tell something, the ``count`` with the greatest likeness above 0 are heard, of equals the first; where
fewer than ``least`` are, the mean is 0.

Shapes: P questions, N people, B rows of a block of likeness, R rows, I items, D distinct items of histories.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import kernel, read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["of_everyone", "of_histories", "of_questions"]

_LISTS = (read(int64), read(int32), read(float32))
"""Where each list begins, who tells something, and what."""


@kernel
def _settle(likes: Scores, places: NDArray[np.int64], root: int, size: int) -> None:
    """Let what stands at ``root`` of a heap sink to where it belongs: the least is on top, of equals the last."""
    like, place = likes[root], places[root]
    while True:
        child = 2 * root + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            likes[right] < likes[child] or (likes[right] == likes[child] and places[right] > places[child])
        ):
            child = right
        if like < likes[child] or (like == likes[child] and place > places[child]):
            break
        likes[root], places[root] = likes[child], places[child]
        root = child
    likes[root], places[root] = like, place


@kernel
def _mean(
    own: Scores,
    tellers: Codes,
    told: Scores,
    first: int,
    stop: int,
    count: int,
    least: int,
    likes: Scores,
    places: NDArray[np.int64],
) -> float:
    """Of what ``first:stop`` tell, by their likeness ``own``; ``likes`` and ``places`` have room for ``count``."""
    size, floor = 0, np.float32(0.0)
    for t in range(first, stop):
        found = own[np.uint32(tellers[t])]
        if found > floor:
            if size < count:
                likes[size], places[size] = found, t
                size += 1
                if size == count:
                    for root in range(count // 2 - 1, -1, -1):
                        _settle(likes, places, root, count)
                    floor = likes[0]
            else:
                likes[0], places[0] = found, t
                _settle(likes, places, 0, count)
                floor = likes[0]
    if size < max(least, 1):
        return 0.0
    above, below = 0.0, 0.0
    for n in range(size):
        above += likes[n] * told[places[n]]
        below += likes[n]
    return above / below


@summing_kernel(int64, int64, read(int64), read(int32), *_LISTS, read(float32, 2), int64, int64, written(float32))
def of_questions(
    first: int,
    stop: int,
    rows: NDArray[np.int64],
    lists: Codes,
    offsets: NDArray[np.int64],
    tellers: Codes,
    told: Scores,
    like: Scores,
    count: int,
    least: int,
    out: Scores,
) -> None:
    """``(P,)`` the mean of list ``lists[p]``, by likeness to row ``rows[p]`` of ``like (B, R)``."""
    longest = 0
    for p in range(first, stop):
        longest = max(longest, offsets[lists[p] + 1] - offsets[lists[p]])
    likes, places = np.empty(min(longest, count), np.float32), np.empty(min(longest, count), np.int64)
    for p in range(first, stop):
        begin, end = offsets[lists[p]], offsets[lists[p] + 1]
        out[p] = _mean(like[rows[p]], tellers, told, begin, end, count, least, likes, places)


@summing_kernel(int64, int64, *_LISTS, read(float32, 2), int64, int64, written(float32, 2))
def of_histories(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    tellers: Codes,
    told: Scores,
    like: Scores,
    count: int,
    least: int,
    out: Scores,
) -> None:
    """``(N, I)`` for everybody and every item the mean over his history, by likeness of the items ``like (I, D)``."""
    longest = 0
    for n in range(first, stop):
        longest = max(longest, offsets[n + 1] - offsets[n])
    likes, places = np.empty(min(longest, count), np.float32), np.empty(min(longest, count), np.int64)
    for n in range(first, stop):
        for item in range(len(like)):
            out[n, item] = _mean(like[item], tellers, told, offsets[n], offsets[n + 1], count, least, likes, places)


@summing_kernel(int64, int64, *_LISTS, read(float32, 2), int64, int64, written(float32, 2))
def of_everyone(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    items: Codes,
    told: Scores,
    like: Scores,
    count: int,
    least: int,
    out: Scores,
) -> None:
    """``(N, I)`` for everybody and every item the mean over all rows that have it, by likeness ``like (N, R)``.

    The rows are heard nearest first, until an item has been told of ``count`` times.
    """
    n_items = out.shape[1]
    heard = np.empty(n_items, np.int64)
    above, below = np.empty(n_items, np.float64), np.empty(n_items, np.float64)
    for n in range(first, stop):
        heard[:] = 0
        above[:] = 0.0
        below[:] = 0.0
        near = np.flatnonzero(like[n] > 0.0)
        order = np.argsort(-like[n][near], kind="mergesort")
        for place in order:
            row = near[place]
            weight = like[n, row]
            for t in range(offsets[row], offsets[row + 1]):
                item = np.uint32(items[t])
                if heard[item] < count:
                    heard[item] += 1
                    above[item] += weight * told[t]
                    below[item] += weight
        for code in range(n_items):
            out[n, code] = above[code] / below[code] if heard[code] >= max(least, 1) else 0.0
