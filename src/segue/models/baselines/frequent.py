"""Recommend to each user the items that occur most often in their own history.

Items that do not occur follow in order of popularity. It is a strong baseline where users return to items: the
"personal top frequency" of Hu et al. 2020, arXiv:2006.00556, and of Li et al. 2023, arXiv:2109.14233. Where seen items
are excluded from rankings, it is the same as ``popular``.

Shapes: I items, T events, N queries, C candidates.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt

from segue.core.config import Settings
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.solvers.popularity import popularity_distribution

__all__ = ["Frequent"]


class Frequent(Solver):
    """Score items by the number of their events in the history, plus their popularity.

    If there is a target action, only its events count.
    """

    class Config(Settings):
        """Settings of ``frequent``."""

        half_life: Annotated[float, Gt(0)] | None = None
        """Number of later events of the user after which the weight of an event halves; ``none``: all weights are 1."""
        smoothing: Annotated[float, Gt(0)] = 1.0
        """Weight, in events, of the popularity of the items; it ranks the items that the history lacks."""

    popularity_I: Scores

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Count the events of each item, for the items that a history lacks."""
        self.popularity_I = popularity_distribution(train)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Sum the weights of the events of each item, and add its popularity."""
        history = queries.history
        weights_T = np.ones(history.size, np.float32)
        if self.config.half_life is not None:
            later_T = history.offsets[1:][history.rows] - 1 - np.arange(history.size)
            weights_T = np.exp2(-later_T / self.config.half_life).astype(np.float32)
        if self.schema.target is not None and history.actions is not None:
            weights_T = np.where(history.actions == self.schema.target, weights_T, np.float32(0.0))
        scores_NI: Scores = history.csr(self.schema.n_items, weights_T).toarray()
        scores_NI += np.float32(self.config.smoothing) * self.popularity_I
        return select_candidates(scores_NI, candidates)

    def arrays(self) -> StateArrays:
        """Return the popularity of items."""
        return {"popularity": self.popularity_I}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        self.popularity_I = load_array(arrays, "popularity", (self.schema.n_items,), np.float32)
