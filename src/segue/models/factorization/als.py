"""ALS: explicit matrix factorisation with biases (Koren, Bell and Volinsky 2009, doi:10.1109/MC.2009.263).

A rating is ``mean + b_u + b_i + p_u . q_i``. Users and items take turns: with one side fixed, the other's biases and
factors are the solutions of small ridge regressions, solved exactly or approached, so that the objective never rises:

    sum (r - prediction)²  +  sum_u n_u (l2_bias b_u² + l2 |p_u|²)
        +  sum_i n_i (l2_bias (b_i - f_i.v)² + l2 |q_i - f_i W|²)  +  l2_features (|v|² + |W|²)

with n the number of ratings (weighted lambda: Zhou et al. 2008, doi:10.1007/978-3-540-68880-8_32) or 1, and f_i W the
place that an item's features pull it to (cf. Agarwal and Chen 2009, doi:10.1145/1557019.1557029), 0 without features.

Shapes: U users, I items, N queries, D width with the bias, F columns of features, T ratings.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.model import Validate
from segue.core.ratings import Ratings, ratings_of, valued
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Events, Scores
from segue.solvers.biased_factor_model import RatingFactors, pair_products
from segue.solvers.conjugate_gradient import Fixed, approached
from segue.solvers.fm.feature_matrix import design
from segue.solvers.ridge import solve_rows
from segue.solvers.training_iterations import sweeps

__all__ = ["ALS"]


class ALS(RatingFactors):
    """Alternating least squares; a new person is folded in from a few ratings, by the same equations."""

    class Config(Settings):
        """Settings of ``als``."""

        width: Annotated[int, Ge(1)] = 64
        """Factors of a user and of an item; more fit finer, and cost their square."""
        sweeps: Annotated[int, Ge(1)] = 15
        """Times that all users and then all items are solved."""
        solver: Literal["exact", "conjugate_gradient"] = "exact"
        """How a row is solved: exactly, or by a few steps towards the solution, which is as good, and faster
        where width is 64 or more."""
        steps: Annotated[int, Ge(1)] = 3
        """Of ``conjugate_gradient``: steps for each row in each sweep."""
        l2: Annotated[float, Gt(0)] = 0.07
        """Ridge of the factors; the setting that matters most."""
        l2_bias: Annotated[float, Gt(0)] = 0.03
        """Ridge of the biases."""
        weighted: bool = True
        """Whether a row's ridge grows with its number of ratings."""
        item_features: bool = False
        """Whether items are pulled to where their features say, instead of to zero."""
        l2_features: Annotated[float, Gt(0)] = 100.0
        """Ridge of what features say."""
        clip: bool = False
        """Whether predictions stay within the lowest and the highest rating of the training data."""

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Sweep; each sweep's objective, root of the mean squared error and validation go into the run's history.

        Raises:
            ValueError: no event has a value, or features are asked for and there are none.
        """
        config, ratings = self.config, ratings_of(train, "als")
        rng = run.rng("init")
        sides = _Sides(config, train, ratings)
        users_UD, items_ID = (
            (0.1 * rng.standard_normal((count, config.width + 1))).astype(np.float32)
            for count in (train.n_users, train.n_items)
        )
        users_UD[:, 0], items_ID[:, 0] = 0.0, 0.0
        limits = float(ratings.values.min()), float(ratings.values.max())
        self._keep(sides.mean, users_UD, items_ID, limits)

        def once(sweep: int) -> dict[str, float]:
            users_UD = sides.users(self.items_ID, self.users_UD)
            items_ID, told = sides.items(users_UD, self.items_ID)
            self._keep(sides.mean, users_UD, items_ID, limits)
            return told

        sweeps(config.sweeps, once, run, arrays=self.arrays, restore=self.restore, model=self, validate=validate)
        # users as they are folded in: who was there in training is answered like anyone with his history
        self._keep(sides.mean, sides.users(self.items_ID), self.items_ID, limits)

    def fold_in(self, history: Events) -> Scores:
        """The same equations as in training, for histories that need not have been there."""
        history = valued(history)
        assert history.values is not None
        sides = history.values - self.mean - self.items_ID[history.items, 0]
        rows_ND, _ = solve_rows(
            history.offsets,
            history.items,
            np.ones(history.size, np.float32),
            sides,
            self._vectors_ID,
            ridge_D=_ridge(self.config, self._vectors_ID.shape[1]),
            ridge_R=_scale(self.config, history.lengths),
        )
        return rows_ND


class _Sides:
    """The equations of either side, given the other."""

    def __init__(self, config: ALS.Config, train: Dataset, ratings: Ratings) -> None:
        self.config, self.ratings = config, ratings
        self.mean = float(ratings.values.mean(dtype=np.float64))
        self.residuals_T = (ratings.values - np.float32(self.mean)).astype(np.float32)
        self.ones_T = np.ones(len(ratings.values), np.float32)
        self.by_item, self.residuals_by_item = ratings.users[ratings.order], self.residuals_T[ratings.order]
        self.features_IF = (
            design(train.item_features, train.n_items, "als.item_features") if config.item_features else None
        )
        self.ridge_D = _ridge(config, config.width + 1)
        self.scale_U, self.scale_I = _scale(config, ratings.counts), _scale(config, ratings.item_counts)

    def users(self, items_ID: Scores, users_UD: Scores | None = None) -> Scores:
        """All users, given the items: from where they are, or without that exactly."""
        ratings = self.ratings
        sides_T = self.residuals_T - items_ID[ratings.items, 0]
        table = ratings.offsets, ratings.items, sides_T, _with_one(items_ID)
        if self.config.solver == "exact" or users_UD is None:
            return self._solved(*table, self.scale_U)[0]
        return self._approached(*table, self.scale_U, users_UD)[0]

    def items(self, users_UD: Scores, items_ID: Scores) -> tuple[Scores, dict[str, float]]:
        """All items, given the users; and the objective that the two come to, with its mean squared error's root."""
        prior_ID = self._prior(items_ID)
        sides_T = self.residuals_by_item - users_UD[self.by_item, 0]
        table = self.ratings.item_offsets, self.by_item, sides_T, _with_one(users_UD)
        if self.config.solver == "exact":
            found_ID, gains_I = self._solved(*table, self.scale_I, prior_ID)
            # at a solution the squared errors and their ridge are what stood on the right side, less what was gained
            least = _squares(sides_T) + self._pull(prior_ID) - gains_I.sum(dtype=np.float64)
        else:
            if self.features_IF is not None:  # from here on, what is above the prior
                rows = np.repeat(np.arange(len(prior_ID), dtype=np.int32), self.ratings.item_counts)
                sides_T -= pair_products(prior_ID, table[-1], rows, self.by_item)
            found_ID, gains_I = self._approached(*table, self.scale_I, items_ID - prior_ID)
            found_ID += prior_ID
            least = _squares(sides_T) - gains_I.sum(dtype=np.float64)
        errors = least - self._pull(found_ID - prior_ID)
        ridge = least - errors + float((self.scale_U @ np.square(users_UD, dtype=np.float64)) @ self.ridge_D)
        rmse = float(np.sqrt(max(errors, 0.0) / len(sides_T)))
        return found_ID, {"loss": errors + ridge + self.feature_ridge, "train/rmse": rmse}

    def _solved(
        self,
        offsets: NDArray[np.int64],
        columns: Codes,
        sides_T: Scores,
        vectors_CD: Scores,
        scale_R: Scores,
        prior_RD: Scores | None = None,
    ) -> tuple[Scores, Scores]:
        ridges = {"ridge_D": self.ridge_D, "ridge_R": scale_R}
        return solve_rows(offsets, columns, self.ones_T, sides_T, vectors_CD, **ridges, prior_RD=prior_RD)

    def _approached(
        self,
        offsets: NDArray[np.int64],
        columns: Codes,
        sides_T: Scores,
        vectors_CD: Scores,
        scale_R: Scores,
        rows_RD: Scores,
    ) -> tuple[Scores, Scores]:
        """Better rows than ``rows_RD``, in units in which all dimensions have the same ridge."""
        roots_D: Scores = np.sqrt(self.ridge_D).astype(np.float32)
        scaled_CD: Scores = vectors_CD / roots_D
        begun_RD: Scores = rows_RD * roots_D
        problem = offsets, columns, self.ones_T, sides_T, Fixed.of(scaled_CD), begun_RD
        found_RD, gains_R = approached(self.config.steps, *problem, ridge_R=scale_R)
        found_RD /= roots_D
        return found_RD, gains_R

    def _prior(self, items_ID: Scores) -> Scores:
        """Where the items' features pull them to: the ridge regression of the items as they are on their features."""
        self.feature_ridge = 0.0
        if self.features_IF is None:
            return np.zeros_like(items_ID)
        weighed_FI = self.features_IF.T.multiply(self.scale_I).tocsr()
        gram_FF = (weighed_FI @ self.features_IF).toarray().astype(np.float64)
        sides_FD = (weighed_FI @ items_ID).astype(np.float64)
        weights_FD = np.empty_like(sides_FD)
        for ridge in np.unique(self.ridge_D):
            same = self.ridge_D == ridge
            below_FF = ridge * gram_FF + self.config.l2_features * np.eye(len(gram_FF))
            weights_FD[:, same] = np.linalg.solve(below_FF, ridge * sides_FD[:, same])
        self.feature_ridge = self.config.l2_features * _squares(weights_FD)
        return np.asarray(self.features_IF @ weights_FD, np.float32)

    def _pull(self, apart_ID: Scores) -> float:
        """The ridge of items that are so far from where they are pulled."""
        return float((self.scale_I @ np.square(apart_ID, dtype=np.float64)) @ self.ridge_D)


def _ridge(config: ALS.Config, width: int) -> Scores:
    """``(D,)`` by dimension, the bias first."""
    ridge_D = np.full(width, config.l2, np.float32)
    ridge_D[0] = config.l2_bias
    return ridge_D


def _scale(config: ALS.Config, counts_R: NDArray[np.int64]) -> Scores:
    """``(R,)`` what a row's ridge is multiplied with."""
    return np.maximum(counts_R, 1).astype(np.float32) if config.weighted else np.ones(len(counts_R), np.float32)


def _with_one(rows_RD: Scores) -> Scores:
    """The rows with 1 in the place of the bias: what the other side's bias and factors are multiplied with."""
    ones_RD = rows_RD.copy()
    ones_RD[:, 0] = 1.0
    return ones_RD


def _squares(values: NDArray[Any]) -> float:
    return float(np.square(values, dtype=np.float64).sum())
