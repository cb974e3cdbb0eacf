"""Updates of nonnegative factors: coordinate descent and multiplicative updates.

Coordinate descent sets one dimension of a row at a time to its optimum with the others fixed, but at least 0 (Cichocki
and Phan 2009, doi:10.1587/transfun.E92.A.708). Multiplicative updates scale all dimensions of a row by the ratio of the
positive and negative parts of the gradient (Lee and Seung 2001, NIPS 13). Neither increases the objective.

:func:`update_dense` fits all cells of the matrix, including zeros, through Gram matrices,

    |x|² s + x' G x - 2 a.x        with G the sum of z z' over all columns, a the sum of value · z over those of the row

and :func:`update_observed` the observed cells only, ``|x|² s + sum_e (y_e - x.z_e)²``.

Shapes: R rows, T events, C columns, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array, parallel_rows
from segue.core.types import Codes, Scores

__all__ = ["update_dense", "update_observed"]


def update_dense(
    targets_RD: Scores,
    gram_DD: Scores,
    rows_RD: Scores,
    *,
    ridge_R: Scores,
    multiplicative: bool = False,
    passes: int = 1,
    tolerance: float = 0.0,
) -> Scores:
    """Improve ``rows_RD`` with respect to all cells: ``(R, D)``.

    Args:
        targets_RD: a.
        gram_DD: G.
        rows_RD: initial rows.
        ridge_R: s.
        multiplicative: use multiplicative updates.
        passes: maximum number of passes; a row stops when no element changes by more than ``tolerance`` times its
            largest.
        tolerance: see ``passes``.
    """
    out = np.array(rows_RD, np.float32, order="C")
    targets, gram = np.ascontiguousarray(targets_RD, np.float32), np.ascontiguousarray(gram_DD, np.float32)

    def process_rows(first: int, stop: int) -> None:
        _dense_kernel(first, stop, targets, gram, ridge_R, multiplicative, passes, np.float32(tolerance), out)

    parallel_rows(process_rows, np.arange(len(out) + 1, dtype=np.int64))
    return out


def update_observed(
    offsets: NDArray[np.int64],
    columns: Codes,
    values_T: Scores,
    vectors_CD: Scores,
    rows_RD: Scores,
    *,
    ridge_R: Scores,
    multiplicative: bool = False,
    passes: int = 1,
    tolerance: float = 0.0,
) -> tuple[Scores, Scores]:
    """Improve ``rows_RD`` with respect to the observed cells.

    Returns:
        ``(R, D)`` improved rows, and ``(R,)`` sums of their squared errors.

    Args:
        offsets: ``(R + 1,)`` the events of row r are ``offsets[r]:offsets[r + 1]``; a row without events is unchanged.
        columns: ``(T,)`` the column of each event.
        values_T: y.
        vectors_CD: z of every column.
        rows_RD: initial rows.
        ridge_R: s.
        multiplicative: use multiplicative updates, which require nonnegative values.
        passes: see :func:`update_dense`.
        tolerance: see :func:`update_dense`.
    """
    out = np.array(rows_RD, np.float32, order="C")
    squares = np.zeros(len(out), np.float32)
    vectors = np.ascontiguousarray(vectors_CD, np.float32)

    def process_rows(first: int, stop: int) -> None:
        parameters = multiplicative, passes, np.float32(tolerance)
        _observed_kernel(first, stop, offsets, columns, values_T, vectors, ridge_R, *parameters, out, squares)

    parallel_rows(process_rows, offsets)
    return out, squares


@fastmath_kernel(
    int64,
    int64,
    input_array(float32, 2),
    input_array(float32, 2),
    input_array(float32),
    boolean,
    int64,
    float32,
    output_array(float32, 2),
)
def _dense_kernel(
    first: int,
    stop: int,
    targets: Scores,
    gram: Scores,
    ridges: Scores,
    multiplicative: bool,
    passes: int,
    tolerance: np.float32,
    out: Scores,
) -> None:
    width, zero = len(gram), np.float32(0.0)
    ratios = np.empty(width, np.float32)
    for row in range(first, stop):
        x_D, target_D, ridge = out[row], targets[row], ridges[row]
        for _ in range(passes):
            largest_change, largest_value = zero, zero
            if multiplicative:
                for a in range(width):
                    total = ridge * x_D[a]
                    for b in range(width):
                        total += gram[a, b] * x_D[b]
                    ratios[a] = target_D[a] / total if total > zero else np.float32(1.0)
            for a in range(width):
                previous = x_D[a]
                if multiplicative:
                    x_D[a] = previous * ratios[a]
                else:
                    gradient = ridge * previous - target_D[a]
                    for b in range(width):
                        gradient += gram[a, b] * x_D[b]
                    curvature = gram[a, a] + ridge
                    if curvature > zero:
                        x_D[a] = max(previous - gradient / curvature, zero)
                largest_change, largest_value = max(largest_change, abs(x_D[a] - previous)), max(largest_value, x_D[a])
            if largest_change <= tolerance * largest_value:
                break


@fastmath_kernel(
    int64,
    int64,
    input_array(int64),
    input_array(int32),
    input_array(float32),
    input_array(float32, 2),
    input_array(float32),
    boolean,
    int64,
    float32,
    output_array(float32, 2),
    output_array(float32),
)
def _observed_kernel(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    values: Scores,
    vectors: Scores,
    ridges: Scores,
    multiplicative: bool,
    passes: int,
    tolerance: np.float32,
    out: Scores,
    squares: Scores,
) -> None:
    width, zero = vectors.shape[1], np.float32(0.0)
    max_length = 0
    for row in range(first, stop):
        max_length = max(max_length, offsets[row + 1] - offsets[row])
    # vectors of a row's events by dimension, so that inner loops read contiguous memory
    vectors_by_dimension = np.empty((width, max_length), np.float32)
    errors = np.empty(max_length, np.float32)
    ratios = np.empty(width, np.float32)
    for row in range(first, stop):
        begin, n_events = offsets[row], offsets[row + 1] - offsets[row]
        x_D, ridge = out[row], ridges[row]
        if n_events == 0:
            continue
        for e in range(n_events):
            vector = vectors[columns[begin + e]]
            total = values[begin + e]
            for a in range(width):
                vectors_by_dimension[a, e] = vector[a]
                total -= x_D[a] * vector[a]
            errors[e] = total
        for _ in range(passes):
            largest_change, largest_value = zero, zero
            if multiplicative:
                for a in range(width):
                    numerator, denominator = zero, ridge * x_D[a]
                    for e in range(n_events):
                        numerator += values[begin + e] * vectors_by_dimension[a, e]
                        denominator += (values[begin + e] - errors[e]) * vectors_by_dimension[a, e]
                    ratios[a] = numerator / denominator if denominator > zero else np.float32(1.0)
            for a in range(width):
                previous = x_D[a]
                if multiplicative:
                    x_D[a] = previous * ratios[a]
                else:
                    slope, curvature = -ridge * previous, ridge
                    for e in range(n_events):
                        slope += errors[e] * vectors_by_dimension[a, e]
                        curvature += vectors_by_dimension[a, e] * vectors_by_dimension[a, e]
                    if curvature > zero:
                        x_D[a] = max(previous + slope / curvature, zero)
                step = x_D[a] - previous
                for e in range(n_events):
                    errors[e] -= step * vectors_by_dimension[a, e]
                largest_change, largest_value = max(largest_change, abs(step)), max(largest_value, x_D[a])
            if largest_change <= tolerance * largest_value:
                break
        total = zero
        for e in range(n_events):
            total += errors[e] * errors[e]
        squares[row] = total
