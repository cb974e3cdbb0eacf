"""Leave-one-out attribution: the effect of each history item on a score.

Source: occlusion, Zeiler & Fergus 2014, arXiv:1311.2901. It needs only the model's scores. It measures what an item
adds to all the others: if two items carry the same information, neither gets a large attribution.

Shapes: T events of the history, L items left out, N = L + 1 queries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Scores
from segue.core.model import Recommender, is_factored
from segue.core.types import Queries

__all__ = ["MAX_LEFT_OUT", "compute_attributions"]

MAX_LEFT_OUT = 50
"""Newest events that are left out in turn; older ones always stay."""

MAX_BLOCK_SCORES = 16_000_000
"""Scores computed at once for a model that is not factored: 64 MB."""


def compute_attributions(model: Recommender, queries: Queries, item: int) -> tuple[Codes, Scores]:
    """Return the distinct items among the newest events and their attributions.

    Args:
        queries: exactly one.

    Returns:
        ``(L,)`` items, newest first, and by how much the score of ``item`` is higher than without any event of each.
    """
    history = queries.history
    newest = history.items[-MAX_LEFT_OUT:][::-1]
    _, first_positions = np.unique(newest, return_index=True)
    items = newest[np.sort(first_positions)]
    keep_NT = np.ones((len(items) + 1, history.size), np.bool_)
    keep_NT[:-1] = history.items != items[:, None]
    repeated = queries.take(np.zeros(len(keep_NT), np.int64))
    reduced = replace(repeated, history=repeated.history.where(keep_NT.ravel()))
    scores_N = _item_scores(model, reduced, item)
    return items, scores_N[-1] - scores_N[:-1]


def _item_scores(model: Recommender, queries: Queries, item: int) -> NDArray[Any]:
    """Return the score ``(N,)`` of one item for each query."""
    if is_factored(model):
        scores: NDArray[Any] = model.encode(queries) @ model.vectors[item] + model.bias[item]
        return scores
    rows = max(1, MAX_BLOCK_SCORES // model.schema.n_items)
    parts = []
    for start in range(0, len(queries), rows):
        block = queries.rows_between(start, start + rows)
        parts.append(model.score(block, np.full((len(block), 1), item, np.int32))[:, 0])
    return np.concatenate(parts)
