"""NMF: nonnegative matrix factorization (Lee and Seung 2001, NIPS 13).

With implicit feedback, the interaction matrix X, with zeros for unobserved pairs, is approximated by ``P Q'`` with the
least squared error:

    |X - P Q'|²  +  l2 (sum_u n_u |p_u|² + sum_i n_i |q_i|²)

with n the number of events or 1. With explicit feedback, only observed ratings count (Zhang et al. 2006,
doi:10.1137/1.9781611972764.58). Users and items are updated alternately, by coordinate descent (Cichocki and Phan 2009)
or multiplicative updates; neither increases the objective. Because factors only add up, each can be interpreted by the
items with the largest weights.

Shapes: U users, I items, N queries, C candidates, T events, D dimensions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import model_validator
from scipy.sparse import csr_array

from segue.core.config import Search, Settings, reject_unused
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.ratings import Ratings, collect_ratings, rated_events
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Events, Queries, Scores
from segue.solvers.biased_factor_model import cosine_similarity, pair_products
from segue.solvers.history_matrix import weighted_matrix
from segue.solvers.nonnegative_updates import update_dense, update_observed
from segue.solvers.ridge import gram
from segue.solvers.training_iterations import run_iterations

__all__ = ["NMF"]

MAX_FOLD_IN_PASSES, TOLERANCE = 200, 1e-4
"""Maximum number of passes when folding in, and the change below which they stop."""


class NMF(Solver):
    """Nonnegative factors; all users are folded in from their history."""

    class Config(Settings):
        """Settings of ``nmf``."""

        embedding_dim: Annotated[int, Ge(1), Search(8, 128, log=True)] = 64
        """Number of factors of a user and of an item."""
        iterations: Annotated[int, Ge(1)] = 50
        """Number of alternations: each updates all users, then all items."""
        feedback: Literal["implicit", "explicit"] = "implicit"
        """``implicit``: rank items by interactions; ``explicit``: predict values, such as ratings."""
        weights: Literal["binary", "values"] = "binary"
        """For implicit feedback: every event weighs 1, or its value, which must not be negative."""
        solver: Literal["coordinate", "multiplicative"] = "coordinate"
        """Coordinate descent, or multiplicative updates as in the paper, which need many more iterations."""
        l2: Annotated[float, Ge(0), Search(0.01, 1.0, log=True)] = 0.1
        """L2 regularization of factors."""
        weighted: bool = True
        """Multiply the regularization of a row by its number of events."""
        clip_predictions: bool = False
        """Clip predictions to the range of the training values."""

        @model_validator(mode="after")
        def _all_used(self) -> Self:
            is_implicit = self.feedback == "implicit"
            reject_unused(
                self,
                {
                    "weights": (is_implicit, "feedback='implicit'"),
                    "clip_predictions": (not is_implicit, "feedback='explicit'"),
                },
            )
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        users_UD = np.zeros((schema.n_users, config.embedding_dim), np.float32)
        items_ID = np.zeros((schema.n_items, config.embedding_dim), np.float32)
        self._set_factors(users_UD, items_ID, np.zeros(config.embedding_dim, np.float32), (0.0, 0.0))

    def _set_factors(
        self, users_UD: Scores, items_ID: Scores, default_user_D: Scores, value_range: tuple[float, float]
    ) -> None:
        """Set the learned factors and compute the item Gram matrix, which queries need."""
        self.users_UD, self.items_ID, self.default_user_D = users_UD, items_ID, default_user_D
        self.value_range = np.asarray(value_range, np.float32)
        self._gram_DD = gram(items_ID)

    @property
    def predicts_ratings(self) -> bool:
        """Return whether feedback is explicit."""
        return bool(self.config.feedback == "explicit")

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Run all iterations; log the objective of each.

        Raises:
            ValueError: values are needed and there are none, or one is negative.
        """
        config, rng = self.config, run.rng("init")
        value_range, problem = self._problem(train)
        scale = np.sqrt(problem.mean / config.embedding_dim)
        users_UD, items_ID = (
            (scale * np.abs(rng.standard_normal((count, config.embedding_dim)))).astype(np.float32)
            for count in (train.n_users, train.n_items)
        )

        def step(iteration: int) -> dict[str, float]:
            nonlocal users_UD, items_ID
            users_UD = problem.users(users_UD, items_ID)
            items_ID, metrics = problem.items(users_UD, items_ID)
            return metrics

        def restore(arrays: StateArrays) -> None:
            nonlocal users_UD, items_ID
            users_UD = load_array(arrays, "users", users_UD.shape, np.float32)
            items_ID = load_array(arrays, "items", items_ID.shape, np.float32)

        def publish() -> None:
            published_ID = items_ID
            if self.predicts_ratings:  # unrated items get the mean of the rated ones
                published_ID = np.where(problem.items_I[:, None], items_ID, items_ID[problem.items_I].mean(axis=0))
            self._set_factors(users_UD, published_ID, users_UD[problem.users_U].mean(axis=0), value_range)
            self._set_factors(self.fold_in(train.histories), published_ID, self.default_user_D, value_range)

        run_iterations(
            config.iterations,
            step,
            run,
            arrays=lambda: {"users": users_UD, "items": items_ID},
            restore=restore,
            model=self,
            validate=validate,
            validate_every=config.iterations,
            publish=publish,
        )

    def _problem(self, train: Dataset) -> tuple[tuple[float, float], _DenseProblem | _ObservedProblem]:
        """Return the range of the values, if they matter, and the optimization problem."""
        config = self.config
        if not self.predicts_ratings and config.weights == "binary":
            return (0.0, 0.0), _DenseProblem(weighted_matrix(train.histories, train.n_items, "binary"), config)
        setting = "feedback='explicit'" if self.predicts_ratings else "weights='values'"
        ratings = collect_ratings(train, f"nmf with {setting}")
        value_range = float(ratings.values.min()), float(ratings.values.max())
        if value_range[0] < 0:
            raise ValueError(f"nmf: got an event with value {value_range[0]:g}, expected values of at least 0")
        if self.predicts_ratings:
            return value_range, _ObservedProblem(ratings, config)
        return value_range, _DenseProblem(weighted_matrix(train.histories, train.n_items, "values"), config)

    def fold_in(self, history: Events) -> Scores:
        """Compute the ``(N, D)`` best factors for each history.

        An uninformative history gets the factors of an unknown user.
        """
        if self.predicts_ratings:
            known = rated_events(history)
            assert known.values is not None
            start_ND, ridge_N = np.tile(self.default_user_D, (len(history), 1)), _ridge(known.lengths, self.config)
            arguments = known.offsets, known.items, known.values, self.items_ID, start_ND
            return update_observed(*arguments, ridge_R=ridge_N, passes=MAX_FOLD_IN_PASSES, tolerance=TOLERANCE)[0]
        table_NI = weighted_matrix(history, self.schema.n_items, self.config.weights)
        lengths_N = np.diff(table_NI.indptr)
        start_ND, ridge_N = np.tile(self.default_user_D, (len(history), 1)), _ridge(lengths_N, self.config)
        targets_ND = np.asarray(table_NI @ self.items_ID)
        rows_ND = update_dense(
            targets_ND, self._gram_DD, start_ND, ridge_R=ridge_N, passes=MAX_FOLD_IN_PASSES, tolerance=TOLERANCE
        )
        is_empty = ~rows_ND.any(axis=1)
        rows_ND[is_empty] = self.default_user_D
        return rows_ND

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Fold in each history.

        A known user with an uninformative history keeps the factors from training.
        """
        rows_ND = self.fold_in(queries.history)
        informative = (
            rated_events(queries.history)
            if self.predicts_ratings or self.config.weights == "values"
            else queries.history
        )
        is_empty = queries.known & (informative.lengths == 0)
        rows_ND[is_empty] = self.users_UD[queries.users[is_empty]]
        return rows_ND

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the item factors, ``(n_items, D)``."""
        return self.items_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return zeros, ``(n_items,)``."""
        return np.zeros(self.schema.n_items, np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Compute the cells of ``P Q'``, which are never negative.

        With explicit feedback they are predicted values.
        """
        return select_candidates(self.encode(queries) @ self.items_ID.T, candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`.

        Raises:
            ValueError: feedback is implicit.
        """
        if not self.predicts_ratings:
            raise ValueError("nmf.feedback: got 'implicit', expected 'explicit' to predict values")
        predictions = pair_products(self.users_UD, self.items_ID, users, items)
        return self.clip_predictions(predictions)

    def clip_predictions(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.clip_predictions`."""
        return np.clip(scores, *self.value_range) if self.config.clip_predictions else scores

    def similar(self, items: Codes) -> Scores:
        """Return cosine similarities of item factors."""
        return cosine_similarity(self.items_ID, items)

    def arrays(self) -> StateArrays:
        """Return factors of users, of items and of an unknown user, and the value range."""
        return {
            "users": self.users_UD,
            "items": self.items_ID,
            "default_user": self.default_user_D,
            "value_range": self.value_range,
        }

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        width = self.config.embedding_dim
        users_UD = load_array(arrays, "users", (self.schema.n_users, width), np.float32)
        items_ID = load_array(arrays, "items", (self.schema.n_items, width), np.float32)
        low, high = load_array(arrays, "value_range", (2,), np.float32)
        self._set_factors(users_UD, items_ID, load_array(arrays, "default_user", (width,), np.float32), (low, high))


class _DenseProblem:
    """Optimization problem that fits all cells of the matrix."""

    def __init__(self, table_UI: csr_array[Any], config: NMF.Config) -> None:
        self.table_UI, self.table_IU = table_UI, csr_array(table_UI.T)
        self.multiplicative = config.solver == "multiplicative"
        counts_U, counts_I = np.diff(table_UI.indptr), np.diff(self.table_IU.indptr)
        self.users_U, self.items_I = counts_U > 0, counts_I > 0
        self.ridge_U, self.ridge_I = _ridge(counts_U, config), _ridge(counts_I, config)
        self.squares = _squares(table_UI.data)
        self.mean = float(table_UI.sum(dtype=np.float64)) / max(1, table_UI.shape[0] * table_UI.shape[1])

    def users(self, users_UD: Scores, items_ID: Scores) -> Scores:
        """Improve users, given the items."""
        targets_UD = self.table_UI @ items_ID
        return update_dense(
            targets_UD, gram(items_ID), users_UD, ridge_R=self.ridge_U, multiplicative=self.multiplicative
        )

    def items(self, users_UD: Scores, items_ID: Scores) -> tuple[Scores, dict[str, float]]:
        """Improve items, given the users; return them and the objective."""
        targets_ID, gram_DD = self.table_IU @ users_UD, gram(users_UD)
        items_ID = update_dense(targets_ID, gram_DD, items_ID, ridge_R=self.ridge_I, multiplicative=self.multiplicative)
        product = float(np.einsum("id,id->", items_ID, targets_ID, dtype=np.float64))
        squared_product = float(np.einsum("ab,ab->", gram(items_ID), gram_DD, dtype=np.float64))
        penalty = float(self.ridge_U @ _rows_squared(users_UD) + self.ridge_I @ _rows_squared(items_ID))
        return items_ID, {"loss": self.squares - 2 * product + squared_product + penalty}


class _ObservedProblem:
    """Optimization problem that fits the observed cells only."""

    def __init__(self, ratings: Ratings, config: NMF.Config) -> None:
        self.ratings, self.multiplicative = ratings, config.solver == "multiplicative"
        self.item_users_values = ratings.users[ratings.order], ratings.values[ratings.order]
        self.users_U, self.items_I = ratings.counts > 0, ratings.item_counts > 0
        self.ridge_U, self.ridge_I = _ridge(ratings.counts, config), _ridge(ratings.item_counts, config)
        self.mean = max(float(ratings.values.mean(dtype=np.float64)), np.finfo(np.float32).tiny)

    def users(self, users_UD: Scores, items_ID: Scores) -> Scores:
        """Improve users, given the items."""
        ratings = self.ratings
        arguments = ratings.offsets, ratings.items, ratings.values, items_ID, users_UD
        return update_observed(*arguments, ridge_R=self.ridge_U, multiplicative=self.multiplicative)[0]

    def items(self, users_UD: Scores, items_ID: Scores) -> tuple[Scores, dict[str, float]]:
        """Improve items, given the users.

        Return the items, the objective and the training error.
        """
        arguments = self.ratings.item_offsets, *self.item_users_values, users_UD, items_ID
        items_ID, squares_I = update_observed(*arguments, ridge_R=self.ridge_I, multiplicative=self.multiplicative)
        total = float(squares_I.sum(dtype=np.float64))
        penalties = (
            (self.ridge_U * self.users_U) @ _rows_squared(users_UD),
            (self.ridge_I * self.items_I) @ _rows_squared(items_ID),
        )
        return items_ID, {
            "loss": total + float(sum(penalties)),
            "train/rmse": float(np.sqrt(total / len(self.item_users_values[0]))),
        }


def _ridge(counts_R: NDArray[np.integer[Any]], config: NMF.Config) -> Scores:
    """Return the ``(R,)`` regularization of rows with these numbers of events."""
    scale_R = np.maximum(counts_R, 1) if config.weighted else np.ones(len(counts_R))
    return (config.l2 * scale_R).astype(np.float32)


def _squares(values: NDArray[Any]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _rows_squared(rows_RD: Scores) -> NDArray[np.float64]:
    squares_R: NDArray[np.float64] = np.square(rows_RD, dtype=np.float64).sum(axis=1)
    return squares_R
