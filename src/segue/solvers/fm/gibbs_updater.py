"""Update the coefficients of a factorization machine.

The method is Gibbs sampling, or coordinate descent.

Each coefficient in turn is sampled from its conditional normal distribution (Freudenthaler, Schmidt-Thieme and Rendle
2011, "Bayesian factorization machines"; Rendle 2012, doi:10.1145/2168752.2168771), or set to that distribution's mean.
Priors are learned by group of columns and dimension: normal, with a normal prior of the mean and a gamma prior of the
precision. The noise of each user may have its own precision, with a gamma prior of mean 1, so that erratic users
count less (Lakshminarayanan, Bouchard and Archambeau 2011, "Robust Bayesian matrix factorization").

A column needs five sums over the ratings that read a row of its block (Rendle 2013, doi:10.14778/2535573.2488340). With
s the sum of the other blocks' vectors in one dimension and e the error of a rating, these are the number of ratings and
the sums of s, s², e and e s. An iteration passes over the ratings once for each block and dimension, regardless of the
number of features.

Shapes: T ratings, B blocks, S rows of all blocks, C columns, D dimensions, G groups.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from segue.core.types import Scores
from segue.solvers.fm.gibbs_kernels import WEIGHT_SUM, update_factors, update_linear
from segue.solvers.fm.parameters import Numbers, Parameters
from segue.solvers.fm.relational_blocks import Relations

__all__ = ["GibbsUpdater", "sample_degrees_of_freedom"]

PRIOR_SHAPE = 0.5
"""Shape of the gamma prior of precisions."""

PRIOR_RATE = 0.05
"""Rate of the gamma prior of precisions, with ratings of standard deviation 1."""

MEAN_PRIOR_WEIGHT = 1.0
"""Precision of the normal prior of means around 0, relative to the group (Rendle 2012, section 4.4)."""

DEGREES_OF_FREEDOM = np.geomspace(1.0, 200.0, 80)
"""Degrees of freedom of the users' noise, with a uniform prior over these."""


class GibbsUpdater:
    """Updater of the coefficients of relational blocks.

    Args:
        relations: the blocks.
        is_sampling: sample coefficients and priors; otherwise coefficients are set to their conditional means, and
            priors stay fixed.
        user_noise: sample a noise precision for each row of the first block, the users.
    """

    def __init__(self, relations: Relations, is_sampling: bool, user_noise: bool = False) -> None:
        self.relations, self.is_sampling, self.user_noise = relations, is_sampling, user_noise
        sparse = relations.by_column
        self._block_arrays = (
            relations.rows_BT,
            relations.row_starts_B,
            relations.column_starts_B,
            sparse.indptr.astype(np.int64),
            sparse.indices.astype(np.int32),
            sparse.data.astype(np.float32),
            relations.groups_C,
        )
        self._statistics = np.zeros((len(relations.counts_S), 8))

    def step(
        self,
        state: Parameters,
        vectors_SD: Numbers,
        errors_T: Scores,
        rng: np.random.Generator,
        has_intercept: bool,
        has_noise: bool,
    ) -> None:
        """Update ``state`` and ``errors_T`` once, in place.

        Args:
            state: coefficients and priors.
            vectors_SD: vectors of the rows for ``state``.
            errors_T: predictions minus ratings.
            rng: source of random numbers.
            has_intercept: update the intercept.
            has_noise: sample the precision of the noise.
        """
        normals = rng.standard_normal((len(state.factors_DC) + 1, self.relations.columns)) * self.relations.is_used_C
        if not self.is_sampling:
            normals[:] = 0.0
        if self.is_sampling:
            self.sample_noise(state, errors_T, rng, has_noise)
        weights_T = state.user_precision_U[self.relations.rows_BT[0]].astype(np.float32)
        for b, rows_T in enumerate(self.relations.rows_BT):
            rows = self.relations.row_range(b)
            sums = np.bincount(rows_T - rows.start, weights_T, minlength=rows.stop - rows.start)
            self._statistics[rows, WEIGHT_SUM] = sums
        if has_intercept:
            self._update_intercept(state, weights_T, errors_T, rng)
        if self.is_sampling:
            self.sample_priors(state.linear_C[None], state.means[:1], state.precisions[:1], rng)
        noise_precision = state.noise_precision[0]
        prior = state.means[0], state.precisions[0]
        update_linear(
            *self._block_arrays,
            normals[0],
            *prior,
            noise_precision,
            state.linear_C,
            self._statistics,
            weights_T,
            errors_T,
        )
        if self.is_sampling:
            self.sample_priors(state.factors_DC, state.means[1:], state.precisions[1:], rng)
        vectors_DS = np.ascontiguousarray(vectors_SD.T)
        prior = state.means[1:], state.precisions[1:]
        tables = state.factors_DC, vectors_DS, self._statistics
        update_factors(*self._block_arrays, normals[1:], *prior, noise_precision, *tables, weights_T, errors_T)

    def sample_priors(
        self, values_KC: Numbers, means_KG: Numbers, precisions_KG: Numbers, rng: np.random.Generator
    ) -> None:
        """Sample precisions given means, then means given precisions, in place.

        Only columns in use are taken into account.
        """
        relations = self.relations
        starts = np.cumsum([0, *relations.sizes_G])[:-1]
        counts_G = np.add.reduceat(relations.is_used_C.astype(np.float64), starts)
        squares_KC = np.square(values_KC - means_KG[:, relations.groups_C]) * relations.is_used_C
        shapes_G = PRIOR_SHAPE + (counts_G + 1.0) / 2
        rates_KG = (
            PRIOR_RATE + (np.add.reduceat(squares_KC, starts, axis=1) + MEAN_PRIOR_WEIGHT * np.square(means_KG)) / 2
        )
        precisions_KG[:] = rng.gamma(np.broadcast_to(shapes_G, rates_KG.shape)) / rates_KG
        sums_KG = np.add.reduceat(values_KC * relations.is_used_C, starts, axis=1)
        weights_G = counts_G + MEAN_PRIOR_WEIGHT
        std_KG = 1.0 / np.sqrt(precisions_KG * weights_G)
        means_KG[:] = sums_KG / weights_G + std_KG * rng.standard_normal(means_KG.shape)

    def sample_noise(self, state: Parameters, errors_T: Scores, rng: np.random.Generator, has_noise: bool) -> None:
        """Sample the noise.

        Sample the common precision, then those of users and their degrees of freedom.
        """
        users_T = self.relations.rows_BT[0]
        squares_U = np.bincount(users_T, np.square(errors_T, dtype=np.float64), minlength=len(state.user_precision_U))
        if has_noise:
            rate = PRIOR_RATE + float(squares_U @ state.user_precision_U) / 2
            state.noise_precision[0] = rng.gamma(PRIOR_SHAPE + len(errors_T) / 2) / rate
        if self.user_noise:
            counts_U = self.relations.counts_S[: len(state.user_precision_U)]
            rates_U = (state.degrees_of_freedom[0] + state.noise_precision[0] * squares_U) / 2
            samples_U = rng.gamma((state.degrees_of_freedom[0] + counts_U) / 2) / rates_U
            state.user_precision_U[:] = np.where(counts_U > 0, samples_U, 1.0)
            state.degrees_of_freedom[0] = sample_degrees_of_freedom(state.user_precision_U[counts_U > 0], rng.random())

    def _update_intercept(
        self, state: Parameters, weights_T: Scores, errors_T: Scores, rng: np.random.Generator
    ) -> None:
        weight = state.noise_precision[0] * weights_T.sum(dtype=np.float64)
        gradient = state.noise_precision[0] * np.dot(weights_T.astype(np.float64), errors_T)
        precision = weight + (MEAN_PRIOR_WEIGHT if self.is_sampling else 0.0)
        mean = (weight * state.intercept[0] - gradient) / precision
        value = mean + (rng.standard_normal() / np.sqrt(precision) if self.is_sampling else 0.0)
        errors_T += np.float32(value - state.intercept[0])
        state.intercept[0] = value


def sample_degrees_of_freedom(user_precision_U: Numbers, normal_cdf: float) -> float:
    """Sample degrees of freedom given precisions with a gamma distribution of mean 1."""
    half = DEGREES_OF_FREEDOM / 2
    log_density = float((np.log(user_precision_U) - user_precision_U).sum())
    log_weights = len(user_precision_U) * (half * np.log(half) - gammaln(half)) + half * log_density
    cumulative = np.cumsum(np.exp(log_weights - log_weights.max()))
    return float(
        DEGREES_OF_FREEDOM[min(np.searchsorted(cumulative, normal_cdf * cumulative[-1]), len(DEGREES_OF_FREEDOM) - 1)]
    )
