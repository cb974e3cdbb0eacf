"""Rows of factors that are never below zero, made better one dimension after the other.

Of a row x with every other dimension fixed, the best value of one is known, and is cut at zero: coordinate descent
(Cichocki and Phan 2009, doi:10.1587/transfun.E92.A.708). Multiplicative updates (Lee and Seung 2001, NIPS 13) move all
dimensions of a row together by the ratio of what pulls it up and what pulls it down. Neither makes the objective
larger.

Two problems: :func:`improve_filled` has every cell of the table, zeros too, by way of Gram matrices,

    |x|² s + x' G x - 2 a.x        with G the sum of z z' over all columns, a the sum of value · z over those of the row

and :func:`improve_observed` the cells that were observed, ``|x|² s + sum_e (y_e - x.z_e)²``.

Shapes: R rows, T events, C columns, D width.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import over_rows, read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["improve_filled", "improve_observed"]


def improve_filled(
    sides_RD: Scores,
    gram_DD: Scores,
    rows_RD: Scores,
    *,
    ridge_R: Scores,
    multiply: bool = False,
    passes: int = 1,
    tolerance: float = 0.0,
) -> Scores:
    """``(R, D)`` rows that are better than ``rows_RD``.

    Args:
        sides_RD: a.
        gram_DD: G.
        ridge_R: s.
        multiply: whether by multiplicative updates.
        passes: at most; less where no number of a row moves by more than ``tolerance`` times the row's largest.
    """
    out = np.array(rows_RD, np.float32, order="C")
    sides, gram = np.ascontiguousarray(sides_RD, np.float32), np.ascontiguousarray(gram_DD, np.float32)

    def work(first: int, stop: int) -> None:
        _filled(first, stop, sides, gram, ridge_R, multiply, passes, np.float32(tolerance), out)

    over_rows(work, np.arange(len(out) + 1, dtype=np.int64))
    return out


def improve_observed(
    offsets: NDArray[np.int64],
    columns: Codes,
    values_T: Scores,
    vectors_CD: Scores,
    rows_RD: Scores,
    *,
    ridge_R: Scores,
    multiply: bool = False,
    passes: int = 1,
    tolerance: float = 0.0,
) -> tuple[Scores, Scores]:
    """``(R, D)`` rows that are better than ``rows_RD``, and ``(R,)`` the sum of their squared errors.

    Args:
        offsets: ``(R + 1,)`` the events of row r are ``offsets[r]:offsets[r + 1]``; a row without any stays as it is.
        columns: ``(T,)`` the column of each event.
        values_T: y.
        vectors_CD: z of every column.
        ridge_R: s.
        multiply: whether by multiplicative updates, which need values that are never below zero.
        passes: as for :func:`improve_filled`, as is ``tolerance``.
    """
    out = np.array(rows_RD, np.float32, order="C")
    squares = np.zeros(len(out), np.float32)
    vectors = np.ascontiguousarray(vectors_CD, np.float32)

    def work(first: int, stop: int) -> None:
        numbers = multiply, passes, np.float32(tolerance)
        _observed(first, stop, offsets, columns, values_T, vectors, ridge_R, *numbers, out, squares)

    over_rows(work, offsets)
    return out, squares


@summing_kernel(
    int64,
    int64,
    read(float32, 2),
    read(float32, 2),
    read(float32),
    boolean,
    int64,
    float32,
    written(float32, 2),
)
def _filled(
    first: int,
    stop: int,
    sides: Scores,
    gram: Scores,
    ridges: Scores,
    multiply: bool,
    passes: int,
    tolerance: np.float32,
    out: Scores,
) -> None:
    width, zero = len(gram), np.float32(0.0)
    factors = np.empty(width, np.float32)
    for row in range(first, stop):
        own, side, ridge = out[row], sides[row], ridges[row]
        for _ in range(passes):
            moved, largest = zero, zero
            if multiply:
                for a in range(width):
                    total = ridge * own[a]
                    for b in range(width):
                        total += gram[a, b] * own[b]
                    factors[a] = side[a] / total if total > zero else np.float32(1.0)
            for a in range(width):
                before = own[a]
                if multiply:
                    own[a] = before * factors[a]
                else:
                    slope = ridge * before - side[a]
                    for b in range(width):
                        slope += gram[a, b] * own[b]
                    bend = gram[a, a] + ridge
                    if bend > zero:
                        own[a] = max(before - slope / bend, zero)
                moved, largest = max(moved, abs(own[a] - before)), max(largest, own[a])
            if moved <= tolerance * largest:
                break


@summing_kernel(
    int64,
    int64,
    read(int64),
    read(int32),
    read(float32),
    read(float32, 2),
    read(float32),
    boolean,
    int64,
    float32,
    written(float32, 2),
    written(float32),
)
def _observed(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    values: Scores,
    vectors: Scores,
    ridges: Scores,
    multiply: bool,
    passes: int,
    tolerance: np.float32,
    out: Scores,
    squares: Scores,
) -> None:
    width, zero = vectors.shape[1], np.float32(0.0)
    longest = 0
    for row in range(first, stop):
        longest = max(longest, offsets[row + 1] - offsets[row])
    # a row's vectors by dimension, so that every inner loop runs over neighbours in memory
    table = np.empty((width, longest), np.float32)
    errors = np.empty(longest, np.float32)
    factors = np.empty(width, np.float32)
    for row in range(first, stop):
        begin, count = offsets[row], offsets[row + 1] - offsets[row]
        own, ridge = out[row], ridges[row]
        if count == 0:
            continue
        for e in range(count):
            z = vectors[columns[begin + e]]
            total = values[begin + e]
            for a in range(width):
                table[a, e] = z[a]
                total -= own[a] * z[a]
            errors[e] = total
        for _ in range(passes):
            moved, largest = zero, zero
            if multiply:
                for a in range(width):
                    up, down = zero, ridge * own[a]
                    for e in range(count):
                        up += values[begin + e] * table[a, e]
                        down += (values[begin + e] - errors[e]) * table[a, e]
                    factors[a] = up / down if down > zero else np.float32(1.0)
            for a in range(width):
                before = own[a]
                if multiply:
                    own[a] = before * factors[a]
                else:
                    pull, bend = -ridge * before, ridge
                    for e in range(count):
                        pull += errors[e] * table[a, e]
                        bend += table[a, e] * table[a, e]
                    if bend > zero:
                        own[a] = max(before + pull / bend, zero)
                step = own[a] - before
                for e in range(count):
                    errors[e] -= step * table[a, e]
                moved, largest = max(moved, abs(step)), max(largest, own[a])
            if moved <= tolerance * largest:
                break
        total = zero
        for e in range(count):
            total += errors[e] * errors[e]
        squares[row] = total
