"""What each item of a history does to the score of another: the score with it and without it.

Leaving one out (occlusion, Zeiler & Fergus 2014, arXiv:1311.2901) needs nothing of a model but its scores. It tells
what an item adds to what all the others say already: of two that say the same, neither counts for much.

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

__all__ = ["NEWEST", "influences"]

NEWEST = 50
"""Events of a history that are left out in turn; all the older ones stay."""

BLOCK_SCORES = 16_000_000
"""Scores that a model which is not factored may hold at once: 64 MB."""


def influences(model: Recommender, queries: Queries, item: int) -> tuple[Codes, Scores]:
    """``(L,)`` the distinct items among the newest events of one history, newest first, and by how much the score of
    ``item`` is higher than without any event of each of them.

    Args:
        queries: one.
    """
    history = queries.history
    newest = history.items[-NEWEST:][::-1]
    _, places = np.unique(newest, return_index=True)
    left = newest[np.sort(places)]
    keep = np.ones((len(left) + 1, history.size), np.bool_)
    keep[:-1] = history.items != left[:, None]
    copies = queries.take(np.zeros(len(keep), np.int64))
    without = replace(copies, history=copies.history.where(keep.ravel()))
    scores_N = _scores(model, without, item)
    return left, scores_N[-1] - scores_N[:-1]


def _scores(model: Recommender, queries: Queries, item: int) -> NDArray[Any]:
    """``(N,)`` the score of one item in answer to each query."""
    if is_factored(model):
        scores: NDArray[Any] = model.encode(queries) @ model.vectors[item] + model.bias[item]
        return scores
    rows = max(1, BLOCK_SCORES // model.domain.n_items)
    parts = []
    for start in range(0, len(queries), rows):
        block = queries.block(start, start + rows)
        parts.append(model.score(block, np.full((len(block), 1), item, np.int32))[:, 0])
    return np.concatenate(parts)
