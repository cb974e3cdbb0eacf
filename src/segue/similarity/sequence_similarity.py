"""Compare histories as sequences, by items that both have in the same order.

Each exported function is a similarity measure, selected by its name. It is 1 for equal histories, 0 for histories
without a common item, and multiplied by ``n / (n + shrink)``, with n the number of distinct common items.

Shapes: P pairs of histories, T events.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array, parallel_rows
from segue.core.types import Codes, Scores
from segue.similarity.row_pairs import CoOccurrencePairs

__all__ = ["edit_distance", "longest_common_subsequence", "smith_waterman"]

_AlignKernel = Callable[..., None]

_PAIRS = (
    int64,
    int64,
    input_array(int64),
    input_array(int32),
    input_array(int64),
    input_array(int32),
    input_array(int64),
    input_array(int32),
    output_array(float32),
)
"""Range of pairs; offsets and items of the histories on the left and right; rows of each pair; output."""


def longest_common_subsequence(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Divide the length of the longest common subsequence by the greater length.

    The greater length is that of the longer history.

    Wagner and Fischer 1974, doi:10.1145/321796.321811.
    """
    return _align(pairs, shrink, _lcs_kernel)


def edit_distance(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute 1 minus the edit distance divided by the length of the longer history.

    Insertions, deletions and substitutions of items count 1 each (Levenshtein 1966).
    """
    return _align(pairs, shrink, _edit_kernel)


def smith_waterman(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Divide the best local alignment score by the length of the shorter history.

    A match scores 1, a mismatch -1/3, a gap of k items -(1 + k/3) (Smith and Waterman 1981,
    doi:10.1016/0022-2836(81)90087-5).
    """
    return _align(pairs, shrink, _smith_waterman_kernel)


def _align(pairs: CoOccurrencePairs, shrink: float, kernel: _AlignKernel) -> Scores:
    """Run a kernel over all pairs and shrink its scores."""
    left, right = pairs.query_rows.histories, pairs.reference_rows.histories
    assert left is not None, "query rows without histories"
    assert right is not None, "reference rows without histories"
    scores = np.empty(len(pairs.right_rows), np.float32)
    arrays = left.offsets, left.items, right.offsets, right.items, pairs.left_rows, pairs.right_rows, scores

    def process_pairs(first: int, stop: int) -> None:
        kernel(first, stop, *arrays)

    if pairs.stop - pairs.first == 1:  # several rows are already distributed among threads
        parallel_rows(process_pairs, np.concatenate([[0], np.cumsum(right.lengths[pairs.right_rows])]))
    else:
        process_pairs(0, len(scores))
    similarity_P: Scores = scores * (pairs.n_common / (pairs.n_common + np.float32(shrink)))
    return similarity_P


@fastmath_kernel(*_PAIRS)
def _lcs_kernel(
    first: int,
    stop: int,
    left_offsets: NDArray[np.int64],
    left_items: Codes,
    right_offsets: NDArray[np.int64],
    right_items: Codes,
    left_rows: NDArray[np.int64],
    right_rows: Codes,
    scores: Scores,
) -> None:
    longest = 0
    for row in range(len(right_offsets) - 1):
        longest = max(longest, right_offsets[row + 1] - right_offsets[row])
    lengths = np.empty(longest + 1, np.int32)
    for p in range(first, stop):
        a = left_items[left_offsets[left_rows[p]] : left_offsets[left_rows[p] + 1]]
        b = right_items[right_offsets[right_rows[p]] : right_offsets[right_rows[p] + 1]]
        lengths[: len(b) + 1] = 0
        for i in range(len(a)):
            item, diagonal = a[i], np.int32(0)  # `diagonal`: length without a[i] and b[j]
            for j in range(len(b)):
                above = lengths[j + 1]
                if b[j] == item:
                    lengths[j + 1] = diagonal + 1
                elif lengths[j] > above:
                    lengths[j + 1] = lengths[j]
                diagonal = above
        scores[p] = lengths[len(b)] / max(len(a), len(b))


@fastmath_kernel(*_PAIRS)
def _edit_kernel(
    first: int,
    stop: int,
    left_offsets: NDArray[np.int64],
    left_items: Codes,
    right_offsets: NDArray[np.int64],
    right_items: Codes,
    left_rows: NDArray[np.int64],
    right_rows: Codes,
    scores: Scores,
) -> None:
    longest = 0
    for row in range(len(right_offsets) - 1):
        longest = max(longest, right_offsets[row + 1] - right_offsets[row])
    distances = np.empty(longest + 1, np.int32)
    for p in range(first, stop):
        a = left_items[left_offsets[left_rows[p]] : left_offsets[left_rows[p] + 1]]
        b = right_items[right_offsets[right_rows[p]] : right_offsets[right_rows[p] + 1]]
        for j in range(len(b) + 1):
            distances[j] = j
        for i in range(len(a)):
            item, diagonal = a[i], distances[0]
            distances[0] = i + 1
            for j in range(len(b)):
                above = distances[j + 1]
                substituted = diagonal if b[j] == item else diagonal + 1
                distances[j + 1] = min(substituted, min(above, distances[j]) + 1)
                diagonal = above
        scores[p] = 1.0 - distances[len(b)] / max(len(a), len(b))


@fastmath_kernel(*_PAIRS)
def _smith_waterman_kernel(
    first: int,
    stop: int,
    left_offsets: NDArray[np.int64],
    left_items: Codes,
    right_offsets: NDArray[np.int64],
    right_items: Codes,
    left_rows: NDArray[np.int64],
    right_rows: Codes,
    scores: Scores,
) -> None:
    third = np.float32(1.0 / 3.0)
    longest = 0
    for row in range(len(right_offsets) - 1):
        longest = max(longest, right_offsets[row + 1] - right_offsets[row])
    score, gap_in_a = np.empty(longest + 1, np.float32), np.empty(longest + 1, np.float32)
    for p in range(first, stop):
        a = left_items[left_offsets[left_rows[p]] : left_offsets[left_rows[p] + 1]]
        b = right_items[right_offsets[right_rows[p]] : right_offsets[right_rows[p] + 1]]
        score[: len(b) + 1] = 0.0
        gap_in_a[: len(b) + 1] = -np.inf  # best score of an alignment that ends in a gap
        best = np.float32(0.0)
        for i in range(len(a)):
            item, diagonal, gap_in_b = a[i], np.float32(0.0), np.float32(-np.inf)
            for j in range(len(b)):
                above = score[j + 1]
                gap_in_a[j + 1] = max(gap_in_a[j + 1] - third, above - 1 - third)
                gap_in_b = max(gap_in_b - third, score[j] - 1 - third)
                cell = diagonal + 1 if b[j] == item else diagonal - third
                cell = max(max(cell, gap_in_a[j + 1]), max(gap_in_b, np.float32(0.0)))
                score[j + 1] = cell
                best = max(best, cell)
                diagonal = above
        scores[p] = best / min(len(a), len(b))
