"""Kernels that update the coefficients of a factorization machine.

See :mod:`segue.solvers.fm.gibbs_updater`.

Each coefficient is set to the mean of its conditional distribution plus a given normal number times the standard
deviation.

Shapes: T ratings, B blocks, S rows of all blocks, C columns, D dimensions, G groups.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array
from segue.core.types import Codes, Scores

__all__ = ["WEIGHT_SUM", "update_factors", "update_linear"]

Numbers = NDArray[np.float64]

WEIGHT_SUM, OTHERS, SQUARES, ERRORS, PRODUCTS, FACTOR, GROWTH, CHANGE = range(8)
"""Statistics of a row's ratings: sum n of their weights; weighted sums of s, s², e and e s; the row's factor q;
growth of its sum of squared parts; change of a rating. Together one cache line of the processor.
"""

BLOCK_ARRAYS = (
    input_array(int32, 2),
    input_array(int64),
    input_array(int64),
    input_array(int64),
    input_array(int32),
    input_array(float32),
    input_array(int32),
)
"""Rows read by ratings; first rows and columns of blocks; offsets, rows and values of columns; their groups."""


@fastmath_kernel(
    int64,
    int64,
    *BLOCK_ARRAYS[3:],
    input_array(float64),
    input_array(float64),
    input_array(float64),
    float64,
    output_array(float64),
    output_array(float64, 2),
)
def _update_columns(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    rows: Codes,
    values: Scores,
    groups: Codes,
    normals: Numbers,
    means: Numbers,
    precisions: Numbers,
    noise_precision: float,
    factors: Numbers,
    cells: Numbers,
) -> None:
    """Update columns ``first:stop`` in one dimension."""
    for c in range(first, stop):
        old = factors[c]
        curvature, gradient = 0.0, 0.0
        for cell in range(offsets[c], offsets[c + 1]):
            x, s = values[cell], rows[cell]
            rest = cells[s, FACTOR] - x * old
            curvature += x * x * ((cells[s, WEIGHT_SUM] * rest + 2.0 * cells[s, OTHERS]) * rest + cells[s, SQUARES])
            gradient -= x * (cells[s, ERRORS] * rest + cells[s, PRODUCTS])
        prior = precisions[groups[c]]
        precision = prior + noise_precision * curvature
        mean = (noise_precision * (gradient + curvature * old) + prior * means[groups[c]]) / precision
        new = mean + normals[c] / np.sqrt(precision)
        step = new - old
        factors[c] = new
        for cell in range(offsets[c], offsets[c + 1]):
            x, s = values[cell], rows[cell]
            rest = cells[s, FACTOR] - x * old
            cells[s, ERRORS] += x * step * (cells[s, WEIGHT_SUM] * rest + cells[s, OTHERS])
            cells[s, PRODUCTS] += x * step * (cells[s, OTHERS] * rest + cells[s, SQUARES])
            cells[s, GROWTH] += x * x * step * (new + old)
            cells[s, FACTOR] += x * step


@fastmath_kernel(
    *BLOCK_ARRAYS,
    input_array(float64),
    input_array(float64),
    input_array(float64),
    float64,
    output_array(float64),
    output_array(float64, 2),
    input_array(float32),
    output_array(float32),
)
def update_linear(
    rows_BT: Codes,
    row_starts: NDArray[np.int64],
    column_starts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: Codes,
    values: Scores,
    groups: Codes,
    normals: Numbers,
    means: Numbers,
    precisions: Numbers,
    noise_precision: float,
    linear: Numbers,
    cells: Numbers,
    weights: Scores,
    errors: Scores,
) -> None:
    """Update all w; a rating changes by x times the step."""
    for b in range(len(rows_BT)):
        for s in range(row_starts[b], row_starts[b + 1]):
            cells[s, ERRORS] = cells[s, CHANGE] = 0.0
        for t in range(len(errors)):
            cells[rows_BT[b, t], ERRORS] += weights[t] * errors[t]
        for c in range(column_starts[b], column_starts[b + 1]):
            curvature, gradient = 0.0, 0.0
            for cell in range(offsets[c], offsets[c + 1]):
                x, s = values[cell], rows[cell]
                curvature += x * x * cells[s, WEIGHT_SUM]
                gradient -= x * cells[s, ERRORS]
            prior = precisions[groups[c]]
            precision = prior + noise_precision * curvature
            mean = (noise_precision * (gradient + curvature * linear[c]) + prior * means[groups[c]]) / precision
            step = mean + normals[c] / np.sqrt(precision) - linear[c]
            linear[c] += step
            for cell in range(offsets[c], offsets[c + 1]):
                x, s = values[cell], rows[cell]
                cells[s, ERRORS] += x * step * cells[s, WEIGHT_SUM]
                cells[s, CHANGE] += x * step
        for t in range(len(errors)):
            errors[t] += cells[rows_BT[b, t], CHANGE]


@fastmath_kernel(
    *BLOCK_ARRAYS,
    input_array(float64, 2),
    input_array(float64, 2),
    input_array(float64, 2),
    float64,
    output_array(float64, 2),
    input_array(float64, 2),
    output_array(float64, 2),
    input_array(float32),
    output_array(float32),
)
def update_factors(
    rows_BT: Codes,
    row_starts: NDArray[np.int64],
    column_starts: NDArray[np.int64],
    offsets: NDArray[np.int64],
    rows: Codes,
    values: Scores,
    groups: Codes,
    normals: Numbers,
    means: Numbers,
    precisions: Numbers,
    noise_precision: float,
    factors: Numbers,
    vectors: Numbers,
    cells: Numbers,
    weights: Scores,
    errors: Scores,
) -> None:
    """Update all v, by dimension and block.

    A rating changes by x (s + h) times the step, where h is the rest of the row's q. When all columns of a block are
    updated and q has changed by p, it has changed by p (total + p / 2) - growth / 2, where total is s + the previous q.
    """
    blocks = len(rows_BT)
    totals = np.empty(len(errors), np.float32)
    for d in range(len(factors)):
        for s in range(len(cells)):
            for k in range(OTHERS, PRODUCTS + 1):
                cells[s, k] = 0.0
            cells[s, FACTOR] = vectors[d, s]
            cells[s, GROWTH] = 0.0
        for b in range(blocks):
            for t in range(len(errors)):
                if b == 0:
                    total = 0.0
                    for a in range(blocks):
                        total += cells[rows_BT[a, t], FACTOR]
                else:
                    previous_row = rows_BT[b - 1, t]
                    total = totals[t] + cells[previous_row, GROWTH]
                    errors[t] += cells[previous_row, GROWTH] * totals[t] + cells[previous_row, CHANGE]
                totals[t] = total
                s = rows_BT[b, t]
                others = total - cells[s, FACTOR]
                weighted, error = weights[t] * others, np.float64(weights[t] * errors[t])
                cells[s, OTHERS] += weighted
                cells[s, SQUARES] += weighted * others
                cells[s, ERRORS] += error
                cells[s, PRODUCTS] += error * others
            _update_columns(
                column_starts[b],
                column_starts[b + 1],
                offsets,
                rows,
                values,
                groups,
                normals[d],
                means[d],
                precisions[d],
                noise_precision,
                factors[d],
                cells,
            )
            for s in range(row_starts[b], row_starts[b + 1]):
                step = cells[s, FACTOR] - vectors[d, s]
                cells[s, CHANGE] = 0.5 * (step * step - cells[s, GROWTH])
                cells[s, GROWTH] = step
        for t in range(len(errors)):
            previous_row = rows_BT[blocks - 1, t]
            errors[t] += cells[previous_row, GROWTH] * totals[t] + cells[previous_row, CHANGE]
