"""How often items occur, as shares of a whole: what a model says when it knows nothing of the person who asks.

Shapes: I items, T events, N queries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Dataset, Scores

__all__ = ["answer_ties", "counts", "shares"]


def counts(train: Dataset, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """``(I,)`` events per item, or the sum of their ``weights (T,)``; of the target kind only, where there is one."""
    events = train.histories
    weights = np.ones(events.size) if weights is None else weights
    if train.target is not None and events.actions is not None:
        weights = np.where(events.actions == train.target, weights, 0.0)
    total_I: NDArray[np.float64] = np.bincount(events.items, weights, minlength=train.n_items).astype(np.float64)
    return total_I


def shares(train: Dataset) -> Scores:
    """``(I,)`` share of all events each item has, one event more for each, so that none is zero; the sum is 1."""
    smooth_I = counts(train) + 1.0
    shares_I: Scores = (smooth_I / smooth_I.sum()).astype(np.float32)
    return shares_I


def answer_ties(scores_NI: Scores, shares_I: Scores) -> Scores:
    """``scores_NI`` where a row without any score other than zero, a history that says nothing, becomes ``shares_I``.

    Works in place.
    """
    scores_NI[~scores_NI.any(axis=1)] = shares_I
    return scores_NI
