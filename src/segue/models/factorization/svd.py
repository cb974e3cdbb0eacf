"""PureSVD: the table of who had what, or of ratings, by its greatest singular values (Cremonesi, Koren and Turrin 2010,
doi:10.1145/1864708.1864721).

With X the table, all that did not happen being zero, and ``X = U S V'`` cut after ``width`` singular values, history x
scores ``x V F V'`` with ``F = S² / (S² + l2)``: of all item-item weights of that rank those that tell the table from
itself with the least squared error and ridge l2. Without ridge it is the projection of the paper.

From values (``learns="values"``) the table is what ratings are above the regularised baseline ``mean + b_u + b_i``, and
the product is added to that again (cf. Sarwar et al. 2000). As a table it says that whatever a person did not rate is
worth the baseline; with ``observed`` his factors are fitted to his ratings alone instead.

Shapes: U users, I items, N queries, T events, D width, B width with the bias.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.model import Arrays, Solver, Validate, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.ratings import ratings_of, valued
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Events, Queries, Scores
from segue.solvers.bias_baseline import baseline, biases_of
from segue.solvers.biased_factor_model import cosine_likeness, pair_products
from segue.solvers.history_matrix import Weights, weighed
from segue.solvers.ridge import solve_rows
from segue.solvers.truncated_svd import truncated

__all__ = ["SVD"]

TINY = 1e-12


class SVD(Solver):
    """The truncated singular value decomposition; everybody is folded in by projection, known or not."""

    class Config(Settings):
        """Settings of ``svd``."""

        width: Annotated[int, Ge(1)] = 128
        """Singular values that are kept."""
        learns: Literal["events", "values"] = "events"
        """What happened, to rank; or values such as ratings, to predict them."""
        weights: Weights = "binary"
        """What an event weighs where events are learned: 1, its value, or its value less the mean of all."""
        l2: Annotated[float, Ge(0)] = 300.0
        """Ridge: a dimension counts by its singular value s as s² / (s² + l2). 0: PureSVD as published."""
        l2_bias: Annotated[float, Ge(0)] = 10.0
        """Ridge of the biases, where values are learned: so many ratings that say zero."""
        observed: bool = False
        """Whether a person's factors are fitted to what he rated, where values are learned, instead of projected."""
        clip: bool = False
        """Whether predictions stay within the lowest and the highest value of the training data."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        empty_IB, width = np.zeros((domain.n_items, config.width + 1), np.float32), config.width
        users_UB, newcomer_B = np.zeros((domain.n_users, width + 1), np.float32), np.zeros(width + 1, np.float32)
        self._keep(0.0, users_UB, empty_IB, np.zeros(width, np.float32), newcomer_B, (0.0, 0.0))

    def _keep(
        self,
        mean: float,
        users_UB: Scores,
        items_IB: Scores,
        squares_D: Scores,
        newcomer_B: Scores,
        limits: tuple[float, float],
    ) -> None:
        """Take what was learned: biases and right vectors, squared singular values, and who has told nothing."""
        self.mean, self.limits = np.float32(mean), np.asarray(limits, np.float32)
        self.users_UB, self.items_IB, self.squares_D, self.newcomer_B = users_UB, items_IB, squares_D, newcomer_B
        self._vectors_IB = items_IB.copy()
        self._vectors_IB[:, 0] = 1.0

    @property
    def predicts(self) -> bool:
        """Whether it learned values."""
        return bool(self.config.learns == "values")

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Decompose the table.

        Raises:
            ValueError: values are asked for, and no event has one.
        """
        config, mean, limits = self.config, 0.0, (0.0, 0.0)
        if config.learns == "values" or config.weights != "binary":
            values = ratings_of(train, f"svd of {'values' if config.learns == 'values' else config.weights}").values
            mean, limits = float(values.mean(dtype=np.float64)), (float(values.min()), float(values.max()))
        biases_I = np.zeros(train.n_items, np.float32)
        if config.learns == "values":
            ratings = ratings_of(train, "svd")
            base = baseline(ratings, config.l2_bias)
            biases_I = base.items_I
            table_UI = valued(train.histories).csr(train.n_items, base.residuals(ratings))
        else:
            table_UI = weighed(train.histories, train.n_items, config.weights, mean)
        vectors_ID, values_D = truncated(table_UI, config.width, run.rng("start"))
        items_IB = np.column_stack([biases_I, vectors_ID]).astype(np.float32)
        squares_D = np.square(values_D).astype(np.float32)
        self._keep(mean, self.users_UB, items_IB, squares_D, self.newcomer_B, limits)
        users_UB = self.fold_in(train.histories)
        newcomer_B = np.zeros_like(self.newcomer_B) if self.predicts else users_UB.mean(axis=0)
        self._keep(mean, users_UB, items_IB, squares_D, newcomer_B, limits)

    def fold_in(self, history: Events) -> Scores:
        """``(N, B)`` bias and factors of people with these histories; zeros where they tell nothing."""
        if not self.predicts:
            table_NI = weighed(history, self.domain.n_items, self.config.weights, float(self.mean))
            return _joined(np.zeros(len(history), np.float32), self._filtered(table_NI @ self.items_IB[:, 1:]))
        known = valued(history)
        assert known.values is not None
        biases_N = biases_of(known, float(self.mean), self.items_IB[:, 0], self.config.l2_bias)
        rest_T = known.values - self.mean - self.items_IB[known.items, 0] - biases_N[known.rows]
        if not self.config.observed:
            table_NI = known.csr(self.domain.n_items, rest_T)
            return _joined(biases_N, self._filtered(table_NI @ self.items_IB[:, 1:]))
        # of one who rated everything it gives what the projection gives
        ridge_D = np.maximum(self.config.l2, TINY) / np.maximum(self.squares_D, TINY)
        factors_ND, _ = solve_rows(
            known.offsets,
            known.items,
            np.ones(known.size, np.float32),
            rest_T,
            np.ascontiguousarray(self.items_IB[:, 1:]),
            ridge_D=ridge_D.astype(np.float32),
            ridge_R=np.ones(len(history), np.float32),
        )
        return _joined(biases_N, factors_ND)

    def _filtered(self, found_ND: Scores) -> Scores:
        """Each dimension by how much of it is not noise."""
        shares_D = self.squares_D / np.maximum(self.squares_D + np.float32(self.config.l2), TINY)
        return np.asarray(found_ND * shares_D, np.float32)

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """The person's bias and factors; of a known user who tells nothing now, as in training."""
        rows_NB = self.fold_in(queries.history)
        silent = ~rows_NB.any(axis=1)
        known = silent & queries.known
        rows_NB[silent] = self.newcomer_B
        rows_NB[known] = self.users_UB[queries.users[known]]
        if self.predicts:
            rows_NB[:, 0] += self.mean
        return rows_NB

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``(n_items, B)`` one, and right singular vectors."""
        return self._vectors_IB

    @property
    def bias(self) -> NDArray[np.float32]:
        """``(n_items,)`` zeros where events are learned."""
        return self.items_IB[:, 0]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """What the history's row of the table is at each item; the predicted value where values are learned."""
        scores_NI: Scores = self.encode(queries) @ self._vectors_IB.T + self.bias
        return pick_candidates(scores_NI, candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`.

        Raises:
            ValueError: events were learned, not values.
        """
        if not self.predicts:
            raise ValueError("svd.learns: got 'events', expected 'values' of a model that predicts them")
        found = self.mean + self.users_UB[users, 0] + self.items_IB[items, 0]
        found += pair_products(self.users_UB[:, 1:], self.items_IB[:, 1:], users, items)
        return self.in_scale(np.asarray(found, np.float32))

    def in_scale(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.in_scale`."""
        return np.clip(scores, *self.limits) if self.config.clip else scores

    def similar(self, items: Codes) -> Scores:
        """The cosine between the items' right vectors, each dimension by its singular value."""
        return cosine_likeness(self.items_IB[:, 1:] * np.sqrt(self.squares_D), items)

    def arrays(self) -> Arrays:
        """Mean, limits, biases and factors of users and of items, squared singular values, and who tells nothing."""
        return {
            "mean": np.array([self.mean], np.float32),
            "limits": self.limits,
            "users": self.users_UB,
            "items": self.items_IB,
            "squares": self.squares_D,
            "newcomer": self.newcomer_B,
        }

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        width = self.config.width
        users_UB = take_back(arrays, "users", (self.domain.n_users, width + 1), np.float32)
        items_IB = take_back(arrays, "items", (self.domain.n_items, width + 1), np.float32)
        squares_D = take_back(arrays, "squares", (width,), np.float32)
        newcomer_B = take_back(arrays, "newcomer", (width + 1,), np.float32)
        low, high = take_back(arrays, "limits", (2,), np.float32)
        mean = take_back(arrays, "mean", (1,), np.float32)[0]
        self._keep(mean, users_UB, items_IB, squares_D, newcomer_B, (low, high))


def _joined(biases_N: Scores, factors_ND: Scores) -> Scores:
    return np.concatenate([biases_N[:, None], factors_ND], axis=1, dtype=np.float32)
