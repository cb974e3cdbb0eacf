"""How alike two histories are as sequences, by what both have in the same order; each function is a choice by its name.

Each measure is 1 for equal histories and 0 for those with no item in common, and is multiplied by ``n / (n + shrink)``,
n the distinct items in common.

Shapes: P pairs of histories, T events.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import over_rows, read, summing_kernel, written
from segue.core.types import Codes, Scores
from segue.similarity.row_pairs import Pairs

__all__ = ["edit_distance", "longest_common_subsequence", "smith_waterman"]

_Align = Callable[..., None]

_PAIRS = (int64, int64, read(int64), read(int32), read(int64), read(int32), read(int64), read(int32), written(float32))
"""Which pairs; offsets and items of the histories asked about and of the others; rows of each pair; what is found."""


def longest_common_subsequence(pairs: Pairs, shrink: float) -> Scores:
    """Items that both have in the same order, anything between them left out, against the longer history (Wagner and
    Fischer 1974, doi:10.1145/321796.321811)."""
    return _aligned(pairs, shrink, _common)


def edit_distance(pairs: Pairs, shrink: float) -> Scores:
    """1 less the items to be put in, taken out or exchanged to make one history of the other, against the longer one
    (Levenshtein 1966)."""
    return _aligned(pairs, shrink, _edits)


def smith_waterman(pairs: Pairs, shrink: float) -> Scores:
    """The best match of a part of one history with a part of the other, against the shorter one: an equal item counts
    1, another -1/3, a gap of k items -(1 + k/3) (Smith and Waterman 1981, doi:10.1016/0022-2836(81)90087-5)."""
    return _aligned(pairs, shrink, _local)


def _aligned(pairs: Pairs, shrink: float, align: _Align) -> Scores:
    own, other = pairs.asked.histories, pairs.table.histories
    assert own is not None, "histories of those who are asked about"
    assert other is not None, "histories of the others"
    found = np.empty(len(pairs.others), np.float32)
    arrays = own.offsets, own.items, other.offsets, other.items, pairs.rows, pairs.others, found

    def work(first: int, stop: int) -> None:
        align(first, stop, *arrays)

    if pairs.stop - pairs.first == 1:  # several rows are shared out among threads by who asks
        over_rows(work, np.concatenate([[0], np.cumsum(other.lengths[pairs.others])]))
    else:
        work(0, len(found))
    likeness: Scores = found * (pairs.both / (pairs.both + np.float32(shrink)))
    return likeness


@summing_kernel(*_PAIRS)
def _common(
    first: int,
    stop: int,
    own_offsets: NDArray[np.int64],
    own_items: Codes,
    other_offsets: NDArray[np.int64],
    other_items: Codes,
    rows: NDArray[np.int64],
    others: Codes,
    found: Scores,
) -> None:
    longest = 0
    for row in range(len(other_offsets) - 1):
        longest = max(longest, other_offsets[row + 1] - other_offsets[row])
    lengths = np.empty(longest + 1, np.int32)
    for p in range(first, stop):
        a = own_items[own_offsets[rows[p]] : own_offsets[rows[p] + 1]]
        b = other_items[other_offsets[others[p]] : other_offsets[others[p] + 1]]
        lengths[: len(b) + 1] = 0
        for i in range(len(a)):
            item, before = a[i], np.int32(0)  # `before`: without this item of a, and without that of b
            for j in range(len(b)):
                above = lengths[j + 1]
                if b[j] == item:
                    lengths[j + 1] = before + 1
                elif lengths[j] > above:
                    lengths[j + 1] = lengths[j]
                before = above
        found[p] = lengths[len(b)] / max(len(a), len(b))


@summing_kernel(*_PAIRS)
def _edits(
    first: int,
    stop: int,
    own_offsets: NDArray[np.int64],
    own_items: Codes,
    other_offsets: NDArray[np.int64],
    other_items: Codes,
    rows: NDArray[np.int64],
    others: Codes,
    found: Scores,
) -> None:
    longest = 0
    for row in range(len(other_offsets) - 1):
        longest = max(longest, other_offsets[row + 1] - other_offsets[row])
    edits = np.empty(longest + 1, np.int32)
    for p in range(first, stop):
        a = own_items[own_offsets[rows[p]] : own_offsets[rows[p] + 1]]
        b = other_items[other_offsets[others[p]] : other_offsets[others[p] + 1]]
        for j in range(len(b) + 1):
            edits[j] = j
        for i in range(len(a)):
            item, before = a[i], edits[0]
            edits[0] = i + 1
            for j in range(len(b)):
                above = edits[j + 1]
                exchanged = before if b[j] == item else before + 1
                edits[j + 1] = min(exchanged, min(above, edits[j]) + 1)
                before = above
        found[p] = 1.0 - edits[len(b)] / max(len(a), len(b))


@summing_kernel(*_PAIRS)
def _local(
    first: int,
    stop: int,
    own_offsets: NDArray[np.int64],
    own_items: Codes,
    other_offsets: NDArray[np.int64],
    other_items: Codes,
    rows: NDArray[np.int64],
    others: Codes,
    found: Scores,
) -> None:
    third = np.float32(1.0 / 3.0)
    longest = 0
    for row in range(len(other_offsets) - 1):
        longest = max(longest, other_offsets[row + 1] - other_offsets[row])
    score, gap = np.empty(longest + 1, np.float32), np.empty(longest + 1, np.float32)
    for p in range(first, stop):
        a = own_items[own_offsets[rows[p]] : own_offsets[rows[p] + 1]]
        b = other_items[other_offsets[others[p]] : other_offsets[others[p] + 1]]
        score[: len(b) + 1] = 0.0
        gap[: len(b) + 1] = -np.inf  # the best that ends in a gap of items of a
        best = np.float32(0.0)
        for i in range(len(a)):
            item, before, own_gap = a[i], np.float32(0.0), np.float32(-np.inf)
            for j in range(len(b)):
                above = score[j + 1]
                gap[j + 1] = max(gap[j + 1] - third, above - 1 - third)
                own_gap = max(own_gap - third, score[j] - 1 - third)
                here = before + 1 if b[j] == item else before - third
                here = max(max(here, gap[j + 1]), max(own_gap, np.float32(0.0)))
                score[j + 1] = here
                best = max(best, here)
                before = above
        found[p] = best / min(len(a), len(b))
