"""The one way from scores to a list: exclusions, filters, top-k. Evaluation, the command line and serving use it.

Shapes: N queries, I items, k places.
"""

from __future__ import annotations

import numpy as np

from segue.core.model import Recommender
from segue.core.types import Events, Mask, Queries, Recommendations, Scores

__all__ = ["exclude", "recommend", "top_k"]

BLOCK_SCORES = 16_000_000
"""Scores held at once: 64 MB as float32."""


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
    n_items = model.domain.n_items
    step = max(1, BLOCK_SCORES // n_items)
    parts = []
    for start in range(0, len(queries), step):
        block = queries.block(start, start + step)
        scores_NI = model.score(block)
        totals = _log_partition(scores_NI) if getattr(model, "scale", "score") == "logit" else None
        scores_NI = np.array(scores_NI, dtype=np.float32)
        if not repeats:
            exclude(scores_NI, block.history)
        if allowed is not None:
            scores_NI[:, ~allowed] = -np.inf
        parts.append(top_k(scores_NI, k, totals))
    if not parts:
        empty = np.zeros((0, k))
        return Recommendations(empty.astype(np.int32), empty.astype(np.float32), np.zeros(0, np.int64))
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    return Recommendations(
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate(probabilities) if probabilities else None,
    )


def exclude(scores_NI: Scores, history: Events) -> None:
    """Put the items of each row's history at minus infinity, in place."""
    scores_NI[history.rows, history.items] = -np.inf


def top_k(scores_NI: Scores, k: int, log_partition: Scores | None = None) -> Recommendations:
    """The best ``k`` columns of each row; minus infinity is not eligible.

    Args:
        log_partition: ``(N,)`` logarithm of the sum of exponentials over the catalogue, where scores are logits.
    """
    n, n_items = scores_NI.shape
    width = min(k, n_items)
    if width < n_items:
        # everything above the k-th best is in; of those equal to it, the first columns are
        kth = np.partition(scores_NI, n_items - width, axis=1)[:, n_items - width, None]
        above, equal = scores_NI > kth, scores_NI == kth
        room = width - above.sum(axis=1, keepdims=True)
        chosen = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room))
        columns = np.nonzero(chosen)[1].reshape(n, width)
    else:
        columns = np.broadcast_to(np.arange(n_items), (n, n_items))
    values = np.take_along_axis(scores_NI, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    items = np.zeros((n, k), np.int32)
    scores = np.zeros((n, k), np.float32)
    items[:, :width] = np.take_along_axis(columns, order, axis=1)
    scores[:, :width] = np.take_along_axis(values, order, axis=1)
    lengths = np.isfinite(scores[:, :width]).sum(axis=1).astype(np.int64)
    unused = np.arange(k) >= lengths[:, None]
    items[unused], scores[unused] = 0, 0.0
    probabilities = None
    if log_partition is not None:
        probabilities = np.exp(scores - log_partition[:, None])
        probabilities[unused] = 0.0
    return Recommendations(items, scores, lengths, probabilities)


def _log_partition(scores_NI: Scores) -> Scores:
    top = scores_NI.max(axis=1, keepdims=True)
    total: Scores = np.log(np.exp(scores_NI - top).sum(axis=1)) + top[:, 0]
    return total
