"""The one way from scores to a list: exclusions, filters, top-k. Evaluation, the command line and serving use it.

Shapes: N queries, I items, k places, R queries of one block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from segue.core.model import Recommender, is_factored
from segue.core.types import Events, Mask, Queries, Recommendations, Scores

__all__ = ["exclude", "log_partition", "recommend", "score_blocks", "top_k"]

BLOCK_SCORES = 16_000_000
"""Scores held at once: 64 MB as float32."""

LARGEST_SCORES = 64_000_000
"""Scores held at once, 256 MB, where the catalogue is so large that ``MIN_ROWS`` queries need more than that."""

CACHE_SCORES = 262_144
"""Scores worked on at once, 1 MB: what follows the model stays in the processor's cache."""

MIN_ROWS = 64
"""Queries worked on at once even where the catalogue is large, so that a matrix product stays efficient."""

FEW = 16
"""Queries up to which the product goes block by block through the catalogue, which is then twice as fast."""

BLOCK_ITEMS = 8_192
"""Items in such a block."""

GROUP = 16
"""Items of which the best is looked at first when the best k are searched."""


def recommend(
    model: Recommender, queries: Queries, k: int, *, repeats: bool = False, allowed: Mask | None = None
) -> Recommendations:
    """The best ``k`` items of each query, best first; equal scores in the order of the catalogue.

    Args:
        repeats: whether items of the history may be recommended again.
        allowed: ``(n_items,)`` items that may be recommended at all.
    """
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1")
    logits = getattr(model, "scale", "score") == "logit"
    barred = None if allowed is None else np.flatnonzero(~allowed)
    parts = []
    for block, scores_RI in score_blocks(model, queries):
        if not repeats:
            exclude(scores_RI, block.history)
        totals_R = log_partition(scores_RI) if logits else None
        if barred is not None:
            scores_RI[:, barred] = -np.inf
        parts.append(top_k(scores_RI, k, totals_R))
    return Recommendations.joined(parts, k)


def score_blocks(model: Recommender, queries: Queries) -> Iterator[tuple[Queries, Scores]]:
    """Queries block by block, in order, with their scores ``(R, n_items)`` of the whole catalogue.

    The scores may be written to, and are good until the next block. A factored model encodes the queries and the
    product with the catalogue is taken here; any other model scores at most ``LARGEST_SCORES`` at once.

    Raises:
        ValueError: the model gave scores of another shape, or one that is not finite.
    """
    n_items = model.domain.n_items
    most = max(1, BLOCK_SCORES // n_items, min(MIN_ROWS, LARGEST_SCORES // n_items))
    rows = min(max(MIN_ROWS, CACHE_SCORES // n_items), most, max(1, len(queries)))
    given = max(1, CACHE_SCORES // n_items)  # what follows makes arrays of its own as large as what it is given
    buffer_RI = np.empty((rows, n_items), np.float32)
    zeros_I = np.zeros(n_items, np.float32)
    # a protocol's properties may cost something: ask for them once
    factors = (model.encode, model.vectors, model.bias) if is_factored(model) else None
    for start in range(0, len(queries), most):
        asked = queries.block(start, start + most)
        answer = factors[0](asked) if factors else model.score(asked)
        if not factors and answer.shape != (len(asked), n_items):
            raise ValueError(f"{type(model).__name__}: scores {answer.shape}, expected {(len(asked), n_items)}")
        for first in range(0, len(asked), rows):
            part = slice(first, min(first + rows, len(asked)))
            scores_RI = buffer_RI[: part.stop - first]
            if factors:
                _product(answer[part], factors[1], scores_RI)
            else:
                scores_RI[:] = answer[part]
            for row in range(0, len(scores_RI), given):
                few_RI = scores_RI[row : row + given]
                if factors:
                    few_RI += factors[2]
                with np.errstate(invalid="ignore"):  # zero times NaN or infinity is NaN: one fast pass finds them
                    finite_R = np.isfinite(few_RI @ zeros_I)
                if not finite_R.all():
                    faulty = int(np.argmin(finite_R))
                    item = int(np.argmin(np.isfinite(few_RI[faulty])))
                    raise ValueError(
                        f"{type(model).__name__}: score of item {item} for query {start + first + row + faulty} is "
                        f"{few_RI[faulty, item]}, expected a finite number"
                    )
                yield asked.block(first + row, min(first + row + given, part.stop)), few_RI


def _product(answers_ND: Scores, vectors_ID: Scores, out_NI: Scores) -> None:
    n = len(answers_ND)
    if n == 1 or n > FEW:
        np.matmul(answers_ND, vectors_ID.T, out=out_NI)
        return
    answers_DN = np.ascontiguousarray(answers_ND.T)
    block_BN = np.empty((min(BLOCK_ITEMS, len(vectors_ID)), n), np.float32)
    for start in range(0, len(vectors_ID), BLOCK_ITEMS):
        part_BD = vectors_ID[start : start + BLOCK_ITEMS]
        found_BN = np.matmul(part_BD, answers_DN, out=block_BN[: len(part_BD)])
        out_NI[:, start : start + len(part_BD)] = found_BN.T


def exclude(scores_NI: Scores, history: Events) -> None:
    """Put the items of each row's history at minus infinity, in place."""
    scores_NI[history.rows, history.items] = -np.inf


def top_k(scores_NI: Scores, k: int, log_partition: Scores | None = None) -> Recommendations:
    """The best ``k`` columns of each row; minus infinity is not eligible, equal scores stand by column.

    Args:
        log_partition: ``(N,)`` logarithm of the sum of exponentials that probabilities are shares of, where scores are
            logits.
    """
    n, n_items = scores_NI.shape
    chosen = np.flatnonzero(scores_NI >= _floor(scores_NI, k))
    if len(chosen) > 4 * n * (k + GROUP):  # many equal scores: keep no more of them than can be in the list
        chosen = np.flatnonzero(_exactly(scores_NI, k))
    rows = chosen // n_items
    values = scores_NI.ravel()[chosen]
    order = np.lexsort((-values, rows))  # stable, and `chosen` runs by row, then column
    counts = np.bincount(rows, minlength=n)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    order, rows, places = order[places < k], rows[places < k], places[places < k]
    items = np.zeros((n, k), np.int32)
    scores = np.zeros((n, k), np.float32)
    items[rows, places] = chosen[order] - rows * n_items
    scores[rows, places] = values[order]
    lengths = np.minimum(counts, k)
    probabilities = None
    if log_partition is not None:
        probabilities = np.exp(scores - log_partition[:, None])
        probabilities[np.arange(k) >= lengths[:, None]] = 0.0
    return Recommendations(items, scores, lengths, probabilities)


def _floor(scores_NI: Scores, k: int) -> Scores:
    """``(N, 1)`` scores that at least ``k`` items of the row reach (all eligible items, where they are fewer).

    The k-th best of the groups' best is reached by k items, one of each of k groups, and costs one pass.
    """
    n, n_items = scores_NI.shape
    lowest = np.finfo(np.float32).min
    if k >= n_items:
        return np.full((n, 1), lowest)
    groups = n_items // GROUP
    best = scores_NI
    if groups >= k:
        best = scores_NI[:, : groups * GROUP].reshape(n, GROUP, groups).max(axis=1)
    width = best.shape[1]
    floor: Scores = np.maximum(np.partition(best, width - k, axis=1)[:, width - k, None], lowest)
    return floor


def _exactly(scores_NI: Scores, k: int) -> Mask:
    """Which are the best ``k`` of each row: all above the k-th best, and the first columns of those equal to it."""
    n_items = scores_NI.shape[1]
    if k >= n_items:
        return scores_NI > -np.inf
    kth = np.partition(scores_NI, n_items - k, axis=1)[:, n_items - k, None]
    above, equal = scores_NI > kth, (scores_NI == kth) & (kth > -np.inf)
    room = k - above.sum(axis=1, keepdims=True)
    chosen: Mask = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room))
    return chosen


def log_partition(scores_NI: Scores) -> Scores:
    """``(N,)`` the logarithm of the sum of exponentials of each row; minus infinity where nothing is left of it."""
    top = scores_NI.max(axis=1, keepdims=True)
    top[np.isneginf(top)] = 0.0  # nothing is left
    with np.errstate(divide="ignore"):
        total: Scores = np.log(np.exp(scores_NI - top).sum(axis=1)) + top[:, 0]
    return total
