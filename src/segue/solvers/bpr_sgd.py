"""Pairwise learning of factors: triple by triple down the slope, or batch by batch with Adam.

The objective of a triple of user u, had item i and item j that was not had, with ``x = p_u . (q_i - q_j) + b_i - b_j``:

    -ln sigma(x)  +  l2 / 2 (|p_u|² + |q_i|² + |q_j|²)  +  l2_bias / 2 (b_i² + b_j²)

Users and items are rows of one table, items after the users, the first place of a row for the bias: it is 1 in the row
of a user, and stays so.

Adam (Kingma and Ba 2015, arXiv:1412.6980) moves every row at every step, those without a slope too, as their running
means fade. Here a row is brought up to date when it is next touched, or at the end: what it would have done in between
is a sum in closed form, up to the share of ``EPSILON`` in the root of the running square, which is taken at its mean
over those steps. So a step costs what its batch touches, whatever the number of users and items.

Shapes: R rows of users and items, W width with the place of the bias, S triples.
"""

from __future__ import annotations

from math import exp, log1p, sqrt
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["BETAS", "EPSILON", "adam", "descend"]

BETAS = (0.9, 0.999)
"""Decay per step of the running means of slopes and of their squares: those that torch has unless told otherwise."""
EPSILON = 1e-8
"""Added to the root of the running square."""

B1, B2 = BETAS
RULES = (boolean, float32, float32, float32)
"""Of both: whether items have a bias, learning rate, l2, l2_bias."""
TRIPLES = (read(int32), read(int32), read(int32))
"""Of both: rows of users, of items that were had, of items that were not."""


@summing_kernel(*TRIPLES, *RULES, written(float32, 2), written(float64))
def descend(
    users: Codes,
    items: Codes,
    others: Codes,
    biased: bool,
    rate: float,
    l2: float,
    l2_bias: float,
    rows: Scores,
    loss: NDArray[np.float64],
) -> None:
    """One step for each triple, in their order; ``loss[0]`` grows by their sum of ``-ln sigma(x)``."""
    width = rows.shape[1]
    total = 0.0
    for e in range(len(users)):
        p, q, n = rows[users[e]], rows[items[e]], rows[others[e]]
        x: Any = np.float32(0.0)
        for d in range(width):
            x += p[d] * (q[d] - n[d])
        small = exp(-abs(x))
        total += log1p(small) + max(-x, np.float32(0.0))
        step = rate * np.float32((small if x > 0 else 1.0) / (1.0 + small))
        if biased:
            q[0] += step - rate * l2_bias * q[0]
            n[0] -= step + rate * l2_bias * n[0]
        kept = np.float32(1.0) - rate * l2
        for d in range(1, width):
            own, had, not_had = p[d], q[d], n[d]
            p[d] = kept * own + step * (had - not_had)
            q[d] = kept * had + step * own
            n[d] = kept * not_had - step * own
    loss[0] += total


@summing_kernel(
    int64,
    int64,
    int64,
    float32,
    read(float64, 2),
    read(float64, 2),
    written(float32, 2),
    written(float32, 2),
    written(float32, 2),
)
def _forward(
    row: int,
    before: int,
    now: int,
    rate: float,
    fading: NDArray[np.float64],
    ahead: NDArray[np.float64],
    rows: Scores,
    means: Scores,
    squares: Scores,
) -> None:
    """What Adam does to a row from step ``before`` to step ``now`` when it has no slope."""
    if before == now:
        return
    far = ahead[0, before] - fading[2, now - before] * ahead[0, now]
    free = ahead[1, before] - fading[3, now - before] * ahead[1, now]
    reach, rest = np.float32(rate * far), np.float32(EPSILON * free / far)
    left, left_square = np.float32(fading[0, now - before]), np.float32(fading[1, now - before])
    x_W, m_W, v_W = rows[row], means[row], squares[row]
    for d in range(rows.shape[1]):
        x_W[d] -= reach * m_W[d] / (np.sqrt(v_W[d]) + rest)
        m_W[d] *= left
        v_W[d] *= left_square


@summing_kernel(
    *TRIPLES,
    int64,
    int64,
    *RULES,
    written(float32, 2),
    written(float32, 2),
    written(float32, 2),
    written(float64),
)
def adam(
    users: Codes,
    items: Codes,
    others: Codes,
    batch: int,
    step: int,
    biased: bool,
    rate: float,
    l2: float,
    l2_bias: float,
    rows: Scores,
    means: Scores,
    squares: Scores,
    loss: NDArray[np.float64],
) -> None:
    """One step for the mean over each batch of triples, in their order; as :func:`descend` otherwise.

    Args:
        step: steps that were made before.
        means: ``(R, W)`` the running means of slopes, zero at first.
        squares: ``(R, W)`` those of squared slopes.
    """
    width, first = rows.shape[1], 0 if biased else 1
    steps = (len(users) + batch - 1) // batch
    # fading[k]: what is left of a running mean after k steps; ahead[t]: what one of 1 still does after step t
    fading = np.empty((4, steps + 1))
    ahead = np.empty((2, steps + 1))
    for k in range(steps + 1):
        fading[0, k], fading[1, k] = B1**k, B2**k
        fading[2, k], fading[3, k] = (B1 / sqrt(B2)) ** k, (B1 / B2) ** k
    ahead[0, steps], ahead[1, steps] = 0.0, 0.0
    for t in range(steps - 1, -1, -1):
        free = 1.0 - B2 ** (step + t + 1)
        drawn = 1.0 - B1 ** (step + t + 1)
        ahead[0, t] = fading[2, 1] * (sqrt(free) / drawn + ahead[0, t + 1])
        ahead[1, t] = fading[3, 1] * (free / drawn + ahead[1, t + 1])
    latest = np.zeros(len(rows), np.int64)
    place = np.full(len(rows), -1, np.int64)
    touched = np.empty(min(3 * batch, len(rows)), np.int64)
    slopes = np.empty((len(touched), width), np.float32)
    total = 0.0
    for now in range(steps):
        begin, end = now * batch, min((now + 1) * batch, len(users))
        count = 0
        for e in range(begin, end):
            for row in (users[e], items[e], others[e]):
                if place[row] < 0:
                    place[row], touched[count] = count, row
                    slopes[count] = np.float32(0.0)
                    count += 1
                    _forward(row, latest[row], now, rate, fading, ahead, rows, means, squares)
        share = np.float32(1.0 / (end - begin))
        for e in range(begin, end):
            p, q, n = rows[users[e]], rows[items[e]], rows[others[e]]
            to_p, to_q, to_n = slopes[place[users[e]]], slopes[place[items[e]]], slopes[place[others[e]]]
            x: Any = np.float32(0.0)
            for d in range(width):
                x += p[d] * (q[d] - n[d])
            small = exp(-abs(x))
            total += log1p(small) + max(-x, np.float32(0.0))
            pull = share * np.float32((small if x > 0 else 1.0) / (1.0 + small))
            if biased:
                to_q[0] += share * l2_bias * q[0] - pull
                to_n[0] += share * l2_bias * n[0] + pull
            for d in range(1, width):
                to_p[d] += share * l2 * p[d] - pull * (q[d] - n[d])
                to_q[d] += share * l2 * q[d] - pull * p[d]
                to_n[d] += share * l2 * n[d] + pull * p[d]
        far = np.float32(rate / (1.0 - B1 ** (step + now + 1)))
        root = np.float32(1.0 / sqrt(1.0 - B2 ** (step + now + 1)))
        for slot in range(count):
            row = touched[slot]
            place[row], latest[row] = -1, now + 1
            x_W, m_W, v_W, g_W = rows[row], means[row], squares[row], slopes[slot]
            for d in range(first, width):
                m_W[d] = np.float32(B1) * m_W[d] + np.float32(1.0 - B1) * g_W[d]
                v_W[d] = np.float32(B2) * v_W[d] + np.float32(1.0 - B2) * g_W[d] * g_W[d]
                x_W[d] -= far * m_W[d] / (np.sqrt(v_W[d]) * root + np.float32(EPSILON))
    for row in range(len(rows)):
        _forward(row, latest[row], steps, rate, fading, ahead, rows, means, squares)
    loss[0] += total
