"""EASE: a linear item-item model with a zero diagonal (Steck 2019, arXiv:1905.03375).

With the Gram matrix G = X'X + l2 I and P its inverse, the weights are B = -P / diag(P), diagonal 0 (eq. 8 there).
One dense float32 matrix of items² is held and worked on in place, from Gram matrix to weights.

Shapes: U users, I items, N queries, B items of a block, C candidates.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Gt

from segue.core.config import Settings
from segue.core.memory_check import ITEMS_OR_NEIGHBOURS, need
from segue.core.model import Arrays, Solver, Validate, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Queries, Scores
from segue.solvers.cooccurrence import cooccurrence
from segue.solvers.popularity import answer_ties, shares

__all__ = ["EASE"]


class EASE(Solver):
    """Every item's score is a weighted sum over the history; an empty history is answered by popularity."""

    class Config(Settings):
        """Settings of ``ease``."""

        l2: Annotated[float, Gt(0)] = 500.0
        """Ridge added to the diagonal of the item-item Gram matrix; more for sparser data."""

    weights_II: Scores
    """Row i: what having item i adds to the score of every item."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self.shares_I = np.zeros(domain.n_items, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Solve the ridge regression of all items on all others at once.

        Raises:
            ValueError: the weights do not fit in memory, or ``l2`` is too small for float32.
        """
        n_items = train.n_items
        need(f"ease: the matrix of {n_items:,} x {n_items:,} items", n_items**2, ITEMS_OR_NEIGHBOURS)
        gram_II = np.empty((train.n_items, train.n_items), np.float32)
        with run.progress(train.n_items, "ease: counting") as progress:
            for rows, both_BI in cooccurrence(train.histories.csr(train.n_items)):
                gram_II[rows] = both_BI
                progress(len(both_BI))
        gram_II.flat[:: train.n_items + 1] += np.float32(self.config.l2)
        inverse_II = _invert(gram_II, self.config.l2)
        inverse_II /= -inverse_II.diagonal().copy()
        np.fill_diagonal(inverse_II, 0.0)
        self.weights_II = inverse_II
        self.shares_I = shares(train)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """The weights of the history's items, summed; the share of all events where the history says nothing."""
        scores_NI = queries.history.csr(self.domain.n_items) @ self.weights_II
        return pick_candidates(answer_ties(scores_NI, self.shares_I), candidates)

    def similar(self, items: Codes) -> Scores:
        """What having each item adds to the score of every other; 0 for the item itself."""
        return self.weights_II[items]

    def arrays(self) -> Arrays:
        """The weights and the shares of popularity."""
        return {"weights": self.weights_II, "shares": self.shares_I}

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        n_items = self.domain.n_items
        self.weights_II = take_back(arrays, "weights", (n_items, n_items), np.float32)
        self.shares_I = take_back(arrays, "shares", (n_items,), np.float32)


def _invert(gram_II: Scores, l2: float) -> Scores:
    """The inverse of a symmetric positive matrix in its own memory, by Cholesky."""
    from scipy.linalg.lapack import spotrf, spotri

    # The transposed view is in Fortran's order, so LAPACK works in place: its lower triangle is our upper one.
    factor, fault = spotrf(gram_II.T, lower=1, clean=0, overwrite_a=1)
    if fault == 0:
        factor, fault = spotri(factor, lower=1, overwrite_c=1)
    if fault:
        raise ValueError(f"ease.l2: got {l2}, too small: the Gram matrix is not positive in float32")
    upper_II: Scores = factor.T
    for row in range(1, len(upper_II)):
        upper_II[row, :row] = upper_II[:row, row]
    return upper_II
