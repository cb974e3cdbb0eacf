"""Popularity of items: counts, distributions, and the base class of models.

Shapes: I items, T events, N queries, C candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Solver, StateArrays
from segue.core.model_arrays import load_array
from segue.core.types import Codes, Dataset, Queries, Scores

__all__ = ["PopularityModel", "fill_empty_rows_with_popularity", "item_counts", "popularity_distribution"]


def item_counts(train: Dataset, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Count the events of each item, or sum their ``weights (T,)``: ``(I,)``.

    Only events of the target action count, if there is one.
    """
    events = train.histories
    weights = np.ones(events.size) if weights is None else weights
    if train.target is not None and events.actions is not None:
        weights = np.where(events.actions == train.target, weights, 0.0)
    counts_I: NDArray[np.float64] = np.bincount(events.items, weights, minlength=train.n_items).astype(np.float64)
    return counts_I


def popularity_distribution(train: Dataset) -> Scores:
    """Return the ``(I,)`` probability of each item.

    One event is added to each, so that no probability is zero.
    """
    counts_I = item_counts(train) + 1.0
    popularity_I: Scores = (counts_I / counts_I.sum()).astype(np.float32)
    return popularity_I


def fill_empty_rows_with_popularity(scores_NI: Scores, popularity_I: Scores) -> Scores:
    """Replace rows of zeros by ``popularity_I``, in place.

    Such rows are those of uninformative histories.
    """
    scores_NI[~scores_NI.any(axis=1)] = popularity_I
    return scores_NI


class PopularityModel(Solver):
    """Model that scores items by log-probabilities, the same for every query.

    Subclasses fit the distribution.
    """

    scale = "logit"
    log_popularity_I: Scores

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return log-probabilities of the items, the same for every query."""
        if candidates is not None:
            return self.log_popularity_I[candidates]
        return np.tile(self.log_popularity_I, (len(queries), 1))

    def arrays(self) -> StateArrays:
        """Return the log-probabilities."""
        return {"log_popularity": self.log_popularity_I}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        self.log_popularity_I = load_array(arrays, "log_popularity", (self.schema.n_items,), np.float32)
