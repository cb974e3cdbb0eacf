"""PMF: probabilistic matrix factorization (Salakhutdinov and Mnih 2007, NIPS 20).

Ratings are normal around ``mean + p_u . q_i``, and factors are normal around zero. The most probable factors minimize

    sum (r - mean - p_u . q_i)²  +  l2 (sum_u n_u |p_u|² + sum_i n_i |q_i|²)

with n the number of ratings or 1 (eq. 4). They are computed by minibatch gradient descent with momentum, as in the
paper. With ``use_sigmoid``, a rating is ``low + (high - low) g(c + p_u . q_i)``, with g the logistic function (eq. 5)
and a constant c, so that predictions never leave the scale of the data.

Shapes: U users, I items, N queries, T ratings, D dimensions, B dimensions including a bias of 0.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from pydantic import model_validator

from segue.core.config import Search, Settings, reject_unused
from segue.core.model import StateArrays, Validate
from segue.core.model_arrays import load_array
from segue.core.ratings import collect_ratings, rated_events
from segue.core.run import Run
from segue.core.types import DataSchema, Dataset, Events, Scores
from segue.solvers.biased_factor_model import BiasedFactorModel, pair_products
from segue.solvers.momentum_sgd import FactorSide, momentum_sgd_epoch
from segue.solvers.ridge import solve_rows
from segue.solvers.standardize import standardize, unstandardize
from segue.solvers.training_iterations import run_iterations

__all__ = ["PMF"]

INITIAL_STD = 0.1
"""Standard deviation of the initial factors."""
CURVATURE = 0.0771
"""Upper bound of half the second derivative of ``(t - g(s))²`` for any s and any t between 0 and 1."""
FOLD_IN_STEPS = 10
"""Number of steps when folding in with ``use_sigmoid``."""
MARGIN = 1e-3
"""Smallest distance of the mean from the ends of the scale with ``use_sigmoid``."""
INFINITE_RIDGE = 1e30
"""Regularization that keeps the bias at 0."""


class PMF(BiasedFactorModel):
    """Compute the most probable factors by gradient descent.

    Unknown users are folded in by ridge regression.
    """

    class Config(Settings):
        """Settings of ``pmf``."""

        embedding_dim: Annotated[int, Ge(1), Search(8, 64, log=True)] = 30
        """Number of factors of a user and of an item."""
        iterations: Annotated[int, Ge(1)] = 60
        """Number of passes over the ratings."""
        batch_size: Annotated[int, Ge(1)] = 1000
        """Number of ratings of a batch."""
        learning_rate: Annotated[float, Gt(0), Search(1e-3, 0.02, log=True)] = 0.005
        """Step size for each rating, for values scaled to standard deviation 1 (with ``use_sigmoid``, to range 1)."""
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.8
        """Fraction of the previous update that is added to the next."""
        l2: Annotated[float, Gt(0), Search(0.03, 0.5, log=True)] = 0.12
        """L2 regularization of factors: variance of the noise divided by that of a factor."""
        weighted: bool = True
        """Multiply the regularization of a row by its number of ratings, as in the authors' program."""
        use_sigmoid: bool = False
        """Map scores to the scale of the data by a logistic function."""
        clip_predictions: bool = False
        """Clip predictions to the range of the training ratings."""

        @model_validator(mode="after")
        def _all_used(self) -> Self:
            reject_unused(self, {"clip_predictions": (not self.use_sigmoid, "use_sigmoid=False")})
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.extra_arrays["std"] = np.ones(1, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Run all iterations; log the objective, with each error before its update.

        Raises:
            ValueError: no event has a value, or training diverged.
        """
        config, ratings = self.config, collect_ratings(train, "pmf")
        value_range = float(ratings.values.min()), float(ratings.values.max())
        mean, std, targets_T, rmse_unit = self._targets(ratings.values, value_range)
        rng = run.rng("init")
        state = {
            name: INITIAL_STD * rng.standard_normal((count, config.embedding_dim), np.float32)
            for name, count in (("users", train.n_users), ("items", train.n_items))
        }
        state |= {f"{name}_velocity": np.zeros_like(rows) for name, rows in state.items()}
        ridges = {"users": self._scale(ratings.counts), "items": self._scale(ratings.item_counts)}

        def step(iteration: int) -> dict[str, float]:
            factor_sides = [
                FactorSide(state[name], state[f"{name}_velocity"], config.l2 * ridge) for name, ridge in ridges.items()
            ]
            total = momentum_sgd_epoch(
                ratings.users,
                ratings.items,
                targets_T,
                (factor_sides[0], factor_sides[1]),
                run.rng(f"sweep/{iteration}").permutation(len(targets_T)),
                offset=mean if config.use_sigmoid else 0.0,
                batch=config.batch_size,
                step=config.learning_rate,
                momentum=config.momentum,
                use_sigmoid=config.use_sigmoid,
            )
            if not np.isfinite(total):
                advice = "try a lower learning_rate, batch_size or momentum"
                raise ValueError(f"pmf: training diverged in iteration {iteration + 1}; {advice}")
            penalty = sum(
                float(side.ridge_R @ np.square(side.rows_RD, dtype=np.float64).sum(axis=1)) for side in factor_sides
            )
            return {"loss": total + penalty, "train/rmse": float(np.sqrt(total / len(targets_T))) * rmse_unit}

        def restore(arrays: StateArrays) -> None:
            state.update(
                {name: load_array(arrays, name, array.shape, np.float32).copy() for name, array in state.items()}
            )

        def publish() -> None:
            users_UB, items_IB = (unstandardize(_with_bias(state[name]), std) for name in ridges)
            self.extra_arrays["std"] = np.array([std], np.float32)
            self._set_factors(mean, users_UB, items_IB, value_range)

        run_iterations(
            config.iterations,
            step,
            run,
            arrays=lambda: state,
            restore=restore,
            model=self,
            validate=validate,
            publish=publish,
        )
        # known users get the same factors as unknown users with the same history
        self._set_factors(mean, self.fold_in(train.histories), self.items_ID, value_range)

    def _targets(self, values_T: Scores, value_range: tuple[float, float]) -> tuple[float, float, Scores, float]:
        """Return the targets, and the constants that relate products to ratings.

        The result is the offset added to a product, the unit of the products, the targets, and the unit of the error.
        """
        if not self.config.use_sigmoid:
            mean, std, targets_T = standardize(values_T)
            return mean, std, targets_T, std
        targets_T = _to_unit_interval(values_T, *value_range)
        middle = min(max(float(targets_T.mean(dtype=np.float64)), MARGIN), 1.0 - MARGIN)
        return float(np.log(middle / (1.0 - middle))), 1.0, targets_T, value_range[1] - value_range[0]

    def _scale(self, counts_R: NDArray[np.int64]) -> Scores:
        """Return the ``(R,)`` factor of the regularization of each row."""
        counts_R = np.maximum(counts_R, 1) if self.config.weighted else np.ones_like(counts_R)
        return counts_R.astype(np.float32)

    def clip_predictions(self, scores: Scores) -> Scores:
        """Apply the logistic function with ``use_sigmoid``; otherwise clip if configured."""
        if not self.config.use_sigmoid:
            return super().clip_predictions(scores)
        low, high = self.value_range
        predicted: Scores = low + (high - low) * _logistic(scores)
        return predicted

    def fold_in(self, history: Events) -> Scores:
        """Compute the factors that minimize the objective, given the items."""
        known = rated_events(history)
        assert known.values is not None
        ridge_B = np.full(self.config.embedding_dim + 1, self.config.l2 * self.extra_arrays["std"][0], np.float32)
        ridge_B[0] = INFINITE_RIDGE

        def solve(right_sides_T: Scores, scale: float) -> Scores:
            return solve_rows(
                known.offsets,
                known.items,
                np.ones(known.size, np.float32),
                right_sides_T,
                self._vectors_ID,
                ridge_D=ridge_B,
                ridge_R=self._scale(known.lengths) / np.float32(scale),
            )[0]

        if not self.config.use_sigmoid:
            return solve(known.values - self.mean, 1.0)
        # the squared error is bounded by a parabola that touches it at the current row: each step minimizes that bound
        targets_T = _to_unit_interval(known.values, *self.value_range)
        rows_NB = np.zeros((len(history), self.config.embedding_dim + 1), np.float32)
        row_codes = known.rows.astype(np.int32)
        for _ in range(FOLD_IN_STEPS):
            sums_T = pair_products(rows_NB, self._vectors_ID, row_codes, known.items)
            predicted_T = _logistic(sums_T + self.mean)
            gradient_T = (targets_T - predicted_T) * predicted_T * (1 - predicted_T)
            rows_NB = solve(sums_T + gradient_T / np.float32(CURVATURE), CURVATURE)
        return rows_NB


def _with_bias(rows_RD: Scores) -> Scores:
    return np.concatenate([np.zeros((len(rows_RD), 1), np.float32), rows_RD], axis=1)


def _to_unit_interval(values_T: Scores, low: float, high: float) -> Scores:
    """Scale values to [0, 1]; 0 if the scale is a single point."""
    scaled_T: Scores = (values_T - np.float32(low)) / np.float32(high - low if high > low else 1.0)
    return np.clip(scaled_T, 0.0, 1.0)


def _logistic(sums: Scores) -> Scores:
    sigmoid: Scores = np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * sums)
    return sigmoid
