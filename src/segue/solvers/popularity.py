"""Popularity of items: counts, distributions, and the base class of models.

Some items are chosen first, such as those on the first page of a shop, and others later. After n events, a user who has
not chosen one of the first kind will probably not choose it any more. Its rate after n events,

    rate_n(i) = users who choose i after their first n events / users who do not choose i in their first n events,

is then below its rate over all events. Only users with more than n events count.

Shapes: I items, T events, N queries, C candidates, H numbers of events.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Solver, StateArrays
from segue.core.model_arrays import load_array
from segue.core.types import Codes, Dataset, Queries, Scores

__all__ = [
    "PopularityModel",
    "fill_empty_rows_with_popularity",
    "item_counts",
    "later_lifts",
    "popularity_distribution",
]

PRIOR_USERS = 10.0
"""Number of users that the rate over all events counts for."""


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


def later_lifts(train: Dataset, lengths: Sequence[int]) -> Scores:
    """Return log(rate_n(i) / rate_0(i)) for each n of ``lengths``, n > 0: ``(H, I)``.

    Rates are smoothed; the lift is 0 where no user has more than n events.
    """
    histories, n_items = train.histories, train.n_items
    _, first_T = np.unique(histories.rows * np.int64(n_items) + histories.items, return_index=True)
    rows_T, items_T = histories.rows[first_T], histories.items[first_T]
    positions_T = first_T - histories.offsets[rows_T]
    is_target_T = np.ones(len(first_T), np.bool_)
    if train.target is not None and histories.actions is not None:
        is_target_T = histories.actions[first_T] == train.target

    def rates(length: int, prior_I: Scores | float) -> Scores:
        has_more_T = histories.lengths[rows_T] > length
        is_later_T = positions_T >= length
        chosen_I = np.bincount(items_T[is_later_T & is_target_T], minlength=n_items)
        earlier_I = np.bincount(items_T[has_more_T & ~is_later_T], minlength=n_items)
        able_I = np.count_nonzero(histories.lengths > length) - earlier_I
        smoothed_I: Scores = (chosen_I + PRIOR_USERS * prior_I) / (able_I + PRIOR_USERS)
        return smoothed_I

    usual_I = rates(0, 1.0 / n_items)
    lifts_HI: Scores = np.log([rates(length, usual_I) / usual_I for length in lengths]).astype(np.float32)
    return lifts_HI


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
