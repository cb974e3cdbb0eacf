"""SLIM: sparse linear methods (Ning and Karypis 2011, doi:10.1109/ICDM.2011.134).

Each item's column x_i of the table X of who had what is explained by those of the others, with weights that are not
negative, few, and 0 for itself:

    w_i = argmin  |x_i - X w|² / 2  +  l2 |w|² / 2  +  l1 |w|_1,      w >= 0,  w_i = 0

Only the Gram matrix G = X'X, how many people had both, is needed. One weight after another is put at its best (Friedman
et al. 2010, doi:10.18637/jss.v033.i01), first of all that are pulled above zero, then of those that are above it. As
nothing is negative, an item that shares no more than l1 people with item i never is.

Shapes: U users, I items, N queries, C candidates, B items of a block.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from numba import float32, int64
from scipy.sparse import csr_array, vstack

from segue.core.config import Settings
from segue.core.memory_check import ITEMS_OR_NEIGHBOURS, need
from segue.core.model import Arrays, Solver, Validate, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.numba_kernels import over_rows, read, summing_kernel, written
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Queries, Scores
from segue.solvers.cooccurrence import cooccurrence
from segue.solvers.popularity import answer_ties, shares

__all__ = ["SLIM"]

BLOCK_CELLS = 4_000_000
"""Weights held at once before they are made sparse: 16 MB."""

ROUNDS = 50
"""Times, at most, that all items are looked through for some that should be above zero."""


class SLIM(Solver):
    """An item's score is a sparse weighted sum over the history; an empty history is answered by popularity."""

    class Config(Settings):
        """Settings of ``slim``."""

        l1: Annotated[float, Ge(0)] = 2.0
        """Pull of each weight to zero, in people: more leaves fewer weights."""
        l2: Annotated[float, Gt(0)] = 100.0
        """Ridge of the weights, in people: more spreads them over items that are alike."""
        sweeps: Annotated[int, Ge(1)] = 100
        """Passes over an item's weights, at most, between two looks at all items."""
        tolerance: Annotated[float, Gt(0)] = 1e-4
        """Change of a weight below which it is as good as solved."""

    weights_II: csr_array[Any]
    """Row i: what having each item adds to the score of i."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self.shares_I = np.zeros(domain.n_items, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Solve the regression of every item, a block of items at a time.

        Raises:
            ValueError: the Gram matrix does not fit in memory.
        """
        n_items = train.n_items
        need(f"slim: the Gram matrix of {n_items:,} x {n_items:,} items", n_items**2, ITEMS_OR_NEIGHBOURS)
        seen_UI = train.histories.csr(n_items)
        gram_II = np.empty((n_items, n_items), np.float32)
        for rows, both_BI in cooccurrence(seen_UI):
            gram_II[rows] = both_BI
        parts = []
        with run.progress(n_items, "slim", "items") as progress:
            for start in range(0, n_items, step := max(1, BLOCK_CELLS // n_items)):
                solved_BI = _solve_block(gram_II, start, min(start + step, n_items), self.config)
                parts.append(csr_array(solved_BI))
                progress(len(solved_BI))
        self.shares_I = shares(train)
        self._keep(csr_array(vstack(parts)))

    def _keep(self, weights_II: csr_array[Any]) -> None:
        self.weights_II = weights_II
        self._into_II = csr_array(weights_II.T)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """The weights of the history's items, summed; the share of all events where they say nothing."""
        scores_NI = (queries.history.csr(self.domain.n_items) @ self._into_II).toarray()
        return pick_candidates(answer_ties(scores_NI, self.shares_I), candidates)

    def similar(self, items: Codes) -> Scores:
        """What having each other item adds to the item's score; 0 for the item itself."""
        return self.weights_II[items].toarray()

    def arrays(self) -> Arrays:
        """The weights as a sparse matrix, and the shares of popularity."""
        weights = self.weights_II
        return {
            "weights": weights.data,
            "columns": weights.indices.astype(np.int32),
            "offsets": weights.indptr.astype(np.int64),
            "shares": self.shares_I,
        }

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        n_items = self.domain.n_items
        weights = take_back(arrays, "weights", (None,), np.float32)
        columns = take_back(arrays, "columns", (len(weights),), np.int32)
        offsets = take_back(arrays, "offsets", (n_items + 1,), np.int64)
        self.shares_I = take_back(arrays, "shares", (n_items,), np.float32)
        self._keep(csr_array((weights, columns, offsets), shape=(n_items, n_items)))


def _solve_block(gram_II: Scores, start: int, stop: int, config: SLIM.Config) -> Scores:
    """``(B, I)`` the weights of items ``start:stop``."""
    out_BI = np.zeros((stop - start, len(gram_II)), np.float32)

    def work(first: int, last: int) -> None:
        _solve(first, last, start, gram_II, config.l1, config.l2, config.sweeps, config.tolerance, out_BI)

    # about what an item costs: what more people had is like more others
    costs = np.sqrt(gram_II.diagonal()[start:stop]).astype(np.int64)
    over_rows(work, np.concatenate([[0], np.cumsum(costs)]))
    return out_BI


@summing_kernel(int64, int64, int64, read(float32, 2), float32, float32, int64, float32, written(float32, 2))
def _solve(
    first: int,
    last: int,
    start: int,
    gram: Scores,
    l1: float,
    l2: float,
    sweeps: int,
    tolerance: float,
    out: Scores,
) -> None:
    """Rows ``first:last`` of a block that begins with item ``start``, from weights of zero."""
    items = len(gram)
    slopes, inside = np.empty(items, np.float32), np.zeros(items, np.bool_)
    members = np.empty(items, np.int64)
    for row in range(first, last):
        item, count = start + row, 0
        own = out[row]
        for _ in range(ROUNDS):
            # how many more people had both than the weights explain; what is above l1 pulls a weight up
            slopes[:] = gram[item]
            for a in range(count):
                weight = own[members[a]]
                for b in range(items):
                    slopes[b] -= weight * gram[members[a], b]
            before = count
            for k in range(items):
                if k != item and not inside[k]:
                    weight = (slopes[k] - l1) / (gram[k, k] + l2)
                    if weight > tolerance:
                        own[k] = weight
                        for b in range(items):
                            slopes[b] -= weight * gram[k, b]
                        members[count], inside[k] = k, True
                        count += 1
            if count == before:
                break
            # among those above zero alone, in a matrix that stays in the processor's cache
            near = np.empty((count, count), np.float32)
            left, w = np.empty(count, np.float32), np.empty(count, np.float32)
            for a in range(count):
                left[a], w[a] = slopes[members[a]], own[members[a]]
                for b in range(count):
                    near[a, b] = gram[members[a], members[b]]
            for _ in range(sweeps):
                largest = np.float32(0.0)
                for a in range(count):
                    found = (left[a] + near[a, a] * w[a] - l1) / (near[a, a] + l2)
                    change = max(found, np.float32(0.0)) - w[a]
                    if change != 0.0:
                        for b in range(count):
                            left[b] -= change * near[a, b]
                        w[a] += change
                        largest = max(largest, abs(change))
                if largest <= tolerance:
                    break
            kept = 0
            for a in range(count):
                own[members[a]] = w[a]
                inside[members[a]] = w[a] > 0
                if w[a] > 0:
                    members[kept] = members[a]
                    kept += 1
            count = kept
        for a in range(count):
            inside[members[a]] = False
