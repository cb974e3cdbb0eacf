"""PureSVD: truncated SVD of the interaction or rating matrix.

Truncated singular value decomposition after Cremonesi, Koren and Turrin 2010, doi:10.1145/1864708.1864721. Let X be the
matrix, with zeros for unobserved pairs, and ``X = U S V'`` its decomposition truncated to ``embedding_dim`` singular
values. The scores of a history x are ``x V F V'`` with ``F = S² / (S² + l2)``: of all item-item weights of that rank,
``V F V'`` reconstructs X from itself with the least squared error plus L2 regularization. Without regularization, this
is the projection of the paper.

With explicit feedback, the matrix holds ratings minus the regularized baseline ``mean + b_u + b_i``, and predictions
add the baseline to the product (cf. Sarwar et al. 2000). Unrated items then count as if rated at their baseline; with
``fit_observed_only``, the factors of a user are fitted to their ratings alone.

Shapes: U users, I items, N queries, T events, D dimensions, B dimensions including the bias.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import model_validator

from segue.core.config import Search, Settings, reject_unused
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.ratings import collect_ratings, rated_events
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Events, Queries, Scores
from segue.solvers.bias_baseline import fit_bias_baseline, fold_in_biases
from segue.solvers.biased_factor_model import cosine_similarity, pair_products
from segue.solvers.history_matrix import EventWeights, weighted_matrix
from segue.solvers.ridge import solve_rows
from segue.solvers.truncated_svd import truncated_svd

__all__ = ["SVD"]

TINY = 1e-12


class SVD(Solver):
    """Truncated singular value decomposition; all users are folded in by projection."""

    class Config(Settings):
        """Settings of ``svd``."""

        embedding_dim: Annotated[int, Ge(1), Search(8, 256, log=True)] = 128
        """Number of singular values."""
        feedback: Literal["implicit", "explicit"] = "implicit"
        """``implicit``: rank items by interactions; ``explicit``: predict values, such as ratings."""
        weights: EventWeights = "binary"
        """For implicit feedback: every event weighs 1, its value, or its value minus the mean of all."""
        l2: Annotated[float, Ge(0), Search(10.0, 3_000.0, log=True)] = 300.0
        """L2 regularization: a dimension with singular value s is weighted by s² / (s² + l2). 0: PureSVD."""
        l2_bias: Annotated[float, Ge(0)] = 10.0
        """For explicit feedback: L2 regularization of biases, in number of ratings."""
        fit_observed_only: bool = False
        """For explicit feedback: fit a user's factors to their ratings alone, instead of projecting."""
        clip_predictions: bool = False
        """Clip predictions to the range of the training values."""

        @model_validator(mode="after")
        def _all_used(self) -> Self:
            is_implicit, explicit = self.feedback == "implicit", "feedback='explicit'"
            uses = dict.fromkeys(("l2_bias", "fit_observed_only", "clip_predictions"), (not is_implicit, explicit))
            reject_unused(self, {"weights": (is_implicit, "feedback='implicit'"), **uses})
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        empty_IB, width = np.zeros((schema.n_items, config.embedding_dim + 1), np.float32), config.embedding_dim
        users_UB, default_user_B = np.zeros((schema.n_users, width + 1), np.float32), np.zeros(width + 1, np.float32)
        self._set_factors(0.0, users_UB, empty_IB, np.zeros(width, np.float32), default_user_B, (0.0, 0.0))

    def _set_factors(
        self,
        mean: float,
        users_UB: Scores,
        items_IB: Scores,
        squared_singular_D: Scores,
        default_user_B: Scores,
        value_range: tuple[float, float],
    ) -> None:
        """Set the learned state.

        It consists of biases, right singular vectors, squared singular values, and the row of an unknown user.
        """
        self.mean, self.value_range = np.float32(mean), np.asarray(value_range, np.float32)
        self.users_UB, self.items_IB, self.squared_singular_D, self.default_user_B = (
            users_UB,
            items_IB,
            squared_singular_D,
            default_user_B,
        )
        self._vectors_IB = items_IB.copy()
        self._vectors_IB[:, 0] = 1.0

    @property
    def predicts_ratings(self) -> bool:
        """Return whether feedback is explicit."""
        return bool(self.config.feedback == "explicit")

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Decompose the matrix.

        Raises:
            ValueError: values are needed, and no event has one.
        """
        config, mean, value_range = self.config, 0.0, (0.0, 0.0)
        if config.feedback == "explicit" or config.weights != "binary":
            setting = "feedback='explicit'" if config.feedback == "explicit" else f"weights='{config.weights}'"
            values = collect_ratings(train, f"svd with {setting}").values
            mean, value_range = float(values.mean(dtype=np.float64)), (float(values.min()), float(values.max()))
        biases_I = np.zeros(train.n_items, np.float32)
        if config.feedback == "explicit":
            ratings = collect_ratings(train, "svd")
            baseline = fit_bias_baseline(ratings, config.l2_bias)
            biases_I = baseline.items_I
            matrix_UI = rated_events(train.histories).csr(train.n_items, baseline.residuals(ratings))
        else:
            matrix_UI = weighted_matrix(train.histories, train.n_items, config.weights, mean)
        vectors_ID, values_D = truncated_svd(matrix_UI, config.embedding_dim, run.rng("start"))
        items_IB = np.column_stack([biases_I, vectors_ID]).astype(np.float32)
        squared_singular_D = np.square(values_D).astype(np.float32)
        self._set_factors(mean, self.users_UB, items_IB, squared_singular_D, self.default_user_B, value_range)
        users_UB = self.fold_in(train.histories)
        default_user_B = np.zeros_like(self.default_user_B) if self.predicts_ratings else users_UB.mean(axis=0)
        self._set_factors(mean, users_UB, items_IB, squared_singular_D, default_user_B, value_range)

    def fold_in(self, history: Events) -> Scores:
        """Compute the ``(N, B)`` biases and factors of users with these histories.

        They are zero for uninformative histories.
        """
        if not self.predicts_ratings:
            matrix_NI = weighted_matrix(history, self.schema.n_items, self.config.weights, float(self.mean))
            return _with_bias(np.zeros(len(history), np.float32), self._shrink(matrix_NI @ self.items_IB[:, 1:]))
        known = rated_events(history)
        assert known.values is not None
        biases_N = fold_in_biases(known, float(self.mean), self.items_IB[:, 0], self.config.l2_bias)
        residuals_T = known.values - self.mean - self.items_IB[known.items, 0] - biases_N[known.rows]
        if not self.config.fit_observed_only:
            matrix_NI = known.csr(self.schema.n_items, residuals_T)
            return _with_bias(biases_N, self._shrink(matrix_NI @ self.items_IB[:, 1:]))
        # for a user who rated all items, this equals the projection
        ridge_D = np.maximum(self.config.l2, TINY) / np.maximum(self.squared_singular_D, TINY)
        factors_ND, _ = solve_rows(
            known.offsets,
            known.items,
            np.ones(known.size, np.float32),
            residuals_T,
            np.ascontiguousarray(self.items_IB[:, 1:]),
            ridge_D=ridge_D.astype(np.float32),
            ridge_R=np.ones(len(history), np.float32),
        )
        return _with_bias(biases_N, factors_ND)

    def _shrink(self, projected_ND: Scores) -> Scores:
        """Multiply each dimension by the share of its variance that is not noise."""
        shrinkage_D = self.squared_singular_D / np.maximum(self.squared_singular_D + np.float32(self.config.l2), TINY)
        return np.asarray(projected_ND * shrinkage_D, np.float32)

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Fold in each history.

        A known user with an uninformative history keeps the factors from training.
        """
        rows_NB = self.fold_in(queries.history)
        is_empty = ~rows_NB.any(axis=1)
        known = is_empty & queries.known
        rows_NB[is_empty] = self.default_user_B
        rows_NB[known] = self.users_UB[queries.users[known]]
        if self.predicts_ratings:
            rows_NB[:, 0] += self.mean
        return rows_NB

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return ``(n_items, B)``: a column of ones, then right singular vectors."""
        return self._vectors_IB

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return the item biases, ``(n_items,)``; zeros with implicit feedback."""
        return self.items_IB[:, 0]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Reconstruct the row of each history.

        With explicit feedback, the scores are predicted values.
        """
        scores_NI: Scores = self.encode(queries) @ self._vectors_IB.T + self.bias
        return select_candidates(scores_NI, candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`.

        Raises:
            ValueError: feedback is implicit.
        """
        if not self.predicts_ratings:
            raise ValueError("svd.feedback: got 'implicit', expected 'explicit' to predict values")
        predictions = self.mean + self.users_UB[users, 0] + self.items_IB[items, 0]
        predictions += pair_products(self.users_UB[:, 1:], self.items_IB[:, 1:], users, items)
        return self.clip_predictions(np.asarray(predictions, np.float32))

    def clip_predictions(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.clip_predictions`."""
        return np.clip(scores, *self.value_range) if self.config.clip_predictions else scores

    def similar(self, items: Codes) -> Scores:
        """Return cosine similarities of right vectors, scaled by singular values."""
        return cosine_similarity(self.items_IB[:, 1:] * np.sqrt(self.squared_singular_D), items)

    def arrays(self) -> StateArrays:
        """Return the learned state.

        It consists of the mean, value range, users, items, squared singular values, and the row of an unknown user.
        """
        return {
            "mean": np.array([self.mean], np.float32),
            "value_range": self.value_range,
            "users": self.users_UB,
            "items": self.items_IB,
            "squared_singular_values": self.squared_singular_D,
            "default_user": self.default_user_B,
        }

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        width = self.config.embedding_dim
        users_UB = load_array(arrays, "users", (self.schema.n_users, width + 1), np.float32)
        items_IB = load_array(arrays, "items", (self.schema.n_items, width + 1), np.float32)
        squared_singular_D = load_array(arrays, "squared_singular_values", (width,), np.float32)
        default_user_B = load_array(arrays, "default_user", (width + 1,), np.float32)
        low, high = load_array(arrays, "value_range", (2,), np.float32)
        mean = load_array(arrays, "mean", (1,), np.float32)[0]
        self._set_factors(mean, users_UB, items_IB, squared_singular_D, default_user_B, (low, high))


def _with_bias(biases_N: Scores, factors_ND: Scores) -> Scores:
    """Put biases before factors."""
    return np.concatenate([biases_N[:, None], factors_ND], axis=1, dtype=np.float32)
