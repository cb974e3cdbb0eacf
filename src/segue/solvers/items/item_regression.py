"""Regression of every item on all other items, in closed form.

Steck 2019, arXiv:1905.03375.

With the Gram matrix G = X'X + l2 I of the observations X and its inverse P, the weights are B = -P / diag(P), with a
zero diagonal (eq. 8). A single dense float32 matrix of items² is allocated and transformed in place.

Shapes: X rows of observations, such as users, I items, N queries, B items of a block, C candidates.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csr_array

from segue.core.memory_check import REDUCE_ITEMS, check_memory
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.solvers.items.cooccurrence import cooccurrence
from segue.solvers.items.sparse_product import sum_rows
from segue.solvers.popularity import fill_empty_rows_with_popularity, popularity_distribution

__all__ = ["ItemRegression"]


class ItemRegression(Solver):
    """Score items by weighted sums over the history.

    An empty history gets popularity. The settings have ``l2``.
    """

    key: ClassVar[str]
    """Key of the model, for messages."""

    weights_II: Scores
    """Row i: what item i in the history adds to the score of every item."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.popularity_I = np.zeros(schema.n_items, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Solve the ridge regressions of all items on all other items.

        Raises:
            ValueError: the weights do not fit in memory, or ``l2`` is too small for float32.
        """
        n_items = train.n_items
        check_memory(f"{self.key}: the weight matrix of {n_items:,} x {n_items:,} items", n_items**2, REDUCE_ITEMS)
        gram_II = np.empty((train.n_items, train.n_items), np.float32)
        with run.progress(train.n_items, f"{self.key}: counting") as progress:
            for rows, counts_BI in cooccurrence(self.observations(train)):
                gram_II[rows] = counts_BI
                progress(len(counts_BI))
        gram_II.flat[:: train.n_items + 1] += np.float32(self.config.l2)
        inverse_II = _invert(gram_II, self.key, self.config.l2)
        inverse_II /= -inverse_II.diagonal().copy()
        np.fill_diagonal(inverse_II, 0.0)
        self.weights_II = inverse_II
        self.popularity_I = popularity_distribution(train)

    def observations(self, train: Dataset) -> csr_array[Any]:
        """Return the matrix in which items are predicted from each other.

        ``(U, I)``, the training events.
        """
        return train.histories.csr(train.n_items)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Sum the weights of the history's items; popularity where all sums are zero."""
        scores_NI = sum_rows(queries.history.csr(self.schema.n_items), self.weights_II)
        return select_candidates(fill_empty_rows_with_popularity(scores_NI, self.popularity_I), candidates)

    def similar(self, items: Codes) -> Scores:
        """Return what each item adds to the score of every other item; 0 for itself."""
        return self.weights_II[items]

    def arrays(self) -> StateArrays:
        """Return the weights and the popularity of items."""
        return {"weights": self.weights_II, "popularity": self.popularity_I}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        n_items = self.schema.n_items
        self.weights_II = load_array(arrays, "weights", (n_items, n_items), np.float32)
        self.popularity_I = load_array(arrays, "popularity", (n_items,), np.float32)


def _invert(gram_II: Scores, key: str, l2: float) -> Scores:
    """Invert a symmetric positive definite matrix in place by Cholesky factorization."""
    from scipy.linalg.lapack import spotrf, spotri

    # The transposed view is in Fortran order, so LAPACK works in place; its lower triangle is the upper one here.
    factor, error_code = spotrf(gram_II.T, lower=1, clean=0, overwrite_a=1)
    if error_code == 0:
        factor, error_code = spotri(factor, lower=1, overwrite_c=1)
    if error_code:
        raise ValueError(
            f"{key}.l2: got {l2:g}, but the Gram matrix is not positive definite in float32; use a larger value"
        )
    upper_II: Scores = factor.T
    for row in range(1, len(upper_II)):
        upper_II[row, :row] = upper_II[:row, row]
    return upper_II
