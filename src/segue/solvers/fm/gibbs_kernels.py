"""The loops of a sweep over the coefficients of a factorisation machine; see :mod:`segue.solvers.fm.gibbs_sweep`.

Each coefficient becomes the mean of its conditional distribution, plus a given normal number times its spread.

Shapes: T ratings, B blocks, S rows of all blocks, C columns, D width, G groups.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["NUMBER", "move_factors", "move_linear"]

Numbers = NDArray[np.float64]

NUMBER, OTHERS, SQUARES, ERRORS, PRODUCTS, OWN, GROWTH, CHANGE = range(8)
"""What a row knows of its ratings: the sum n of their weights, weighted sums of s, s², e and e s; its own q, how much
the sum of its squared parts has grown, and what its change adds to a rating. One line of the processor's cache."""

TABLE = read(int32, 2), read(int64), read(int64), read(int64), read(int32), read(float32), read(int32)
"""Places, first rows and columns of blocks; columns' offsets, their rows and values; their groups."""


@summing_kernel(
    int64,
    int64,
    *TABLE[3:],
    read(float64),
    read(float64),
    read(float64),
    float64,
    written(float64),
    written(float64, 2),
)
def _move_columns(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    rows: Codes,
    values: Scores,
    groups: Codes,
    normals: Numbers,
    means: Numbers,
    precisions: Numbers,
    noise: float,
    own: Numbers,
    cells: Numbers,
) -> None:
    """The columns ``first:stop`` in one dimension."""
    for c in range(first, stop):
        old = own[c]
        square, push = 0.0, 0.0
        for at in range(offsets[c], offsets[c + 1]):
            x, s = values[at], rows[at]
            h = cells[s, OWN] - x * old
            square += x * x * ((cells[s, NUMBER] * h + 2.0 * cells[s, OTHERS]) * h + cells[s, SQUARES])
            push -= x * (cells[s, ERRORS] * h + cells[s, PRODUCTS])
        prior = precisions[groups[c]]
        precision = prior + noise * square
        mean = (noise * (push + square * old) + prior * means[groups[c]]) / precision
        new = mean + normals[c] / np.sqrt(precision)
        step = new - old
        own[c] = new
        for at in range(offsets[c], offsets[c + 1]):
            x, s = values[at], rows[at]
            h = cells[s, OWN] - x * old
            cells[s, ERRORS] += x * step * (cells[s, NUMBER] * h + cells[s, OTHERS])
            cells[s, PRODUCTS] += x * step * (cells[s, OTHERS] * h + cells[s, SQUARES])
            cells[s, GROWTH] += x * x * step * (new + old)
            cells[s, OWN] += x * step


@summing_kernel(
    *TABLE,
    read(float64),
    read(float64),
    read(float64),
    float64,
    written(float64),
    written(float64, 2),
    read(float32),
    written(float32),
)
def move_linear(
    places: Codes,
    starts: NDArray[np.int64],
    columns: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: Codes,
    values: Scores,
    groups: Codes,
    normals: Numbers,
    means: Numbers,
    precisions: Numbers,
    noise: float,
    own: Numbers,
    cells: Numbers,
    weights: Scores,
    errors: Scores,
) -> None:
    """Every w; a rating changes by x times the step."""
    for b in range(len(places)):
        for s in range(starts[b], starts[b + 1]):
            cells[s, ERRORS] = cells[s, CHANGE] = 0.0
        for t in range(len(errors)):
            cells[places[b, t], ERRORS] += weights[t] * errors[t]
        for c in range(columns[b], columns[b + 1]):
            square, push = 0.0, 0.0
            for at in range(offsets[c], offsets[c + 1]):
                x, s = values[at], rows[at]
                square += x * x * cells[s, NUMBER]
                push -= x * cells[s, ERRORS]
            prior = precisions[groups[c]]
            precision = prior + noise * square
            mean = (noise * (push + square * own[c]) + prior * means[groups[c]]) / precision
            step = mean + normals[c] / np.sqrt(precision) - own[c]
            own[c] += step
            for at in range(offsets[c], offsets[c + 1]):
                x, s = values[at], rows[at]
                cells[s, ERRORS] += x * step * cells[s, NUMBER]
                cells[s, CHANGE] += x * step
        for t in range(len(errors)):
            errors[t] += cells[places[b, t], CHANGE]


@summing_kernel(
    *TABLE,
    read(float64, 2),
    read(float64, 2),
    read(float64, 2),
    float64,
    written(float64, 2),
    read(float64, 2),
    written(float64, 2),
    read(float32),
    written(float32),
)
def move_factors(
    places: Codes,
    starts: NDArray[np.int64],
    columns: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: Codes,
    values: Scores,
    groups: Codes,
    normals: Numbers,
    means: Numbers,
    precisions: Numbers,
    noise: float,
    factors: Numbers,
    vectors: Numbers,
    cells: Numbers,
    weights: Scores,
    errors: Scores,
) -> None:
    """Every v, dimension by dimension and block by block.

    A rating changes by x (s + h) times the step, where h is the rest of the row's q. When all columns of a block have
    moved and q with them by p, it has changed by p (total + p / 2) - growth / 2, where total is s + q as it was.
    """
    blocks = len(places)
    totals = np.empty(len(errors), np.float32)
    for d in range(len(factors)):
        for s in range(len(cells)):
            for k in range(OTHERS, PRODUCTS + 1):
                cells[s, k] = 0.0
            cells[s, OWN] = vectors[d, s]
            cells[s, GROWTH] = 0.0
        for b in range(blocks):
            for t in range(len(errors)):
                if b == 0:
                    total = 0.0
                    for a in range(blocks):
                        total += cells[places[a, t], OWN]
                else:
                    before = places[b - 1, t]
                    total = totals[t] + cells[before, GROWTH]
                    errors[t] += cells[before, GROWTH] * totals[t] + cells[before, CHANGE]
                totals[t] = total
                s = places[b, t]
                others = total - cells[s, OWN]
                weighed, error = weights[t] * others, np.float64(weights[t] * errors[t])
                cells[s, OTHERS] += weighed
                cells[s, SQUARES] += weighed * others
                cells[s, ERRORS] += error
                cells[s, PRODUCTS] += error * others
            _move_columns(
                columns[b], columns[b + 1], offsets, rows, values, groups, normals[d], means[d], precisions[d], noise,
                factors[d], cells,
            )  # fmt: skip
            for s in range(starts[b], starts[b + 1]):
                step = cells[s, OWN] - vectors[d, s]
                cells[s, CHANGE] = 0.5 * (step * step - cells[s, GROWTH])
                cells[s, GROWTH] = step
        for t in range(len(errors)):
            before = places[blocks - 1, t]
            errors[t] += cells[before, GROWTH] * totals[t] + cells[before, CHANGE]
