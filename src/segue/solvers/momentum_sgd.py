"""Minibatch gradient descent with momentum for matrix factorization of ratings.

The objective is ``sum_t (r_t - g(c + p_u . q_i))² + sum_u s_u |p_u|² + sum_i s_i |q_i|²``, with g the identity or the
logistic function. A batch with a share h of all ratings gets a share h of the regularization, so that all batches add
up to the objective:

    velocity = momentum velocity - step/2 (gradient of the batch),   factors += velocity

for all rows of both matrices at once (Salakhutdinov and Mnih 2007, section 5).

Shapes: U users, I items, T ratings, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import boolean, float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array
from segue.core.types import Codes, Scores

__all__ = ["FactorSide", "momentum_sgd_epoch"]


class FactorSide(NamedTuple):
    """Factors of users or of items, with their state."""

    rows_RD: Scores
    """Factors; updated in place."""
    velocity_RD: Scores
    """Velocities; updated in place."""
    ridge_R: Scores
    """s, regularization of each row."""


def momentum_sgd_epoch(
    users: Codes,
    items: Codes,
    targets_T: Scores,
    sides: tuple[FactorSide, FactorSide],
    order: NDArray[np.int64],
    *,
    offset: float,
    batch: int,
    step: float,
    momentum: float,
    use_sigmoid: bool,
) -> float:
    """Run one pass over all ratings in the given ``order``, in place.

    Returns:
        The sum of squared errors, each before its batch was applied.

    Args:
        sides: factors of users and of items.
        offset: c.
        batch: number of ratings of a batch.
        use_sigmoid: whether g is the logistic function.
    """
    (users_UD, velocity_UD, ridge_U), (items_ID, velocity_ID, ridge_I) = sides
    total = np.zeros(1)
    hyperparameters = np.float32(offset), batch, np.float32(step), np.float32(momentum), use_sigmoid
    _sgd_kernel(
        order,
        users,
        items,
        targets_T,
        users_UD,
        velocity_UD,
        ridge_U,
        items_ID,
        velocity_ID,
        ridge_I,
        *hyperparameters,
        total,
    )
    return float(total[0])


@fastmath_kernel(
    input_array(int64),
    input_array(int32),
    input_array(int32),
    input_array(float32),
    output_array(float32, 2),
    output_array(float32, 2),
    input_array(float32),
    output_array(float32, 2),
    output_array(float32, 2),
    input_array(float32),
    float32,
    int64,
    float32,
    float32,
    boolean,
    output_array(float64),
)
def _sgd_kernel(
    order: NDArray[np.int64],
    users: Codes,
    items: Codes,
    targets: Scores,
    users_UD: Scores,
    velocity_UD: Scores,
    ridge_U: Scores,
    items_ID: Scores,
    velocity_ID: Scores,
    ridge_I: Scores,
    offset: np.float32,
    batch: int,
    step: np.float32,
    momentum: np.float32,
    use_sigmoid: bool,
    squares: NDArray[np.float64],
) -> None:
    width, count, one = users_UD.shape[1], len(order), np.float32(1.0)
    for start in range(0, count, batch):
        end = min(start + batch, count)
        share = np.float32((end - start) / count)
        # regularization at the rows before the batch, then the gradients of its ratings
        for u in range(len(users_UD)):
            shrinkage = step * share * ridge_U[u]
            for d in range(width):
                velocity_UD[u, d] = momentum * velocity_UD[u, d] - shrinkage * users_UD[u, d]
        for i in range(len(items_ID)):
            shrinkage = step * share * ridge_I[i]
            for d in range(width):
                velocity_ID[i, d] = momentum * velocity_ID[i, d] - shrinkage * items_ID[i, d]
        for position in range(start, end):
            t = order[position]
            user_D, item_D = users_UD[users[t]], items_ID[items[t]]
            velocity_user, velocity_item = velocity_UD[users[t]], velocity_ID[items[t]]
            prediction = offset
            for d in range(width):
                prediction += user_D[d] * item_D[d]
            slope = one
            if use_sigmoid:
                prediction = one / (one + np.exp(-prediction))
                slope = prediction * (one - prediction)
            error = targets[t] - prediction
            squares[0] += np.float64(error) * np.float64(error)
            update = step * error * slope
            for d in range(width):
                velocity_user[d] += update * item_D[d]
                velocity_item[d] += update * user_D[d]
        for u in range(len(users_UD)):
            for d in range(width):
                users_UD[u, d] += velocity_UD[u, d]
        for i in range(len(items_ID)):
            for d in range(width):
                items_ID[i, d] += velocity_ID[i, d]
