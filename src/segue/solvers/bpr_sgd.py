"""Pairwise learning of factors for BPR: SGD by triplet, or Adam by batch.

The objective of a triplet of user u, positive item i and negative item j, with
``x = p_u . (q_i - q_j) + b_i - b_j``:

    -ln sigma(x)  +  l2 / 2 (|p_u|² + |q_i|² + |q_j|²)  +  l2_bias / 2 (b_i² + b_j²)

Users and items are rows of one matrix, items after users. The first column is the bias; for users it is fixed at 1.

Adam (Kingma and Ba 2015, arXiv:1412.6980) moves every row at every step, even those without a gradient, because of the
running means. Here, a row is updated when it is next used, or at the end: the sum of the skipped steps has a closed
form, up to the effect of ``EPSILON`` in the denominator, which is averaged over these steps. The cost of a step depends
on the batch, not on the number of users and items.

Shapes: R rows of users and items, W columns (bias and factors), S triplets.
"""

from __future__ import annotations

from math import exp, log1p, sqrt
from typing import Any

import numpy as np
from numba import boolean, float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array
from segue.core.types import Codes, Scores

__all__ = ["BETAS", "EPSILON", "bpr_adam_epoch", "bpr_sgd_epoch"]

BETAS = (0.9, 0.999)
"""Decay rates of the running means of gradients and of their squares: the defaults of torch."""
EPSILON = 1e-8
"""Added to the root of the running mean of squares."""

B1, B2 = BETAS
HYPERPARAMETERS = (boolean, float32, float32, float32)
"""Whether items have a bias, learning rate, l2, l2_bias."""
TRIPLET_ARRAYS = (input_array(int32), input_array(int32), input_array(int32))
"""Rows of users, of positive items and of negative items."""


@fastmath_kernel(*TRIPLET_ARRAYS, *HYPERPARAMETERS, output_array(float32, 2), output_array(float64))
def bpr_sgd_epoch(
    users: Codes,
    items: Codes,
    negatives: Codes,
    has_bias: bool,
    learning_rate: float,
    l2: float,
    l2_bias: float,
    rows: Scores,
    loss: NDArray[np.float64],
) -> None:
    """Take one step for each triplet, in order.

    Add their ``-ln sigma(x)`` to ``loss[0]``.
    """
    width = rows.shape[1]
    total = 0.0
    for e in range(len(users)):
        user, positive, negative = rows[users[e]], rows[items[e]], rows[negatives[e]]
        x: Any = np.float32(0.0)
        for d in range(width):
            x += user[d] * (positive[d] - negative[d])
        exp_x = exp(-abs(x))
        total += log1p(exp_x) + max(-x, np.float32(0.0))
        step = learning_rate * np.float32((exp_x if x > 0 else 1.0) / (1.0 + exp_x))
        if has_bias:
            positive[0] += step - learning_rate * l2_bias * positive[0]
            negative[0] -= step + learning_rate * l2_bias * negative[0]
        decay = np.float32(1.0) - learning_rate * l2
        for d in range(1, width):
            p_d, q_d, n_d = user[d], positive[d], negative[d]
            user[d] = decay * p_d + step * (q_d - n_d)
            positive[d] = decay * q_d + step * p_d
            negative[d] = decay * n_d - step * p_d
    loss[0] += total


@fastmath_kernel(
    int64,
    int64,
    int64,
    float32,
    input_array(float64, 2),
    input_array(float64, 2),
    output_array(float32, 2),
    output_array(float32, 2),
    output_array(float32, 2),
)
def _lazy_adam_step(
    row: int,
    start: int,
    stop: int,
    learning_rate: float,
    decays: NDArray[np.float64],
    remaining: NDArray[np.float64],
    rows: Scores,
    means: Scores,
    squares: Scores,
) -> None:
    """Apply the steps ``start`` to ``stop`` of Adam to a row without gradients."""
    if start == stop:
        return
    momentum_sum = remaining[0, start] - decays[2, stop - start] * remaining[0, stop]
    variance_sum = remaining[1, start] - decays[3, stop - start] * remaining[1, stop]
    step_size, epsilon = np.float32(learning_rate * momentum_sum), np.float32(EPSILON * variance_sum / momentum_sum)
    momentum_decay, variance_decay = np.float32(decays[0, stop - start]), np.float32(decays[1, stop - start])
    x_W, m_W, v_W = rows[row], means[row], squares[row]
    for d in range(rows.shape[1]):
        x_W[d] -= step_size * m_W[d] / (np.sqrt(v_W[d]) + epsilon)
        m_W[d] *= momentum_decay
        v_W[d] *= variance_decay


@fastmath_kernel(int64, output_array(float64, 2), output_array(float64, 2))
def _tabulate_decays(n_previous_steps: int, decays: NDArray[np.float64], remaining: NDArray[np.float64]) -> None:
    """Tabulate the effect of steps without a gradient.

    Compute ``decays[:, k]``, the factors of the running means after k steps, and ``remaining[:, t]``, the sums of later
    steps.
    """
    n_steps = decays.shape[1] - 1
    for k in range(n_steps + 1):
        decays[0, k], decays[1, k] = B1**k, B2**k
        decays[2, k], decays[3, k] = (B1 / sqrt(B2)) ** k, (B1 / B2) ** k
    remaining[0, n_steps], remaining[1, n_steps] = 0.0, 0.0
    for t in range(n_steps - 1, -1, -1):
        variance_correction = 1.0 - B2 ** (n_previous_steps + t + 1)
        mean_correction = 1.0 - B1 ** (n_previous_steps + t + 1)
        remaining[0, t] = decays[2, 1] * (sqrt(variance_correction) / mean_correction + remaining[0, t + 1])
        remaining[1, t] = decays[3, 1] * (variance_correction / mean_correction + remaining[1, t + 1])


@fastmath_kernel(
    *TRIPLET_ARRAYS,
    int64,
    int64,
    *HYPERPARAMETERS,
    output_array(float32, 2),
    output_array(float32, 2),
    output_array(float32, 2),
    output_array(float64),
)
def bpr_adam_epoch(
    users: Codes,
    items: Codes,
    negatives: Codes,
    batch: int,
    n_previous_steps: int,
    has_bias: bool,
    learning_rate: float,
    l2: float,
    l2_bias: float,
    rows: Scores,
    means: Scores,
    squares: Scores,
    loss: NDArray[np.float64],
) -> None:
    """Take one step for each batch of triplets, in order.

    The objective of a step is the mean over the batch. The loss is that of :func:`bpr_sgd_epoch`.

    Args:
        n_previous_steps: number of steps in previous epochs.
        means: ``(R, W)`` running means of gradients, initially zero.
        squares: ``(R, W)`` running means of squared gradients, initially zero.
    """
    width, first_column = rows.shape[1], 0 if has_bias else 1
    n_steps = (len(users) + batch - 1) // batch
    decays, remaining = np.empty((4, n_steps + 1)), np.empty((2, n_steps + 1))
    _tabulate_decays(n_previous_steps, decays, remaining)
    last_step = np.zeros(len(rows), np.int64)
    slot_of_row = np.full(len(rows), -1, np.int64)
    touched_rows = np.empty(min(3 * batch, len(rows)), np.int64)
    gradients = np.empty((len(touched_rows), width), np.float32)
    total = 0.0
    for batch_index in range(n_steps):
        begin, end = batch_index * batch, min((batch_index + 1) * batch, len(users))
        count = 0
        for e in range(begin, end):
            for row in (users[e], items[e], negatives[e]):
                if slot_of_row[row] < 0:
                    slot_of_row[row], touched_rows[count] = count, row
                    gradients[count] = np.float32(0.0)
                    count += 1
                    _lazy_adam_step(
                        row, last_step[row], batch_index, learning_rate, decays, remaining, rows, means, squares
                    )
        share = np.float32(1.0 / (end - begin))
        for e in range(begin, end):
            user, positive, negative = rows[users[e]], rows[items[e]], rows[negatives[e]]
            grad_user, grad_positive, grad_negative = (
                gradients[slot_of_row[users[e]]],
                gradients[slot_of_row[items[e]]],
                gradients[slot_of_row[negatives[e]]],
            )
            x: Any = np.float32(0.0)
            for d in range(width):
                x += user[d] * (positive[d] - negative[d])
            exp_x = exp(-abs(x))
            total += log1p(exp_x) + max(-x, np.float32(0.0))
            slope = share * np.float32((exp_x if x > 0 else 1.0) / (1.0 + exp_x))
            if has_bias:
                grad_positive[0] += share * l2_bias * positive[0] - slope
                grad_negative[0] += share * l2_bias * negative[0] + slope
            for d in range(1, width):
                grad_user[d] += share * l2 * user[d] - slope * (positive[d] - negative[d])
                grad_positive[d] += share * l2 * positive[d] - slope * user[d]
                grad_negative[d] += share * l2 * negative[d] + slope * user[d]
        step_size = np.float32(learning_rate / (1.0 - B1 ** (n_previous_steps + batch_index + 1)))
        variance_scale = np.float32(1.0 / sqrt(1.0 - B2 ** (n_previous_steps + batch_index + 1)))
        for slot in range(count):
            row = touched_rows[slot]
            slot_of_row[row], last_step[row] = -1, batch_index + 1
            x_W, m_W, v_W, g_W = rows[row], means[row], squares[row], gradients[slot]
            for d in range(first_column, width):
                m_W[d] = np.float32(B1) * m_W[d] + np.float32(1.0 - B1) * g_W[d]
                v_W[d] = np.float32(B2) * v_W[d] + np.float32(1.0 - B2) * g_W[d] * g_W[d]
                x_W[d] -= step_size * m_W[d] / (np.sqrt(v_W[d]) * variance_scale + np.float32(EPSILON))
    for row in range(len(rows)):
        _lazy_adam_step(row, last_step[row], n_steps, learning_rate, decays, remaining, rows, means, squares)
    loss[0] += total
