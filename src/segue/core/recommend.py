"""Turn scores into recommendations: exclusions, filters, top-k.

Evaluation, API and serving share this code.

Shapes: N queries, I items, k recommended items, R queries of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Recommender, Streaming, is_factored
from segue.core.model_arrays import NonFiniteScoreError
from segue.core.state import State
from segue.core.types import Codes, DataSchema, Events, Mask, Queries, Recommendations, Scores

__all__ = [
    "PrecomputedQueries",
    "exclude",
    "log_partition",
    "recommend",
    "recommend_from_state",
    "score_blocks",
    "top_k",
]

BLOCK_SCORES = 16_000_000
"""Scores held in memory at once: 64 MB as float32."""

MAX_BLOCK_SCORES = 64_000_000
"""Limit, 256 MB, where the catalog is so large that ``MIN_ROWS`` queries exceed ``BLOCK_SCORES``."""

CACHE_SCORES = 262_144
"""Scores processed at once, 1 MB: post-processing stays in the processor's cache."""

MIN_ROWS = 64
"""Minimum number of queries per block for large catalogs, so that matrix products stay efficient."""

SMALL_BATCH = 16
"""Up to this many queries the product is computed by blocks of items, which is then twice as fast."""

BLOCK_ITEMS = 8_192
"""Items per block of such a product."""

GROUP = 16
"""Items per group; the maxima of groups give a lower bound in the top-k search."""


def recommend(
    model: Recommender,
    queries: Queries,
    k: int,
    *,
    exclude_seen: bool = True,
    allowed: Mask | None = None,
    exclude_rows: Callable[[int, Scores], None] | None = None,
) -> Recommendations:
    """Recommend the best ``k`` items per query, best first; ties in catalog order.

    Args:
        exclude_seen: whether to leave out items of the history.
        allowed: ``(n_items,)`` items that may be recommended; ``None``: all.
        exclude_rows: called with the first query of a block and its scores ``(R, n_items)``; sets the scores of
            items excluded for single queries to minus infinity.
    """
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1")
    logits = getattr(model, "scale", "score") == "logit"
    not_allowed = None if allowed is None else np.flatnonzero(~allowed)
    parts, start = [], 0
    for block, scores_RI in score_blocks(model, queries):
        if exclude_seen:
            exclude(scores_RI, block.history)
        totals_R = log_partition(scores_RI) if logits else None
        if not_allowed is not None:
            scores_RI[:, not_allowed] = -np.inf
        if exclude_rows is not None:
            exclude_rows(start, scores_RI)
        start += len(block)
        parts.append(top_k(scores_RI, k, totals_R))
    return Recommendations.concat(parts, k)


def score_blocks(model: Recommender, queries: Queries) -> Iterator[tuple[Queries, Scores]]:
    """Yield queries block by block, in order, with their scores of the catalog.

    Scores have shape ``(R, n_items)``; they may be modified and are valid until the next block. For factored models,
    the product of query and item vectors is computed here; other models compute at most ``MAX_BLOCK_SCORES`` scores at
    once. Items without events are ranked last if the model reads no item features.

    Raises:
        ValueError: the scores of the model have another shape, or are not finite.
    """
    n_items = model.schema.n_items
    block_size = max(1, BLOCK_SCORES // n_items, min(MIN_ROWS, MAX_BLOCK_SCORES // n_items))
    rows = min(max(MIN_ROWS, CACHE_SCORES // n_items), block_size, max(1, len(queries)))
    rows_per_yield = max(1, CACHE_SCORES // n_items)  # callers allocate arrays of the same size as the block
    buffer_RI = np.empty((rows, n_items), np.float32)
    zeros_I = np.zeros(n_items, np.float32)
    # properties of a protocol may be expensive: read them once
    n_unscored = model.schema.n_unscored
    factors = (model.encode, model.vectors, model.bias) if is_factored(model) else None
    for start in range(0, len(queries), block_size):
        block = queries.rows_between(start, start + block_size)
        result = factors[0](block) if factors else model.score(block)
        if not factors and result.shape != (len(block), n_items):
            raise ValueError(f"{type(model).__name__}: got scores {result.shape}, expected {(len(block), n_items)}")
        for first in range(0, len(block), rows):
            part = slice(first, min(first + rows, len(block)))
            scores_RI = buffer_RI[: part.stop - first]
            if factors:
                _product(result[part], factors[1], scores_RI)
            else:
                scores_RI[:] = result[part]
            for row in range(0, len(scores_RI), rows_per_yield):
                few_RI = scores_RI[row : row + rows_per_yield]
                if factors:
                    few_RI += factors[2]
                with np.errstate(invalid="ignore"):  # zero times NaN or infinity is NaN: one fast pass finds them
                    finite_R = np.isfinite(few_RI @ zeros_I)
                if not finite_R.all():
                    wrong = int(np.argmin(finite_R))
                    item = int(np.argmin(np.isfinite(few_RI[wrong])))
                    raise NonFiniteScoreError(
                        f"{type(model).__name__}: score of item {item} for query {start + first + row + wrong} is "
                        f"{few_RI[wrong, item]}, expected a finite number"
                    )
                if n_unscored:
                    few_RI[:, -n_unscored:] = few_RI[:, :-n_unscored].min(axis=1, keepdims=True) - 1.0
                yield block.rows_between(first + row, min(first + row + rows_per_yield, part.stop)), few_RI


def _product(queries_ND: Scores, items_ID: Scores, out_NI: Scores) -> None:
    n = len(queries_ND)
    if n == 1 or n > SMALL_BATCH:
        np.matmul(queries_ND, items_ID.T, out=out_NI)
        return
    queries_DN = np.ascontiguousarray(queries_ND.T)
    buffer_BN = np.empty((min(BLOCK_ITEMS, len(items_ID)), n), np.float32)
    for start in range(0, len(items_ID), BLOCK_ITEMS):
        items_BD = items_ID[start : start + BLOCK_ITEMS]
        scores_BN = np.matmul(items_BD, queries_DN, out=buffer_BN[: len(items_BD)])
        out_NI[:, start : start + len(items_BD)] = scores_BN.T


def exclude(scores_NI: Scores, history: Events) -> None:
    """Set the scores of items in each row's history to minus infinity, in place."""
    scores_NI[history.rows, history.items] = -np.inf


def top_k(scores_NI: Scores, k: int, log_partition: Scores | None = None) -> Recommendations:
    """Select the best ``k`` columns per row; ties are ordered by column.

    Scores of minus infinity are excluded.

    Args:
        log_partition: ``(N,)`` log-sum-exp of the scores, for probabilities, where scores are logits.
    """
    n, n_items = scores_NI.shape
    selected = np.flatnonzero(scores_NI >= _topk_lower_bound(scores_NI, k))
    if len(selected) > 4 * n * (k + GROUP):  # many ties: keep only those that can be in the list
        selected = np.flatnonzero(_topk_mask(scores_NI, k))
    rows = selected // n_items
    values = scores_NI.ravel()[selected]
    order = np.lexsort((-values, rows))  # stable, and `selected` is ordered by row, then column
    counts = np.bincount(rows, minlength=n)
    ranks = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    order, rows, ranks = order[ranks < k], rows[ranks < k], ranks[ranks < k]
    items = np.zeros((n, k), np.int32)
    scores = np.zeros((n, k), np.float32)
    items[rows, ranks] = selected[order] - rows * n_items
    scores[rows, ranks] = values[order]
    lengths = np.minimum(counts, k)
    probabilities = None
    if log_partition is not None:
        probabilities = np.exp(scores - log_partition[:, None])
        probabilities[np.arange(k) >= lengths[:, None]] = 0.0
    return Recommendations(items, scores, lengths, probabilities)


def _topk_lower_bound(scores_NI: Scores, k: int) -> Scores:
    """Return a score per row, ``(N, 1)``, that at least ``k`` items reach.

    If there are fewer candidates, all reach it. The k-th best of the group maxima is reached by k items, one in each of
    k groups, and costs one pass.
    """
    n, n_items = scores_NI.shape
    lowest = np.finfo(np.float32).min
    if k >= n_items:
        return np.full((n, 1), lowest)
    groups = n_items // GROUP
    maxima = scores_NI
    if groups >= k:
        maxima = scores_NI[:, : groups * GROUP].reshape(n, GROUP, groups).max(axis=1)
    width = maxima.shape[1]
    bound: Scores = np.maximum(np.partition(maxima, width - k, axis=1)[:, width - k, None], lowest)
    return bound


def _topk_mask(scores_NI: Scores, k: int) -> Mask:
    """Return the mask of the best ``k`` columns per row.

    These are all columns above the k-th best score, and the first columns tied with it.
    """
    n_items = scores_NI.shape[1]
    if k >= n_items:
        return scores_NI > -np.inf
    kth = np.partition(scores_NI, n_items - k, axis=1)[:, n_items - k, None]
    above, tied = scores_NI > kth, (scores_NI == kth) & (kth > -np.inf)
    n_missing = k - above.sum(axis=1, keepdims=True)
    selected: Mask = above | (tied & (np.cumsum(tied, axis=1, dtype=np.int32) <= n_missing))
    return selected


def log_partition(scores_NI: Scores) -> Scores:
    """Return the log-sum-exp of each row, ``(N,)``; minus infinity for an empty row.

    A row is empty if all its scores are minus infinity.
    """
    top = scores_NI.max(axis=1, keepdims=True)
    top[np.isneginf(top)] = 0.0  # no candidate is left
    with np.errstate(divide="ignore"):
        total: Scores = np.log(np.exp(scores_NI - top).sum(axis=1)) + top[:, 0]
    return total


@dataclass(eq=False)
class PrecomputedQueries:
    """Factored model over precomputed query vectors; a query's user code is its row."""

    schema: DataSchema
    scale: Literal["logit", "score"]
    vectors: NDArray[np.float32]
    bias: NDArray[np.float32]
    query_vectors_ND: NDArray[np.float32]

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Look up the query vectors by user code."""
        return self.query_vectors_ND[queries.users]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Raise an error, because callers use ``encode`` and ``vectors``."""
        raise TypeError("PrecomputedQueries.score is not supported: use encode() and vectors")


def recommend_from_state(
    model: Streaming,
    state: State,
    k: int,
    *,
    seen: Events | None = None,
    times: NDArray[np.int64] | None = None,
    context: Mapping[str, NDArray[Any]] | None = None,
    exclude_seen: bool = True,
    allowed: Mask | None = None,
) -> Recommendations:
    """Recommend from states instead of histories; see :func:`recommend`.

    Args:
        seen: seen items per history, for ``exclude_seen``; ``None``: none.
        exclude_seen: whether to leave out ``seen`` items.
        times: ``(N,)`` query times, for models that use them.
        context: ``(N,)`` context columns of the queries by name, likewise; see ``Queries.context``.
    """
    history = Events.of([[]] * len(state)) if seen is None else seen
    queries = Queries.of_users(np.arange(len(state), dtype=np.int32), history)
    vectors_ND = model.encode_state(state, times, context)
    precomputed = PrecomputedQueries(model.schema, model.scale, model.vectors, model.bias, vectors_ND)
    return recommend(precomputed, queries, k, exclude_seen=exclude_seen, allowed=allowed)
