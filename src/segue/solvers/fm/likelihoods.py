"""Likelihoods of a factorization machine.

Scores are means of ratings, or predictors of ordered levels. Each likelihood computes errors for the next iteration,
metrics of the scores, and expected ratings.

Shapes: T ratings, K levels, J = K - 1 cutpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.types import Scores
from segue.solvers.bayesian import ordered_probit
from segue.solvers.bayesian.probit_expectation import expected_ratings
from segue.solvers.bayesian.truncated_normal import sample_truncated_errors

__all__ = ["Gaussian", "Likelihood", "OrderedProbit"]

Numbers = NDArray[np.float64]

MAX_LEVELS = 50
"""Largest number of distinct ratings that are treated as ordered levels."""


class Likelihood(Protocol):
    """The ratings, and a model of how they depend on scores."""

    has_intercept: bool
    """Whether the machine has an intercept."""
    has_noise: bool
    """Whether the precision of the noise is learned."""
    cuts_J: Numbers
    """Cutpoints between levels; empty without levels."""
    values_K: Numbers
    """Values of the levels; without levels, mean and standard deviation of ratings with score 0 and 1."""

    def errors(self, scores_T: Scores, noise_scales_T: Scores, rng: np.random.Generator, is_burn_in: bool) -> Scores:
        """Compute scores minus targets for the next iteration.

        Args:
            scores_T: scores.
            noise_scales_T: square roots of the relative noise precisions.
            rng: source of random numbers.
            is_burn_in: whether the chain is still in its burn-in.
        """
        ...

    def metrics(self, scores_T: Scores, noise_scales_T: Scores, noise_precision: float) -> dict[str, float]:
        """Return the metrics ``loss`` and ``train/rmse``.

        ``loss`` is the mean negative log-likelihood of a rating.
        """
        ...

    def arrays(self) -> StateArrays:
        """Return the learned state."""
        ...

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore what :meth:`arrays` returned."""
        ...


class Gaussian:
    """Ratings are normal around their scores, which are standardized."""

    has_intercept = True
    has_noise = True

    def __init__(self, ratings_T: Scores) -> None:
        mean, std = ratings_T.mean(dtype=np.float64), ratings_T.std(dtype=np.float64)
        self.values_K = np.array([mean, std if std > 0 else 1.0])
        self.cuts_J = np.zeros(0)
        self.targets_T = ((ratings_T - mean) / self.values_K[1]).astype(np.float32)

    def errors(self, scores_T: Scores, noise_scales_T: Scores, rng: np.random.Generator, is_burn_in: bool) -> Scores:
        """See :meth:`Likelihood.errors`."""
        errors_T: Scores = scores_T - self.targets_T
        return errors_T

    def metrics(self, scores_T: Scores, noise_scales_T: Scores, noise_precision: float) -> dict[str, float]:
        """See :meth:`Likelihood.metrics`."""
        squares_T = np.square(scores_T - self.targets_T, dtype=np.float64)
        weighted = float((np.square(noise_scales_T, dtype=np.float64) * squares_T).mean())
        std = self.values_K[1] * np.sqrt(2 * np.pi / noise_precision)
        loss = 0.5 * noise_precision * weighted + np.log(std) - float(np.log(noise_scales_T, dtype=np.float64).mean())
        return {"loss": float(loss), "train/rmse": float(self.values_K[1] * np.sqrt(squares_T.mean()))}

    def arrays(self) -> StateArrays:
        """Return nothing."""
        return {}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Do nothing."""


class OrderedProbit:
    """Ratings are ordered levels with learned cutpoints.

    See :mod:`segue.solvers.bayesian.ordered_probit`.

    Args:
        ratings_T: ratings.
        is_sampling: sample cutpoints and hidden values; otherwise use the optimum and expectations.
        setting: name of the setting in the error message.

    Raises:
        ValueError: there are too many distinct ratings.
    """

    has_intercept = False  # the cuts move instead
    has_noise = False

    def __init__(self, ratings_T: Scores, is_sampling: bool, setting: str) -> None:
        values, levels = np.unique(ratings_T, return_inverse=True)
        if len(values) > MAX_LEVELS:
            raise ValueError(
                f"{setting}: ordered_probit supports at most {MAX_LEVELS} distinct ratings, got "
                f"{len(values):,}; use gaussian"
            )
        self.is_sampling, self.ratings_T = is_sampling, ratings_T
        self.levels_T = levels.astype(np.int32)
        self.values_K = values.astype(np.float64)
        self.cuts_J = ordered_probit.initial_cutpoints(self.levels_T, len(values))
        self._log_posterior: ordered_probit.ProbitLogPosterior | None = None

    def errors(self, scores_T: Scores, noise_scales_T: Scores, rng: np.random.Generator, is_burn_in: bool) -> Scores:
        """See :meth:`Likelihood.errors`; update cutpoints, then hidden values."""
        arguments = scores_T, self.levels_T, noise_scales_T
        current = self._log_posterior or ordered_probit.log_posterior(*arguments, self.cuts_J)
        if not self.is_sampling:
            self.cuts_J = ordered_probit.newton_step_cutpoints(*arguments, self.cuts_J, current)
            return -ordered_probit.log_posterior(*arguments, self.cuts_J).residuals_T
        self.cuts_J = ordered_probit.sample_cutpoints(*arguments, self.cuts_J, current, rng, is_burn_in)
        return sample_truncated_errors(*arguments, self.cuts_J, rng.random(len(scores_T)))

    def metrics(self, scores_T: Scores, noise_scales_T: Scores, noise_precision: float) -> dict[str, float]:
        """See :meth:`Likelihood.metrics`."""
        self._log_posterior = ordered_probit.log_posterior(scores_T, self.levels_T, noise_scales_T, self.cuts_J)
        errors_T = expected_ratings(scores_T, noise_scales_T, self.cuts_J, self.values_K) - self.ratings_T
        return {
            "loss": -self._log_posterior.value / len(scores_T),
            "train/rmse": float(np.sqrt(np.square(errors_T).mean())),
        }

    def arrays(self) -> StateArrays:
        """Return the cutpoints."""
        return {"state/cuts_J": self.cuts_J}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore the cutpoints."""
        self.cuts_J = load_array(arrays, "state/cuts_J", (len(self.cuts_J),), np.float64)
        self._log_posterior = None
