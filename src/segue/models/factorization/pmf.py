"""PMF: probabilistic matrix factorisation, the most probable factors (Salakhutdinov and Mnih 2007, NIPS 20).

Ratings are normal about ``mean + p_u . q_i``, factors are normal about zero. The most probable factors make

    sum (r - mean - p_u . q_i)²  +  l2 (sum_u n_u |p_u|² + sum_i n_i |q_i|²)

least, with n the number of ratings or 1 (eq. 4), here by gradient descent with momentum over batches, as in the paper.
With ``squash`` a rating is ``low + (high - low) g(c + p_u . q_i)`` with g the logistic function (eq. 5) and a constant
c, and never leaves the scale of the data.

Shapes: U users, I items, N queries, T ratings, D width, B width with the place of the bias, which is 0.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray

from segue.core.config import Settings
from segue.core.model import Arrays, Validate
from segue.core.model_arrays import take_back
from segue.core.ratings import ratings_of, valued
from segue.core.run import Run
from segue.core.types import Dataset, Domain, Events, Scores
from segue.solvers.biased_factor_model import RatingFactors, pair_products
from segue.solvers.momentum_sgd import Side, descend_in_batches
from segue.solvers.ridge import solve_rows
from segue.solvers.standardize import in_units, standardised
from segue.solvers.training_iterations import sweeps

__all__ = ["PMF"]

SPREAD = 0.1
"""Standard deviation of the factors at the start."""
CURVATURE = 0.0771
"""No less than half the second derivative of ``(t - g(s))²`` for any s and any t between 0 and 1."""
STEPS = 10
"""Of folding in where ratings are squashed."""
EDGE = 1e-3
"""How near to the ends of the scale the mean may be where ratings are squashed."""
NEVER = 1e30
"""Ridge of the bias, which stays where it is."""


class PMF(RatingFactors):
    """The most probable factors by gradient descent; a new person is folded in by a ridge regression."""

    class Config(Settings):
        """Settings of ``pmf``."""

        width: Annotated[int, Ge(1)] = 30
        """Factors of a user and of an item."""
        sweeps: Annotated[int, Ge(1)] = 60
        """Passes over the ratings."""
        batch_size: Annotated[int, Ge(1)] = 1000
        """Ratings of a batch; all rows move after each."""
        learning_rate: Annotated[float, Gt(0)] = 0.005
        """Step of each rating, where values are in units of their standard deviation (``squash``: of their range)."""
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.8
        """Share of its last move that a row goes on with."""
        l2: Annotated[float, Gt(0)] = 0.12
        """Ridge of the factors: the variance of the noise over that of a factor."""
        weighted: bool = True
        """Whether a row's ridge grows with its number of ratings, as in the authors' program."""
        squash: bool = False
        """Whether a logistic function keeps predictions within the scale of the data; scores are what goes into it."""
        clip: bool = False
        """Whether predictions stay within the lowest and the highest rating of the training data."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self.more["spread"] = np.ones(1, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Pass by pass; the objective, its errors each as its rating was met, goes into the run's history.

        Raises:
            ValueError: no event has a value, or the steps led out of all bounds.
        """
        config, ratings = self.config, ratings_of(train, "pmf")
        limits = float(ratings.values.min()), float(ratings.values.max())
        mean, spread, targets_T, unit = self._targets(ratings.values, limits)
        rng = run.rng("init")
        state = {
            name: SPREAD * rng.standard_normal((count, config.width), np.float32)
            for name, count in (("users", train.n_users), ("items", train.n_items))
        }
        state |= {f"{name}_speed": np.zeros_like(rows) for name, rows in state.items()}
        ridges = {"users": self._scale(ratings.counts), "items": self._scale(ratings.item_counts)}

        def once(sweep: int) -> dict[str, float]:
            sides = [Side(state[name], state[f"{name}_speed"], config.l2 * ridge) for name, ridge in ridges.items()]
            total = descend_in_batches(
                ratings.users,
                ratings.items,
                targets_T,
                (sides[0], sides[1]),
                run.rng(f"sweep/{sweep}").permutation(len(targets_T)),
                offset=mean if config.squash else 0.0,
                batch=config.batch_size,
                step=config.learning_rate,
                momentum=config.momentum,
                squash=config.squash,
            )
            if not np.isfinite(total):
                told = "try a lower learning_rate, batch_size or momentum"
                raise ValueError(f"pmf: the errors of sweep {sweep + 1} have no end; {told}")
            pull = sum(float(side.ridge_R @ np.square(side.rows_RD, dtype=np.float64).sum(axis=1)) for side in sides)
            return {"loss": total + pull, "train/rmse": float(np.sqrt(total / len(targets_T))) * unit}

        def restore(arrays: Arrays) -> None:
            state.update({name: take_back(arrays, name, now.shape, np.float32).copy() for name, now in state.items()})

        def show() -> None:
            users_UB, items_IB = (in_units(_with_bias(state[name]), spread) for name in ridges)
            self.more["spread"] = np.array([spread], np.float32)
            self._keep(mean, users_UB, items_IB, limits)

        sweeps(
            config.sweeps,
            once,
            run,
            arrays=lambda: state,
            restore=restore,
            model=self,
            validate=validate,
            show=show,
        )
        # users as they are folded in: who was there in training is answered like anyone with his history
        self._keep(mean, self.fold_in(train.histories), self.items_ID, limits)

    def _targets(self, values_T: Scores, limits: tuple[float, float]) -> tuple[float, float, Scores, float]:
        """What is added to products, what they are in units of, what they are to be, and the unit of that."""
        if not self.config.squash:
            mean, spread, targets_T = standardised(values_T)
            return mean, spread, targets_T, spread
        targets_T = _between(values_T, *limits)
        middle = min(max(float(targets_T.mean(dtype=np.float64)), EDGE), 1.0 - EDGE)
        return float(np.log(middle / (1.0 - middle))), 1.0, targets_T, limits[1] - limits[0]

    def _scale(self, counts_R: NDArray[np.int64]) -> Scores:
        """``(R,)`` what a row's ridge is multiplied with."""
        counts_R = np.maximum(counts_R, 1) if self.config.weighted else np.ones_like(counts_R)
        return counts_R.astype(np.float32)

    def in_scale(self, scores: Scores) -> Scores:
        """The logistic function of the sums, over the scale of the data, where ratings are squashed."""
        if not self.config.squash:
            return super().in_scale(scores)
        low, high = self.limits
        found: Scores = low + (high - low) * _logistic(scores)
        return found

    def fold_in(self, history: Events) -> Scores:
        """The factors that make the objective least given those of the items; squashed, the limit of falling steps."""
        known = valued(history)
        assert known.values is not None
        ridge_B = np.full(self.config.width + 1, self.config.l2 * self.more["spread"][0], np.float32)
        ridge_B[0] = NEVER

        def solved(sides_T: Scores, scale: float) -> Scores:
            return solve_rows(
                known.offsets,
                known.items,
                np.ones(known.size, np.float32),
                sides_T,
                self._vectors_ID,
                ridge_D=ridge_B,
                ridge_R=self._scale(known.lengths) / np.float32(scale),
            )[0]

        if not self.config.squash:
            return solved(known.values - self.mean, 1.0)
        # the squared error lies under a parabola that touches it where the row is: each step goes to that one's lowest
        targets_T = _between(known.values, *self.limits)
        rows_NB = np.zeros((len(history), self.config.width + 1), np.float32)
        places = known.rows.astype(np.int32)
        for _ in range(STEPS):
            sums_T = pair_products(rows_NB, self._vectors_ID, places, known.items)
            found_T = _logistic(sums_T + self.mean)
            push_T = (targets_T - found_T) * found_T * (1 - found_T)
            rows_NB = solved(sums_T + push_T / np.float32(CURVATURE), CURVATURE)
        return rows_NB


def _with_bias(rows_RD: Scores) -> Scores:
    return np.concatenate([np.zeros((len(rows_RD), 1), np.float32), rows_RD], axis=1)


def _between(values_T: Scores, low: float, high: float) -> Scores:
    """Values as shares of the scale, no less than 0 and no more than 1; 0 where the scale is a point."""
    shares_T: Scores = (values_T - np.float32(low)) / np.float32(high - low if high > low else 1.0)
    return np.clip(shares_T, 0.0, 1.0)


def _logistic(sums: Scores) -> Scores:
    found: Scores = np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * sums)
    return found
