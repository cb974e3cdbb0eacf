"""ALS: explicit matrix factorization with biases.

Koren, Bell and Volinsky 2009, doi:10.1109/MC.2009.263.

A rating is ``mean + b_u + b_i + p_u . q_i``. With the items fixed, the bias and factors of each user are the solution
of a small ridge regression, and vice versa. Users and items are updated alternately, exactly or approximately; in both
cases the objective never increases:

    sum (r - prediction)²  +  sum_u n_u (l2_bias b_u² + l2 |p_u|²)
        +  sum_i n_i (l2_bias (b_i - f_i.v)² + l2 |q_i - f_i W|²)  +  l2_features (|v|² + |W|²)

where n is the number of ratings (weighted regularization: Zhou et al. 2008, doi:10.1007/978-3-540-68880-8_32) or 1, and
``f_i W`` is the prior mean given by an item's features (cf. Agarwal and Chen 2009, doi:10.1145/1557019.1557029).
Without features it is 0.

Shapes: U users, I items, N queries, D dimensions including the bias, F feature columns, T ratings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import model_validator

from segue.core.config import Choices, Search, Settings, reject_unused
from segue.core.model import Validate
from segue.core.ratings import Ratings, collect_ratings, rated_events
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Events, Scores
from segue.solvers.biased_factor_model import BiasedFactorModel, pair_products
from segue.solvers.conjugate_gradient import FixedSide, cg_steps
from segue.solvers.fm.feature_matrix import feature_block
from segue.solvers.ridge import solve_rows
from segue.solvers.training_iterations import run_iterations

__all__ = ["ALS"]


class ALS(BiasedFactorModel):
    """Alternating least squares; unknown users are folded in by the same equations."""

    class Config(Settings):
        """Settings of ``als``."""

        embedding_dim: Annotated[int, Ge(1), Choices((16, 32, 64))] = 64
        """Number of factors of a user and of an item; the cost is quadratic in it."""
        iterations: Annotated[int, Ge(1)] = 15
        """Number of alternations: each solves all users, then all items."""
        solver: Literal["exact", "conjugate_gradient"] = "exact"
        """Solve rows exactly, or improve them by a few conjugate gradient steps, which reaches the same accuracy and is
        faster for an ``embedding_dim`` of 64 or more.
        """
        cg_steps: Annotated[int, Ge(1)] = 3
        """For ``conjugate_gradient``: steps for each row in each iteration."""
        l2: Annotated[float, Gt(0), Search(0.02, 0.3, log=True)] = 0.07
        """L2 regularization of factors; the most important setting."""
        l2_bias: Annotated[float, Gt(0), Search(0.005, 0.3, log=True)] = 0.03
        """L2 regularization of biases."""
        weighted: bool = True
        """Multiply the regularization of a row by its number of ratings."""
        item_features: bool = False
        """Regularize items towards a linear function of their features, not towards zero."""
        l2_features: Annotated[float, Gt(0)] = 100.0
        """L2 regularization of the function of item features."""
        clip_predictions: bool = False
        """Clip predictions to the range of the training ratings."""

        @model_validator(mode="after")
        def _all_used(self) -> Self:
            uses_cg = self.solver == "conjugate_gradient"
            reject_unused(
                self,
                {
                    "cg_steps": (uses_cg, "solver='conjugate_gradient'"),
                    "l2_features": (self.item_features, "item_features=True"),
                },
            )
            return self

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Run all iterations; log objective, training error and validation metrics.

        Raises:
            ValueError: no event has a value, or ``item_features`` is set and there are none.
        """
        config, ratings = self.config, collect_ratings(train, "als")
        if config.item_features:
            self.schema = replace(self.schema, n_without_events=0)  # the features score these items
        rng = run.rng("init")
        solver = _AlternatingSolver(config, train, ratings)
        users_UD, items_ID = (
            (0.1 * rng.standard_normal((count, config.embedding_dim + 1))).astype(np.float32)
            for count in (train.n_users, train.n_items)
        )
        users_UD[:, 0], items_ID[:, 0] = 0.0, 0.0
        value_range = float(ratings.values.min()), float(ratings.values.max())
        self._set_factors(solver.mean, users_UD, items_ID, value_range)

        def step(iteration: int) -> dict[str, float]:
            users_UD = solver.users(self.items_ID, self.users_UD)
            items_ID, metrics = solver.items(users_UD, self.items_ID)
            self._set_factors(solver.mean, users_UD, items_ID, value_range)
            return metrics

        run_iterations(
            config.iterations, step, run, arrays=self.arrays, restore=self.restore, model=self, validate=validate
        )
        # known users get the same factors as unknown users with the same history
        self._set_factors(solver.mean, solver.users(self.items_ID), self.items_ID, value_range)

    def fold_in(self, history: Events) -> Scores:
        """Solve the equations of training for these histories."""
        history = rated_events(history)
        assert history.values is not None
        targets_T = history.values - self.mean - self.items_ID[history.items, 0]
        rows_ND, _ = solve_rows(
            history.offsets,
            history.items,
            np.ones(history.size, np.float32),
            targets_T,
            self._vectors_ID,
            ridge_D=_ridge(self.config, self._vectors_ID.shape[1]),
            ridge_R=_scale(self.config, history.lengths),
        )
        return rows_ND


class _AlternatingSolver:
    """Solver of the equations of users given the items, and of items given the users."""

    def __init__(self, config: ALS.Config, train: Dataset, ratings: Ratings) -> None:
        self.config, self.ratings = config, ratings
        self.mean = float(ratings.values.mean(dtype=np.float64))
        self.residuals_T = (ratings.values - np.float32(self.mean)).astype(np.float32)
        self.ones_T = np.ones(len(ratings.values), np.float32)
        self.item_users_T, self.item_residuals_T = ratings.users[ratings.order], self.residuals_T[ratings.order]
        self.features_IF = (
            feature_block(train.item_features, train.n_items, "als.item_features") if config.item_features else None
        )
        self.ridge_D = _ridge(config, config.embedding_dim + 1)
        self.scale_U, self.scale_I = _scale(config, ratings.counts), _scale(config, ratings.item_counts)

    def users(self, items_ID: Scores, users_UD: Scores | None = None) -> Scores:
        """Solve all users given the items.

        Improve ``users_UD``, or solve exactly without them.
        """
        ratings = self.ratings
        targets_T = self.residuals_T - items_ID[ratings.items, 0]
        arguments = ratings.offsets, ratings.items, targets_T, _with_one(items_ID)
        if self.config.solver == "exact" or users_UD is None:
            return self._solve_exact(*arguments, self.scale_U)[0]
        return self._improve(*arguments, self.scale_U, users_UD)[0]

    def items(self, users_UD: Scores, items_ID: Scores) -> tuple[Scores, dict[str, float]]:
        """Solve all items given the users.

        Return the items, the objective and the training error.
        """
        prior_ID = self._prior(items_ID)
        targets_T = self.item_residuals_T - users_UD[self.item_users_T, 0]
        arguments = self.ratings.item_offsets, self.item_users_T, targets_T, _with_one(users_UD)
        if self.config.solver == "exact":
            new_items_ID, gains_I = self._solve_exact(*arguments, self.scale_I, prior_ID)
            # at the solution, squared errors plus penalty are the right-hand side minus the gains
            objective = _squares(targets_T) + self._penalty(prior_ID) - gains_I.sum(dtype=np.float64)
        else:
            if self.features_IF is not None:  # solve for deviations from the prior
                item_codes = np.repeat(np.arange(len(prior_ID), dtype=np.int32), self.ratings.item_counts)
                targets_T -= pair_products(prior_ID, arguments[-1], item_codes, self.item_users_T)
            new_items_ID, gains_I = self._improve(*arguments, self.scale_I, items_ID - prior_ID)
            new_items_ID += prior_ID
            objective = _squares(targets_T) - gains_I.sum(dtype=np.float64)
        errors = objective - self._penalty(new_items_ID - prior_ID)
        ridge = objective - errors + float((self.scale_U @ np.square(users_UD, dtype=np.float64)) @ self.ridge_D)
        rmse = float(np.sqrt(max(errors, 0.0) / len(targets_T)))
        return new_items_ID, {"loss": errors + ridge + self.feature_ridge, "train/rmse": rmse}

    def _solve_exact(
        self,
        offsets: NDArray[np.int64],
        columns: Codes,
        targets_T: Scores,
        vectors_CD: Scores,
        scale_R: Scores,
        prior_RD: Scores | None = None,
    ) -> tuple[Scores, Scores]:
        ridges = {"ridge_D": self.ridge_D, "ridge_R": scale_R}
        return solve_rows(offsets, columns, self.ones_T, targets_T, vectors_CD, **ridges, prior_RD=prior_RD)

    def _improve(
        self,
        offsets: NDArray[np.int64],
        columns: Codes,
        targets_T: Scores,
        vectors_CD: Scores,
        scale_R: Scores,
        rows_RD: Scores,
    ) -> tuple[Scores, Scores]:
        """Improve ``rows_RD`` by the configured solver.

        The rows are in units in which all dimensions have the same regularization.
        """
        scales_D: Scores = np.sqrt(self.ridge_D).astype(np.float32)
        scaled_CD: Scores = vectors_CD / scales_D
        start_RD: Scores = rows_RD * scales_D
        problem = offsets, columns, self.ones_T, targets_T, FixedSide.of(scaled_CD), start_RD
        improved_RD, gains_R = cg_steps(self.config.cg_steps, *problem, ridge_R=scale_R)
        improved_RD /= scales_D
        return improved_RD, gains_R

    def _prior(self, items_ID: Scores) -> Scores:
        """Return the prior means of the items.

        They are the predictions of a ridge regression of the items on their features.
        """
        self.feature_ridge = 0.0
        if self.features_IF is None:
            return np.zeros_like(items_ID)
        weighted_FI = self.features_IF.T.multiply(self.scale_I).tocsr()
        gram_FF = (weighted_FI @ self.features_IF).toarray().astype(np.float64)
        targets_FD = (weighted_FI @ items_ID).astype(np.float64)
        weights_FD = np.empty_like(targets_FD)
        for ridge in np.unique(self.ridge_D):
            is_same = self.ridge_D == ridge
            matrix_FF = ridge * gram_FF + self.config.l2_features * np.eye(len(gram_FF))
            weights_FD[:, is_same] = np.linalg.solve(matrix_FF, ridge * targets_FD[:, is_same])
        self.feature_ridge = self.config.l2_features * _squares(weights_FD)
        return np.asarray(self.features_IF @ weights_FD, np.float32)

    def _penalty(self, deviations_ID: Scores) -> float:
        """Return the regularization term of items with these deviations from their prior."""
        return float((self.scale_I @ np.square(deviations_ID, dtype=np.float64)) @ self.ridge_D)


def _ridge(config: ALS.Config, width: int) -> Scores:
    """Return the ``(D,)`` regularization by dimension, the bias first."""
    ridge_D = np.full(width, config.l2, np.float32)
    ridge_D[0] = config.l2_bias
    return ridge_D


def _scale(config: ALS.Config, counts_R: NDArray[np.int64]) -> Scores:
    """Return the ``(R,)`` factor of the regularization of each row."""
    return np.maximum(counts_R, 1).astype(np.float32) if config.weighted else np.ones(len(counts_R), np.float32)


def _with_one(rows_RD: Scores) -> Scores:
    """Replace the biases by 1.

    The result holds the vectors that the bias and factors of the other side are multiplied by.
    """
    ones_RD = rows_RD.copy()
    ones_RD[:, 0] = 1.0
    return ones_RD


def _squares(values: NDArray[Any]) -> float:
    return float(np.square(values, dtype=np.float64).sum())
