"""Turn scores into ranked lists for a batch of requests, each with its own rules.

Requests without rules, or with the same allowed items, are ranked together by :func:`segue.core.recommend.recommend`;
the others are reranked one by one.

Shapes: N requests, I items, R requests of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from segue.core.model import Recommender, is_factored
from segue.core.recommend import recommend, score_blocks
from segue.core.types import Events, Mask, Queries, Recommendations
from segue.serving import schemas
from segue.serving.catalog.catalog import Catalog
from segue.serving.rules.rerank import CompiledRules, RankedList, rerank_in_steps, shortfall_notes
from segue.serving.scheduling.steps import Steps, run_steps

__all__ = ["SearchFn", "rank_batch", "rank_batch_in_steps"]

SearchFn: TypeAlias = Callable[[Queries, int, Events | None, Mask | None], Recommendations]
"""Find the top k items of queries: (queries, k, items to exclude per query, allowed items) to lists."""


def rank_batch(
    model: Recommender,
    queries: Queries,
    requests: Sequence[schemas.RecommendRequest],
    rules: Sequence[CompiledRules],
    catalog: Catalog,
    search: SearchFn | None = None,
) -> list[RankedList]:
    """Rank the items of each request, best first; see :func:`rank_batch_in_steps`."""
    return run_steps(rank_batch_in_steps(model, queries, requests, rules, catalog, search))


def rank_batch_in_steps(
    model: Recommender,
    queries: Queries,
    requests: Sequence[schemas.RecommendRequest],
    rules: Sequence[CompiledRules],
    catalog: Catalog,
    search: SearchFn | None = None,
    is_late: Callable[[int], bool] = lambda row: False,
) -> Steps[list[RankedList]]:
    """Rank the items of each request, best first.

    Args:
        search: approximate search over a very large catalog, for requests whose rules need no full score vector; it
            gives no probabilities.
        is_late: whether the deadline of a request has passed; see :func:`segue.serving.rules.rerank.rerank_in_steps`.
    """
    if model.schema.n_unscored:
        search = None  # it does not rank items without events last
    ranked: dict[int, RankedList] = {}
    groups: dict[tuple[bool, int, int], list[int]] = {}
    rerank_rows = []
    for row, (request, compiled) in enumerate(zip(requests, rules, strict=True)):
        if compiled.is_trivial:
            # approximate results depend on k, and must not depend on the other requests of the batch
            k = request.k if search is not None else 0
            groups.setdefault((request.include_seen, id(compiled.allowed), k), []).append(row)
        else:
            rerank_rows.append(row)
    for (include_seen, _, _), rows in groups.items():
        group_queries = queries if len(rows) == len(queries) else queries.take(np.array(rows, np.int64))
        max_k = max(requests[row].k for row in rows)
        allowed = rules[rows[0]].allowed
        if search is None:
            recommendations = recommend(model, group_queries, max_k, exclude_seen=not include_seen, allowed=allowed)
        else:
            recommendations = search(group_queries, max_k, None if include_seen else group_queries.history, allowed)
        for index, row in enumerate(rows):
            count = min(int(recommendations.lengths[index]), requests[row].k)
            n_seen = 0 if include_seen else len(np.unique(group_queries.history.rows_between(index, index + 1).items))
            ranked[row] = RankedList(
                recommendations.items[index, :count],
                recommendations.scores[index, :count],
                None if recommendations.probabilities is None else recommendations.probabilities[index, :count],
                np.zeros(count, np.bool_),
                {**rules[row].filtered_counts, **({"seen": n_seen} if n_seen else {})},
                (*rules[row].notes, *shortfall_notes(count, requests[row].k)),
            )
        yield
    if rerank_rows:
        is_logit = getattr(model, "scale", "score") == "logit"
        vectors_ID = model.vectors if is_factored(model) else None
        row = 0
        for block, scores_RI in score_blocks(model, queries.take(np.array(rerank_rows, np.int64))):
            for index, scores_I in enumerate(scores_RI):
                request = requests[rerank_rows[row]]
                seen_T = block.history.rows_between(index, index + 1).items
                ranked[rerank_rows[row]] = yield from rerank_in_steps(
                    scores_I,
                    seen_T,
                    rules[rerank_rows[row]],
                    request.k,
                    include_seen=request.include_seen,
                    is_logit=is_logit,
                    catalog=catalog,
                    vectors_ID=vectors_ID,
                    is_late=partial(is_late, rerank_rows[row]),
                )
                yield
                row += 1
    return [ranked[row] for row in range(len(requests))]
