"""Gradient descent with momentum over batches of ratings, for two tables of factors.

The objective is ``sum_t (r_t - g(c + p_u . q_i))² + sum_u s_u |p_u|² + sum_i s_i |q_i|²`` with g the identity or the
logistic function. A batch of a share h of all ratings has h of the ridge: all batches together are the objective,

    speed = momentum speed - step/2 (gradient of the batch),   factors += speed

for every row of both tables, at once (Salakhutdinov and Mnih 2007, section 5).

Shapes: U users, I items, T ratings, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import boolean, float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["Side", "descend_in_batches"]


class Side(NamedTuple):
    """One of the two tables."""

    rows_RD: Scores
    """Factors; moved in place."""
    speed_RD: Scores
    """What moved them last; likewise."""
    ridge_R: Scores
    """s."""


def descend_in_batches(
    users: Codes,
    items: Codes,
    targets_T: Scores,
    sides: tuple[Side, Side],
    order: NDArray[np.int64],
    *,
    offset: float,
    batch: int,
    step: float,
    momentum: float,
    squash: bool,
) -> float:
    """One pass over all ratings in the given ``order``, in place; the sum of the squared errors, as each was met.

    Args:
        sides: of users and of items.
        offset: c.
        batch: ratings of a batch.
        squash: whether g is the logistic function.
    """
    (users_UD, speed_UD, ridge_U), (items_ID, speed_ID, ridge_I) = sides
    total = np.zeros(1)
    numbers = np.float32(offset), batch, np.float32(step), np.float32(momentum), squash
    _descend(order, users, items, targets_T, users_UD, speed_UD, ridge_U, items_ID, speed_ID, ridge_I, *numbers, total)
    return float(total[0])


@summing_kernel(
    read(int64),
    read(int32),
    read(int32),
    read(float32),
    written(float32, 2),
    written(float32, 2),
    read(float32),
    written(float32, 2),
    written(float32, 2),
    read(float32),
    float32,
    int64,
    float32,
    float32,
    boolean,
    written(float64),
)
def _descend(
    order: NDArray[np.int64],
    users: Codes,
    items: Codes,
    targets: Scores,
    users_UD: Scores,
    speed_UD: Scores,
    ridge_U: Scores,
    items_ID: Scores,
    speed_ID: Scores,
    ridge_I: Scores,
    offset: np.float32,
    batch: int,
    step: np.float32,
    momentum: np.float32,
    squash: bool,
    squares: NDArray[np.float64],
) -> None:
    width, count, one = users_UD.shape[1], len(order), np.float32(1.0)
    for begin in range(0, count, batch):
        stop = min(begin + batch, count)
        share = np.float32((stop - begin) / count)
        # the ridge of the rows as they are before the batch, then what its ratings add
        for u in range(len(users_UD)):
            pull = step * share * ridge_U[u]
            for d in range(width):
                speed_UD[u, d] = momentum * speed_UD[u, d] - pull * users_UD[u, d]
        for i in range(len(items_ID)):
            pull = step * share * ridge_I[i]
            for d in range(width):
                speed_ID[i, d] = momentum * speed_ID[i, d] - pull * items_ID[i, d]
        for place in range(begin, stop):
            t = order[place]
            p, q = users_UD[users[t]], items_ID[items[t]]
            faster_p, faster_q = speed_UD[users[t]], speed_ID[items[t]]
            product = offset
            for d in range(width):
                product += p[d] * q[d]
            slope = one
            if squash:
                product = one / (one + np.exp(-product))
                slope = product * (one - product)
            error = targets[t] - product
            squares[0] += np.float64(error) * np.float64(error)
            push = step * error * slope
            for d in range(width):
                faster_p[d] += push * q[d]
                faster_q[d] += push * p[d]
        for u in range(len(users_UD)):
            for d in range(width):
                users_UD[u, d] += speed_UD[u, d]
        for i in range(len(items_ID)):
            for d in range(width):
                items_ID[i, d] += speed_ID[i, d]
