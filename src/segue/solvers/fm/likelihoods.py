"""What a factorisation machine's scores say of ratings: they are their mean, or they say how likely each level is.

Either gives errors for the next sweep, says how good the scores are, and turns scores into ratings.

Shapes: T ratings, K levels, J = K - 1 cuts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Arrays
from segue.core.model_arrays import take_back
from segue.core.types import Scores
from segue.solvers.bayesian import ordered_probit
from segue.solvers.bayesian.probit_expectation import expected
from segue.solvers.bayesian.truncated_normal import errors_between

__all__ = ["Gaussian", "OrderedProbit", "Target"]

Numbers = NDArray[np.float64]

MOST_LEVELS = 50
"""Different values that an order of levels is made of, at most."""


class Target(Protocol):
    """The ratings, as the scores of one likelihood see them."""

    offset: bool
    """Whether the machine has an offset of its own."""
    noisy: bool
    """Whether the precision of the noise is to be learned."""
    cuts_J: Numbers
    """Where levels end; none without levels."""
    values_K: Numbers
    """What levels stand for; without levels, mean and standard deviation that scores are in terms of."""

    def errors(self, scores_T: Scores, roots_T: Scores, rng: np.random.Generator, settling: bool) -> Scores:
        """Scores minus what they should have been, for the next sweep.

        Args:
            roots_T: roots of what the noise's precision is multiplied with.
        """
        ...

    def told(self, scores_T: Scores, roots_T: Scores, noise: float) -> dict[str, float]:
        """``loss``, minus the logarithm of the likelihood of a rating on average, and ``train/rmse``."""
        ...

    def arrays(self) -> Arrays:
        """What it has learned."""
        ...

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take back what :meth:`arrays` gave."""
        ...


class Gaussian:
    """Ratings are normal about their scores, which are in terms of the ratings' mean and standard deviation."""

    offset = True
    noisy = True

    def __init__(self, ratings_T: Scores) -> None:
        mean, spread = ratings_T.mean(dtype=np.float64), ratings_T.std(dtype=np.float64)
        self.values_K = np.array([mean, spread if spread > 0 else 1.0])
        self.cuts_J = np.zeros(0)
        self.aims_T = ((ratings_T - mean) / self.values_K[1]).astype(np.float32)

    def errors(self, scores_T: Scores, roots_T: Scores, rng: np.random.Generator, settling: bool) -> Scores:
        """See :meth:`Target.errors`."""
        errors_T: Scores = scores_T - self.aims_T
        return errors_T

    def told(self, scores_T: Scores, roots_T: Scores, noise: float) -> dict[str, float]:
        """See :meth:`Target.told`."""
        squares_T = np.square(scores_T - self.aims_T, dtype=np.float64)
        weighed = float((np.square(roots_T, dtype=np.float64) * squares_T).mean())
        spread = self.values_K[1] * np.sqrt(2 * np.pi / noise)
        loss = 0.5 * noise * weighed + np.log(spread) - float(np.log(roots_T, dtype=np.float64).mean())
        return {"loss": float(loss), "train/rmse": float(self.values_K[1] * np.sqrt(squares_T.mean()))}

    def arrays(self) -> Arrays:
        """Nothing."""
        return {}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Nothing."""


class OrderedProbit:
    """Ratings are levels in an order, with cuts that are learned; see :mod:`segue.solvers.bayesian.ordered_probit`.

    Args:
        draws: whether cuts and hidden values are drawn; if not, they become the best and what is expected.

    Raises:
        ValueError: there are too many different ratings; ``setting`` is named.
    """

    offset = False  # the cuts move instead
    noisy = False

    def __init__(self, ratings_T: Scores, draws: bool, setting: str) -> None:
        values, levels = np.unique(ratings_T, return_inverse=True)
        if len(values) > MOST_LEVELS:
            raise ValueError(
                f"{setting}: ordered_probit takes ratings for levels, at most {MOST_LEVELS}, and these have "
                f"{len(values):,} different values; gaussian takes any"
            )
        self.draws, self.ratings_T = draws, ratings_T
        self.levels_T = levels.astype(np.int32)
        self.values_K = values.astype(np.float64)
        self.cuts_J = ordered_probit.first_cuts(self.levels_T, len(values))
        self._fit: ordered_probit.Fit | None = None

    def errors(self, scores_T: Scores, roots_T: Scores, rng: np.random.Generator, settling: bool) -> Scores:
        """See :meth:`Target.errors`; new cuts, then hidden values given these."""
        known = scores_T, self.levels_T, roots_T
        at = self._fit or ordered_probit.fit_of(*known, self.cuts_J)
        if not self.draws:
            self.cuts_J = ordered_probit.improve_cuts(*known, self.cuts_J, at)
            return -ordered_probit.fit_of(*known, self.cuts_J).pulls_T
        self.cuts_J = ordered_probit.draw_cuts(*known, self.cuts_J, at, rng, settling)
        return errors_between(*known, self.cuts_J, rng.random(len(scores_T)))

    def told(self, scores_T: Scores, roots_T: Scores, noise: float) -> dict[str, float]:
        """See :meth:`Target.told`."""
        self._fit = ordered_probit.fit_of(scores_T, self.levels_T, roots_T, self.cuts_J)
        apart_T = expected(scores_T, roots_T, self.cuts_J, self.values_K) - self.ratings_T
        return {"loss": -self._fit.value / len(scores_T), "train/rmse": float(np.sqrt(np.square(apart_T).mean()))}

    def arrays(self) -> Arrays:
        """The cuts."""
        return {"state/cuts_J": self.cuts_J}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The cuts."""
        self.cuts_J = take_back(arrays, "state/cuts_J", (len(self.cuts_J),), np.float64)
        self._fit = None
