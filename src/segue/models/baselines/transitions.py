"""Recommend what followed the last item: a Markov chain of order one.

The probability that item j follows item i is estimated from consecutive events of the same user,

    P(j | i) = (n_ij + s p_j) / (n_i + s),

where n_ij counts how often j followed i, n_i is the sum of n_ij over j, p is the popularity of the items, and s is the
smoothing. It is the unpersonalized Markov chain of Rendle, Freudenthaler and Schmidt-Thieme 2010,
doi:10.1145/1772690.1772773, with popularity as the prior. An empty history gets popularity.

Shapes: I items, T events, N queries, C candidates.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from scipy.sparse import coo_array, csr_array

from segue.core.config import Settings
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array, load_csr
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores
from segue.solvers.popularity import popularity_distribution

__all__ = ["Transitions"]


class Transitions(Solver):
    """Score items by the logarithm of their probability to follow the last item.

    If there is a target action, only transitions to its events count.
    """

    scale = "logit"

    class Config(Settings):
        """Settings of ``transitions``."""

        smoothing: Annotated[float, Ge(1e-6)] = 1.0
        """Weight of popularity, in transitions: it ranks the items that never followed the last one."""

    counts_II: csr_array[Any]
    """Row i: how often each item followed item i."""
    popularity_I: Scores

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Count the consecutive items of each history."""
        events = train.histories
        is_pair = np.diff(events.rows) == 0
        if train.target is not None and events.actions is not None:
            is_pair &= events.actions[1:] == train.target
        before, after = events.items[:-1][is_pair], events.items[1:][is_pair]
        shape = (train.n_items, train.n_items)
        counts_II = coo_array((np.ones(len(before), np.float32), (before, after)), shape=shape).tocsr()
        counts_II.sum_duplicates()
        self._set_state(csr_array(counts_II), popularity_distribution(train))

    def _set_state(self, counts_II: csr_array[Any], popularity_I: Scores) -> None:
        self.counts_II, self.popularity_I = counts_II, popularity_I
        self._total_I = np.asarray(counts_II.sum(axis=1), np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the log-probabilities of the items after the last one of each history."""
        history, smoothing = queries.history, np.float32(self.config.smoothing)
        scores_NI = np.tile(smoothing * self.popularity_I, (len(queries), 1))
        rows = np.flatnonzero(history.lengths)
        last = history.items[history.offsets[1:][rows] - 1]
        followers = self.counts_II[last].tocoo()
        scores_NI[rows[followers.row], followers.col] += followers.data
        total_N = np.full(len(queries), smoothing, np.float32)
        total_N[rows] += self._total_I[last]
        scores_NI /= total_N[:, None]
        return select_candidates(np.log(scores_NI, out=scores_NI), candidates)

    def arrays(self) -> StateArrays:
        """Return the counts of transitions and the popularity of items."""
        counts_II = self.counts_II
        return {
            "counts": counts_II.data,
            "items": counts_II.indices.astype(np.int32),
            "offsets": counts_II.indptr.astype(np.int64),
            "popularity": self.popularity_I,
        }

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        n_items = self.schema.n_items
        counts_II = load_csr(arrays, "counts", "items", "offsets", (n_items, n_items))
        self._set_state(counts_II, load_array(arrays, "popularity", (n_items,), np.float32))
