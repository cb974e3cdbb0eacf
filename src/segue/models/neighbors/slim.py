"""SLIM: sparse linear methods (Ning and Karypis 2011, doi:10.1109/ICDM.2011.134).

Each column x_i of the interaction matrix X is regressed on the other columns, with nonnegative sparse weights:

    w_i = argmin  |x_i - X w|² / 2  +  l2 |w|² / 2  +  l1 |w|_1,      w >= 0,  w_i = 0

Only the Gram matrix G = X'X of co-occurrence counts is needed. The solver is coordinate descent with an active set
(Friedman et al. 2010, doi:10.18637/jss.v033.i01): weights that would become positive join the set, then the set is
solved. As weights are nonnegative, an item that shares at most l1 users with item i always has weight 0.

Shapes: I items, N queries, C candidates, B items of a block.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from numba import float32, int64
from scipy.sparse import csr_array, vstack

from segue.core.config import Search, Settings
from segue.core.memory_check import REDUCE_ITEMS, check_memory
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array, load_csr
from segue.core.numba_kernels import fastmath_kernel, input_array, output_array, parallel_rows
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.solvers.items.cooccurrence import cooccurrence
from segue.solvers.popularity import fill_empty_rows_with_popularity, popularity_distribution

__all__ = ["SLIM"]

BLOCK_CELLS = 4_000_000
"""Maximum number of dense weights computed at a time, before they are converted to sparse form: 16 MB."""

MAX_ROUNDS = 50
"""Maximum number of scans for weights that should join the active set."""


class SLIM(Solver):
    """Score items by sparse weighted sums over the history.

    An empty history gets popularity.
    """

    class Config(Settings):
        """Settings of ``slim``."""

        l1: Annotated[float, Ge(0), Search(0.1, 20.0, log=True)] = 2.0
        """L1 regularization, in number of users; higher values leave fewer nonzero weights."""
        l2: Annotated[float, Gt(0), Search(10.0, 1_000.0, log=True)] = 100.0
        """L2 regularization, in number of users; higher values spread weights over similar items."""
        iterations: Annotated[int, Ge(1)] = 100
        """Maximum number of passes over the active weights between two scans of all items."""
        tolerance: Annotated[float, Gt(0)] = 1e-4
        """Change of a weight at convergence."""

    weights_II: csr_array[Any]
    """Row i: what each item in the history adds to the score of i."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.popularity_I = np.zeros(schema.n_items, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Solve the regressions of all items, a block of items at a time.

        Raises:
            ValueError: the Gram matrix does not fit in memory.
        """
        n_items = train.n_items
        check_memory(f"slim: the Gram matrix of {n_items:,} x {n_items:,} items", n_items**2, REDUCE_ITEMS)
        seen_UI = train.histories.csr(n_items)
        gram_II = np.empty((n_items, n_items), np.float32)
        for rows, counts_BI in cooccurrence(seen_UI):
            gram_II[rows] = counts_BI
        blocks = []
        with run.progress(n_items, "slim", "items") as progress:
            for start in range(0, n_items, step := max(1, BLOCK_CELLS // n_items)):
                weights_BI = _solve_block(gram_II, start, min(start + step, n_items), self.config)
                blocks.append(csr_array(weights_BI))
                progress(len(weights_BI))
        self.popularity_I = popularity_distribution(train)
        self._set_weights(csr_array(vstack(blocks)))

    def _set_weights(self, weights_II: csr_array[Any]) -> None:
        self.weights_II = weights_II
        self._transposed_II = csr_array(weights_II.T)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Sum the weights of the history's items; popularity where all sums are zero."""
        scores_NI = (queries.history.csr(self.schema.n_items) @ self._transposed_II).toarray()
        return select_candidates(fill_empty_rows_with_popularity(scores_NI, self.popularity_I), candidates)

    def similar(self, items: Codes) -> Scores:
        """Return what each other item adds to the item's score; 0 for the item itself."""
        return self.weights_II[items].toarray()

    def arrays(self) -> StateArrays:
        """Return the weights as a sparse matrix, and the popularity of items."""
        weights = self.weights_II
        return {
            "weights": weights.data,
            "columns": weights.indices.astype(np.int32),
            "offsets": weights.indptr.astype(np.int64),
            "popularity": self.popularity_I,
        }

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        n_items = self.schema.n_items
        self.popularity_I = load_array(arrays, "popularity", (n_items,), np.float32)
        self._set_weights(load_csr(arrays, "weights", "columns", "offsets", (n_items, n_items)))


def _solve_block(gram_II: Scores, start: int, stop: int, config: SLIM.Config) -> Scores:
    """Compute the ``(B, I)`` weights of items ``start:stop``."""
    out_BI = np.zeros((stop - start, len(gram_II)), np.float32)

    def process_rows(first: int, last: int) -> None:
        _solve(first, last, start, gram_II, config.l1, config.l2, config.iterations, config.tolerance, out_BI)

    # estimated cost of an item: popular items have more nonzero weights
    costs = np.sqrt(gram_II.diagonal()[start:stop]).astype(np.int64)
    parallel_rows(process_rows, np.concatenate([[0], np.cumsum(costs)]))
    return out_BI


@fastmath_kernel(
    int64, int64, int64, input_array(float32, 2), float32, float32, int64, float32, output_array(float32, 2)
)
def _solve(
    first: int,
    last: int,
    start: int,
    gram: Scores,
    l1: float,
    l2: float,
    iterations: int,
    tolerance: float,
    out: Scores,
) -> None:
    """Solve rows ``first:last`` of a block that begins with item ``start``.

    The weights start at zero.
    """
    n_items = len(gram)
    residuals, is_active = np.empty(n_items, np.float32), np.zeros(n_items, np.bool_)
    active = np.empty(n_items, np.int64)
    for row in range(first, last):
        item, n_active = start + row, 0
        weights_I = out[row]
        for _ in range(MAX_ROUNDS):
            # co-occurrences that the weights do not explain; a weight rises above zero if these exceed l1
            residuals[:] = gram[item]
            for a in range(n_active):
                weight = weights_I[active[a]]
                for b in range(n_items):
                    residuals[b] -= weight * gram[active[a], b]
            n_before = n_active
            for candidate in range(n_items):
                if candidate != item and not is_active[candidate]:
                    weight = (residuals[candidate] - l1) / (gram[candidate, candidate] + l2)
                    if weight > tolerance:
                        weights_I[candidate] = weight
                        for b in range(n_items):
                            residuals[b] -= weight * gram[candidate, b]
                        active[n_active], is_active[candidate] = candidate, True
                        n_active += 1
            if n_active == n_before:
                break
            # coordinate descent over the active weights, in a small matrix that fits in the processor's cache
            sub_gram = np.empty((n_active, n_active), np.float32)
            sub_residuals, sub_weights = np.empty(n_active, np.float32), np.empty(n_active, np.float32)
            for a in range(n_active):
                sub_residuals[a], sub_weights[a] = residuals[active[a]], weights_I[active[a]]
                for b in range(n_active):
                    sub_gram[a, b] = gram[active[a], active[b]]
            for _ in range(iterations):
                largest = np.float32(0.0)
                for a in range(n_active):
                    optimum = (sub_residuals[a] + sub_gram[a, a] * sub_weights[a] - l1) / (sub_gram[a, a] + l2)
                    change = max(optimum, np.float32(0.0)) - sub_weights[a]
                    if change != 0.0:
                        for b in range(n_active):
                            sub_residuals[b] -= change * sub_gram[a, b]
                        sub_weights[a] += change
                        largest = max(largest, abs(change))
                if largest <= tolerance:
                    break
            n_kept = 0
            for a in range(n_active):
                weights_I[active[a]] = sub_weights[a]
                is_active[active[a]] = sub_weights[a] > 0
                if sub_weights[a] > 0:
                    active[n_kept] = active[a]
                    n_kept += 1
            n_active = n_kept
        for a in range(n_active):
            is_active[active[a]] = False
