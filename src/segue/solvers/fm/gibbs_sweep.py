"""One sweep over the coefficients of a factorisation machine: Gibbs sampling, or coordinate descent.

Each coefficient in turn is drawn from its normal distribution given all others (Freudenthaler, Schmidt-Thieme and
Rendle 2011, "Bayesian factorization machines"; Rendle 2012, doi:10.1145/2168752.2168771), or set to that distribution's
mean. Priors are learned by group of columns and by dimension: normal with a mean and a precision, which have a normal
and a gamma prior in turn. The noise of each user may have a precision of its own, with a gamma prior about 1, so that
who rates at random counts for less (Lakshminarayanan, Bouchard and Archambeau 2011, "Robust Bayesian matrix
factorisation").

Of the ratings that read a row of a block, a column of it needs to know five sums (Rendle 2013,
doi:10.14778/2535573.2488340). With s the sum of the other blocks' vectors in one dimension, and e the error of a
rating: their number, and the sums of s, s², e and e s. A sweep passes over the ratings once for each block and
dimension, whatever the number of features.

Shapes: T ratings, B blocks, S rows of all blocks, C columns, D width, G groups.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from segue.core.types import Scores
from segue.solvers.fm.gibbs_kernels import NUMBER, move_factors, move_linear
from segue.solvers.fm.parameters import Coefficients, Numbers
from segue.solvers.fm.relational_blocks import Relations

__all__ = ["Sweeper", "drawn_freedom"]

SHAPE = 0.5
"""Of the gamma prior of precisions."""

RATE = 0.05
"""Of the same; in units of the ratings' standard deviation, as coefficients are."""

WEIGHT = 1.0
"""Of the prior of means: normal about 0 with so many times the precision (Rendle 2012, section 4.4)."""

FREEDOMS = np.geomspace(1.0, 200.0, 80)
"""Degrees of freedom that the users' noise may have, each as likely before the data."""


class Sweeper:
    """Moves the coefficients of relations.

    Args:
        draws: whether coefficients and priors are drawn; if not, coefficients become what is expected of them, and
            priors stay.
        own_noise: whether the rows of the first block, users, have precisions of their own, which are drawn.
    """

    def __init__(self, relations: Relations, draws: bool, own_noise: bool = False) -> None:
        self.relations, self.draws, self.own_noise = relations, draws, own_noise
        sparse = relations.by_column
        self._table = (
            relations.places_BT,
            relations.starts_B,
            relations.columns_B,
            sparse.indptr.astype(np.int64),
            sparse.indices.astype(np.int32),
            sparse.data.astype(np.float32),
            relations.groups_C,
        )
        self._cells = np.zeros((len(relations.counts_S), 8))

    def sweep(
        self,
        state: Coefficients,
        vectors_SD: Numbers,
        errors_T: Scores,
        rng: np.random.Generator,
        offset: bool,
        noisy: bool,
    ) -> None:
        """Move ``state`` once, in place, and ``errors_T`` with it.

        Args:
            vectors_SD: of the rows, as the state has them.
            errors_T: what is expected of each rating, minus the rating.
            offset: whether the offset moves.
            noisy: whether the precision of the noise is drawn; if not, it stays.
        """
        normals = rng.standard_normal((len(state.factors_DC) + 1, self.relations.columns)) * self.relations.met_C
        if not self.draws:
            normals[:] = 0.0
        if self.draws:
            self.draw_noise(state, errors_T, rng, noisy)
        weights_T = state.own_U[self.relations.places_BT[0]].astype(np.float32)
        for b, places_T in enumerate(self.relations.places_BT):
            rows = self.relations.part(b)
            sums = np.bincount(places_T - rows.start, weights_T, minlength=rows.stop - rows.start)
            self._cells[rows, NUMBER] = sums
        if offset:
            self._move_offset(state, weights_T, errors_T, rng)
        if self.draws:
            self.draw_priors(state.linear_C[None], state.means[:1], state.precisions[:1], rng)
        noise = state.noise[0]
        prior = state.means[0], state.precisions[0]
        move_linear(*self._table, normals[0], *prior, noise, state.linear_C, self._cells, weights_T, errors_T)
        if self.draws:
            self.draw_priors(state.factors_DC, state.means[1:], state.precisions[1:], rng)
        vectors_DS = np.ascontiguousarray(vectors_SD.T)
        prior = state.means[1:], state.precisions[1:]
        tables = state.factors_DC, vectors_DS, self._cells
        move_factors(*self._table, normals[1:], *prior, noise, *tables, weights_T, errors_T)

    def draw_priors(
        self, values_KC: Numbers, means_KG: Numbers, precisions_KG: Numbers, rng: np.random.Generator
    ) -> None:
        """Precisions given means, then means given precisions, in place, from the columns that ratings read."""
        relations = self.relations
        starts = np.cumsum([0, *relations.sizes_G])[:-1]
        numbers_G = np.add.reduceat(relations.met_C.astype(np.float64), starts)
        apart_KC = np.square(values_KC - means_KG[:, relations.groups_C]) * relations.met_C
        shapes_G = SHAPE + (numbers_G + 1.0) / 2
        rates_KG = RATE + (np.add.reduceat(apart_KC, starts, axis=1) + WEIGHT * np.square(means_KG)) / 2
        precisions_KG[:] = rng.gamma(np.broadcast_to(shapes_G, rates_KG.shape)) / rates_KG
        sums_KG = np.add.reduceat(values_KC * relations.met_C, starts, axis=1)
        weights_G = numbers_G + WEIGHT
        spread_KG = 1.0 / np.sqrt(precisions_KG * weights_G)
        means_KG[:] = sums_KG / weights_G + spread_KG * rng.standard_normal(means_KG.shape)

    def draw_noise(self, state: Coefficients, errors_T: Scores, rng: np.random.Generator, noisy: bool) -> None:
        """The precision that all have in common, then those of users and the freedom that these have."""
        users_T = self.relations.places_BT[0]
        squares_U = np.bincount(users_T, np.square(errors_T, dtype=np.float64), minlength=len(state.own_U))
        if noisy:
            rate = RATE + float(squares_U @ state.own_U) / 2
            state.noise[0] = rng.gamma(SHAPE + len(errors_T) / 2) / rate
        if self.own_noise:
            counts_U = self.relations.counts_S[: len(state.own_U)]
            rates_U = (state.freedom[0] + state.noise[0] * squares_U) / 2
            drawn_U = rng.gamma((state.freedom[0] + counts_U) / 2) / rates_U
            state.own_U[:] = np.where(counts_U > 0, drawn_U, 1.0)
            state.freedom[0] = drawn_freedom(state.own_U[counts_U > 0], rng.random())

    def _move_offset(self, state: Coefficients, weights_T: Scores, errors_T: Scores, rng: np.random.Generator) -> None:
        weight = state.noise[0] * weights_T.sum(dtype=np.float64)
        push = state.noise[0] * np.dot(weights_T.astype(np.float64), errors_T)
        precision = weight + (WEIGHT if self.draws else 0.0)
        mean = (weight * state.offset[0] - push) / precision
        new = mean + (rng.standard_normal() / np.sqrt(precision) if self.draws else 0.0)
        errors_T += np.float32(new - state.offset[0])
        state.offset[0] = new


def drawn_freedom(own_U: Numbers, chance: float) -> float:
    """Degrees of freedom, given precisions that have a gamma distribution of mean 1 with them."""
    halves = FREEDOMS / 2
    known = float((np.log(own_U) - own_U).sum())
    weights = len(own_U) * (halves * np.log(halves) - gammaln(halves)) + halves * known
    shares = np.cumsum(np.exp(weights - weights.max()))
    return float(FREEDOMS[min(np.searchsorted(shares, chance * shares[-1]), len(FREEDOMS) - 1)])
