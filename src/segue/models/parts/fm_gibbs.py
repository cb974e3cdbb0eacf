"""One sweep over the coefficients of a factorisation machine: Gibbs sampling, or coordinate descent.

Each coefficient in turn is drawn from its normal distribution given all others (Freudenthaler, Schmidt-Thieme and
Rendle 2011, "Bayesian factorization machines"; Rendle 2012, doi:10.1145/2168752.2168771), or set to that distribution's
mean. Priors are learned by group of columns and by dimension: normal with a mean and a precision, which have a normal
and a gamma prior in turn.

Of the ratings that read a row of a block, a column of it needs to know five sums (Rendle 2013,
doi:10.14778/2535573.2488340). With s the sum of the other blocks' vectors in one dimension, and e the error of a
rating: their number, and the sums of s, s², e and e s. A sweep passes over the ratings once for each block and
dimension, whatever the number of features.

Shapes: T ratings, B blocks, S rows of all blocks, C columns, D width, G groups.
"""

from __future__ import annotations

import numpy as np

from segue.core.types import Scores
from segue.models.parts.fm_coefficients import Coefficients, Numbers
from segue.models.parts.fm_moves import NUMBER, move_factors, move_linear
from segue.models.parts.relations import Relations

__all__ = ["Sweeper"]

PRIOR = 1.0
"""Of the priors' priors: shape and rate of precisions are half of it, and means are normal about 0 with it times the
precision (Rendle 2012, section 4.4); in units of the ratings' standard deviation."""


class Sweeper:
    """Moves the coefficients of relations.

    Args:
        draws: whether coefficients and priors are drawn; if not, coefficients become what is expected of them, and
            priors stay.
    """

    def __init__(self, relations: Relations, draws: bool) -> None:
        self.relations, self.draws = relations, draws
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
        self._cells[:, NUMBER] = relations.counts_S

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
        if self.draws and noisy:
            total = float(np.square(errors_T, dtype=np.float64).sum())
            state.noise[0] = rng.gamma((PRIOR + len(errors_T)) / 2) / ((PRIOR + total) / 2)
        if offset:
            self._move_offset(state, errors_T, rng)
        if self.draws:
            self.draw_priors(state.linear_C[None], state.means[:1], state.precisions[:1], rng)
        noise = state.noise[0]
        prior = state.means[0], state.precisions[0]
        move_linear(*self._table, normals[0], *prior, noise, state.linear_C, self._cells, errors_T)
        if self.draws:
            self.draw_priors(state.factors_DC, state.means[1:], state.precisions[1:], rng)
        vectors_DS = np.ascontiguousarray(vectors_SD.T)
        prior = state.means[1:], state.precisions[1:]
        move_factors(*self._table, normals[1:], *prior, noise, state.factors_DC, vectors_DS, self._cells, errors_T)

    def draw_priors(
        self, values_KC: Numbers, means_KG: Numbers, precisions_KG: Numbers, rng: np.random.Generator
    ) -> None:
        """Precisions given means, then means given precisions, in place, from the columns that ratings read."""
        relations = self.relations
        starts = np.cumsum([0, *relations.sizes_G])[:-1]
        numbers_G = np.add.reduceat(relations.met_C.astype(np.float64), starts)
        apart_KC = np.square(values_KC - means_KG[:, relations.groups_C]) * relations.met_C
        shapes_G = (PRIOR + numbers_G + 1.0) / 2
        rates_KG = (PRIOR + np.add.reduceat(apart_KC, starts, axis=1) + PRIOR * np.square(means_KG)) / 2
        precisions_KG[:] = rng.gamma(np.broadcast_to(shapes_G, rates_KG.shape)) / rates_KG
        sums_KG = np.add.reduceat(values_KC * relations.met_C, starts, axis=1)
        weights_G = numbers_G + PRIOR
        spread_KG = 1.0 / np.sqrt(precisions_KG * weights_G)
        means_KG[:] = sums_KG / weights_G + spread_KG * rng.standard_normal(means_KG.shape)

    def _move_offset(self, state: Coefficients, errors_T: Scores, rng: np.random.Generator) -> None:
        noise, count = state.noise[0], len(errors_T)
        precision = noise * count + (PRIOR if self.draws else 0.0)
        mean = noise * (count * state.offset[0] - float(errors_T.sum(dtype=np.float64))) / precision
        new = mean + (rng.standard_normal() / np.sqrt(precision) if self.draws else 0.0)
        errors_T += np.float32(new - state.offset[0])
        state.offset[0] = new
