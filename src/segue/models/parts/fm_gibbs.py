"""One sweep over the coefficients of a factorisation machine: Gibbs sampling, or coordinate descent.

Each coefficient in turn is drawn from its normal distribution given all others (Freudenthaler, Schmidt-Thieme and
Rendle 2011, "Bayesian factorization machines"; Rendle 2012, doi:10.1145/2168752.2168771), or set to that distribution's
mean. Priors are learned by group of columns and by dimension: normal with a mean and a precision, which have a normal
and a gamma prior in turn.

Of the ratings that read a row of a block, a column of it needs to know five sums (Rendle 2013,
doi:10.14778/2535573.2488340). With s the sum of the other blocks' vectors in one dimension, and e the error of a
rating: their number, and the sums of s, s², e and e s. A sweep passes over the ratings twice for each block and
dimension, whatever the number of features.

Shapes: T ratings, R rows of a block, C columns, D width, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.compiled import read, summing_kernel, written
from segue.core.types import Codes, Scores
from segue.models.parts.fm_coefficients import Coefficients, Numbers
from segue.models.parts.relations import Block

__all__ = ["Sweeper"]

NUMBER, OTHERS, SQUARES, ERRORS, PRODUCTS, OWN, GROWTH, LINEAR = range(8)
"""What a row of a block knows of its ratings: n, sums of s, s², e and e s; its own q, the growth of the sum of its
squared parts, and its linear part. One line of the processor's cache."""

PRIOR = 1.0
"""Of the priors' priors: shape and rate of precisions are half of it, and means are normal about 0 with it times the
precision (Rendle 2012, section 4.4); in units of the ratings' standard deviation."""


class Sweeper:
    """The relations of the training data, laid out for sweeps.

    Args:
        draws: whether coefficients and priors are drawn; if not, coefficients become what is expected of them, and
            priors stay.
    """

    def __init__(self, blocks: Sequence[Block], draws: bool) -> None:
        self.blocks, self.draws = blocks, draws
        self.sizes = tuple(size for block in blocks for size in block.groups)
        self.groups_C = np.repeat(np.arange(len(self.sizes)), self.sizes).astype(np.int32)
        self.met_C = np.concatenate([block.met for block in blocks]).astype(np.float64)
        ends = np.cumsum([block.columns for block in blocks])
        self.parts = [slice(end - block.columns, end) for end, block in zip(ends, blocks, strict=True)]
        self.tables = [_laid_out(block) for block in blocks]

    @property
    def columns(self) -> int:
        """C, of all blocks."""
        return len(self.groups_C)

    def sweep(
        self,
        state: Coefficients,
        vectors: Sequence[Numbers],
        errors_T: Scores,
        rng: np.random.Generator,
        offset: bool,
        noisy: bool,
    ) -> None:
        """Move ``state`` once, in place, and ``errors_T`` with it.

        Args:
            vectors: of the rows of each block, ``(R, D)``, as the state has them.
            errors_T: what is expected of each rating, minus the rating.
            offset: whether the offset moves.
            noisy: whether the precision of the noise is drawn; if not, it stays.
        """
        width = len(state.factors_DC)
        normals = rng.standard_normal((width + 1, self.columns)) * self.met_C
        if not self.draws:
            normals[:] = 0.0
        if self.draws and noisy:
            total = float(np.square(errors_T, dtype=np.float64).sum())
            state.noise[0] = rng.gamma((PRIOR + len(errors_T)) / 2) / ((PRIOR + total) / 2)
        if offset:
            self._move_offset(state, errors_T, rng)
        if self.draws:
            self._draw_priors(state.linear_C[None], state.means[:1], state.precisions[:1], rng)
        self._move_linear(state, errors_T, normals[0])
        if self.draws:
            self._draw_priors(state.factors_DC, state.means[1:], state.precisions[1:], rng)
        totals_T = np.empty(len(errors_T), np.float32)
        for d in range(width):
            owns = [np.ascontiguousarray(vectors_RD[:, d]) for vectors_RD in vectors]
            totals_T[:] = 0.0
            for block, own_R in zip(self.blocks, owns, strict=True):
                totals_T += own_R.astype(np.float32)[block.rows_T]
            for b, own_R in enumerate(owns):
                self._move_factors(state, d, b, own_R, totals_T, errors_T, normals[d + 1])

    def _draw_priors(
        self, values_KC: Numbers, means_KG: Numbers, precisions_KG: Numbers, rng: np.random.Generator
    ) -> None:
        """Precisions given means, then means given precisions, from the columns that ratings read."""
        starts = np.cumsum([0, *self.sizes])[:-1]
        numbers_G = np.add.reduceat(self.met_C, starts)
        apart_KC = np.square(values_KC - means_KG[:, self.groups_C]) * self.met_C
        shapes_G = (PRIOR + numbers_G + 1.0) / 2
        rates_KG = (PRIOR + np.add.reduceat(apart_KC, starts, axis=1) + PRIOR * np.square(means_KG)) / 2
        precisions_KG[:] = rng.gamma(np.broadcast_to(shapes_G, rates_KG.shape)) / rates_KG
        sums_KG = np.add.reduceat(values_KC * self.met_C, starts, axis=1)
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

    def _move_linear(self, state: Coefficients, errors_T: Scores, normals_C: Numbers) -> None:
        for block, table, part in zip(self.blocks, self.tables, self.parts, strict=True):
            cells = table[3]
            cells[:, ERRORS] = np.bincount(block.rows_T, errors_T, minlength=len(cells))
            cells[:, LINEAR] = 0.0
            prior = self.groups_C[part], state.means[0], state.precisions[0]
            _move_columns(*table[:3], normals_C[part], *prior, state.noise[0], state.linear_C[part], cells)
            errors_T += cells[:, LINEAR].astype(np.float32)[block.rows_T]

    def _move_factors(
        self,
        state: Coefficients,
        d: int,
        b: int,
        own_R: Numbers,
        totals_T: Scores,
        errors_T: Scores,
        normals_C: Numbers,
    ) -> None:
        """Dimension ``d`` of the columns of block ``b``."""
        block, table, part = self.blocks[b], self.tables[b], self.parts[b]
        cells = table[3]
        cells[:, OTHERS : PRODUCTS + 1] = 0.0
        cells[:, OWN], cells[:, GROWTH] = own_R, 0.0
        _gather(block.rows_T, totals_T, errors_T, cells)
        prior = self.groups_C[part], state.means[d + 1], state.precisions[d + 1]
        _move_dimension(*table[:3], normals_C[part], *prior, state.noise[0], state.factors_DC[d, part], cells)
        step_R = cells[:, OWN] - own_R
        moved_R2 = np.stack([step_R, 0.5 * (np.square(step_R) - cells[:, GROWTH])], axis=1).astype(np.float32)
        _spread(block.rows_T, moved_R2, totals_T, errors_T)


Table = tuple[NDArray[np.int64], Codes, Scores, Numbers]


def _laid_out(block: Block) -> Table:
    """Offsets, rows and values of the columns; and what rows know, with their numbers of ratings."""
    sparse = block.by_column
    cells = np.zeros((len(block.counts), 8))
    cells[:, NUMBER] = block.counts
    return sparse.indptr.astype(np.int64), sparse.indices.astype(np.int32), sparse.data.astype(np.float32), cells


@summing_kernel(read(int32), read(float32), read(float32), written(float64, 2))
def _gather(rows: Codes, totals: Scores, errors: Scores, cells: Numbers) -> None:
    """The four sums over the ratings of each row."""
    for t in range(len(rows)):
        r = rows[t]
        others, error = totals[t] - cells[r, OWN], np.float64(errors[t])
        cells[r, OTHERS] += others
        cells[r, SQUARES] += others * others
        cells[r, ERRORS] += error
        cells[r, PRODUCTS] += error * others


@summing_kernel(read(int32), read(float32, 2), written(float32), written(float32))
def _spread(rows: Codes, moved: Scores, totals: Scores, errors: Scores) -> None:
    """What the rows' steps do to errors and to totals: a step p changes a rating by p (total + p / 2) - growth / 2,
    where total holds the row as it was."""
    for t in range(len(rows)):
        r = rows[t]
        step = moved[r, 0]
        errors[t] += step * totals[t] + moved[r, 1]
        totals[t] += step


@summing_kernel(
    read(int64),
    read(int32),
    read(float32),
    read(float64),
    read(int32),
    read(float64),
    read(float64),
    float64,
    written(float64),
    written(float64, 2),
)
def _move_columns(
    offsets: NDArray[np.int64],
    rows: Codes,
    values: Scores,
    normals: Numbers,
    groups: Codes,
    means: Numbers,
    precisions: Numbers,
    noise: float,
    own: Numbers,
    cells: Numbers,
) -> None:
    """Every w of a block; a rating changes by x times the step."""
    for c in range(len(own)):
        square, push = 0.0, 0.0
        for at in range(offsets[c], offsets[c + 1]):
            x, r = values[at], rows[at]
            square += x * x * cells[r, NUMBER]
            push -= x * cells[r, ERRORS]
        prior = precisions[groups[c]]
        precision = prior + noise * square
        mean = (noise * (push + square * own[c]) + prior * means[groups[c]]) / precision
        step = mean + normals[c] / np.sqrt(precision) - own[c]
        own[c] += step
        for at in range(offsets[c], offsets[c + 1]):
            x, r = values[at], rows[at]
            cells[r, ERRORS] += x * step * cells[r, NUMBER]
            cells[r, LINEAR] += x * step


@summing_kernel(
    read(int64),
    read(int32),
    read(float32),
    read(float64),
    read(int32),
    read(float64),
    read(float64),
    float64,
    written(float64),
    written(float64, 2),
)
def _move_dimension(
    offsets: NDArray[np.int64],
    rows: Codes,
    values: Scores,
    normals: Numbers,
    groups: Codes,
    means: Numbers,
    precisions: Numbers,
    noise: float,
    own: Numbers,
    cells: Numbers,
) -> None:
    """Every v of a block in one dimension; a rating changes by x (s + h) times the step, h the rest of its row's q."""
    for c in range(len(own)):
        old = own[c]
        square, push = 0.0, 0.0
        for at in range(offsets[c], offsets[c + 1]):
            x, r = values[at], rows[at]
            h = cells[r, OWN] - x * old
            square += x * x * ((cells[r, NUMBER] * h + 2.0 * cells[r, OTHERS]) * h + cells[r, SQUARES])
            push -= x * (cells[r, ERRORS] * h + cells[r, PRODUCTS])
        prior = precisions[groups[c]]
        precision = prior + noise * square
        mean = (noise * (push + square * old) + prior * means[groups[c]]) / precision
        new = mean + normals[c] / np.sqrt(precision)
        step = new - old
        own[c] = new
        for at in range(offsets[c], offsets[c + 1]):
            x, r = values[at], rows[at]
            h = cells[r, OWN] - x * old
            cells[r, ERRORS] += x * step * (cells[r, NUMBER] * h + cells[r, OTHERS])
            cells[r, PRODUCTS] += x * step * (cells[r, OTHERS] * h + cells[r, SQUARES])
            cells[r, GROWTH] += x * x * step * (new + old)
            cells[r, OWN] += x * step
