"""Stochastic gradient descent for SVD++, one rating at a time.

The parameters are biases, factors and implicit item factors.

A rating is ``b_u + b_i + q_i . (p_u + z_u)``, with ``z_u = |N|^-1/2 sum_{j in N} y_j`` over the items N of user u
(Koren 2008, eq. 15). A rating with error e updates all parameters that it depends on,

    b += step (e - l2_bias b)              q_i += step (e (p_u + z_u) - l2 q_i)
    p_u += step (e q_i - l2 p_u)           y_j += step (e |N|^-1/2 q_i - l2 y_j)   for all j in N

which would cost |N| D for each rating. However, all y_j of a user's items get the same update, so that z_u changes in
the same way as p_u: ``z_u += step (e q_i - l2 z_u)``. Only the sum of the two is needed while the ratings of a user are
visited, and the y_j are updated after the last rating. The results are exactly those of the formulas, at cost D for
each rating.

Shapes: U users, I items, T ratings, E user-item pairs, D dimensions without the bias.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array
from segue.core.types import Codes, Scores

__all__ = ["sgd_epoch"]


def sgd_epoch(
    offsets: NDArray[np.int64],
    items: Codes,
    targets_T: Scores,
    seen_offsets: NDArray[np.int64],
    seen: Codes,
    users_UB: Scores,
    items_IB: Scores,
    implicit_ID: Scores,
    *,
    step: float,
    l2: float,
    l2_bias: float,
    rng: np.random.Generator,
) -> float:
    """Run one pass over all ratings, in place.

    Users are visited in random order, and then the ratings of each.

    Returns:
        The sum of squared errors, each before its update.

    Args:
        offsets: ``(U + 1,)`` ratings of user u are ``offsets[u]:offsets[u + 1]``.
        items: ``(T,)`` their items.
        targets_T: targets of ``b_u + b_i + q_i . (p_u + z_u)``.
        seen_offsets: ``(U + 1,)`` the distinct items of u are ``seen[seen_offsets[u]:seen_offsets[u + 1]]``.
        seen: ``(E,)``; empty for a model without implicit item factors.
        users_UB: b and p, ``(U, 1 + D)``.
        items_IB: b and q, ``(I, 1 + D)``.
        implicit_ID: y.
        step: learning rate.
        l2: regularization of factors.
        l2_bias: regularization of biases.
        rng: source of the random order.
    """
    order = rng.permutation(len(offsets) - 1)
    draws_T = rng.random(len(items), np.float32)
    total = np.zeros(1)
    hyperparameters = np.float32(step), np.float32(l2), np.float32(l2_bias)
    _sgd_kernel(
        order,
        offsets,
        items,
        targets_T,
        draws_T,
        seen_offsets,
        seen,
        users_UB,
        items_IB,
        implicit_ID,
        *hyperparameters,
        total,
    )
    return float(total[0])


@fastmath_kernel(
    input_array(int64),
    input_array(int64),
    input_array(int32),
    input_array(float32),
    input_array(float32),
    input_array(int64),
    input_array(int32),
    output_array(float32, 2),
    output_array(float32, 2),
    output_array(float32, 2),
    float32,
    float32,
    float32,
    output_array(float64),
)
def _sgd_kernel(
    order: NDArray[np.int64],
    offsets: NDArray[np.int64],
    items: Codes,
    targets: Scores,
    draws: Scores,
    seen_offsets: NDArray[np.int64],
    seen: Codes,
    users_UB: Scores,
    items_IB: Scores,
    implicit_ID: Scores,
    step: np.float32,
    l2: np.float32,
    l2_bias: np.float32,
    squares: NDArray[np.float64],
) -> None:
    width = users_UB.shape[1] - 1
    max_length = 0
    for u in range(len(order)):
        max_length = max(max_length, offsets[u + 1] - offsets[u])
    visit_order = np.empty(max_length, np.int64)
    start_D, combined_D = np.empty(width, np.float32), np.empty(width, np.float32)
    one = np.float32(1.0)
    decay = one - step * l2
    for position in range(len(order)):
        u = order[position]
        begin, count = offsets[u], offsets[u + 1] - offsets[u]
        first, stop = seen_offsets[u], seen_offsets[u + 1]
        if count == 0:
            continue
        # combined_D is p + z; p gets half of its change and z the other half, or p gets all if there is no z
        user_D = users_UB[u, 1:]
        user_share, scale = one, np.float32(0.0)
        combined_D[:] = np.float32(0.0)
        if stop > first:
            user_share, scale = np.float32(0.5), one / np.sqrt(np.float32(stop - first))
            for e in range(first, stop):
                implicit_D = implicit_ID[seen[e]]
                for d in range(width):
                    combined_D[d] += implicit_D[d]
        for d in range(width):
            combined_D[d] = scale * combined_D[d] + user_D[d]
            start_D[d] = combined_D[d]
        for k in range(count):
            visit_order[k] = begin + k
        for k in range(count - 1, 0, -1):
            other = min(int(draws[begin + k] * (k + 1)), k)
            visit_order[k], visit_order[other] = visit_order[other], visit_order[k]
        bias, total_decay = users_UB[u, 0], one
        combined_step = step / user_share
        for k in range(count):
            t = visit_order[k]
            item = items_IB[items[t]]
            factors = item[1:]
            prediction = np.float32(0.0)
            for d in range(width):
                prediction += factors[d] * combined_D[d]
            error = targets[t] - bias - item[0] - prediction
            squares[0] += np.float64(error) * np.float64(error)
            bias += step * (error - l2_bias * bias)
            item[0] += step * (error - l2_bias * item[0])
            combined_update, item_update = combined_step * error, step * error
            for d in range(width):
                previous = factors[d]
                factors[d] = decay * previous + item_update * combined_D[d]
                combined_D[d] = decay * combined_D[d] + combined_update * previous
            total_decay *= decay
        users_UB[u, 0] = bias
        for d in range(width):
            change = user_share * (combined_D[d] - total_decay * start_D[d])
            user_D[d] = total_decay * user_D[d] + change
            combined_D[d] = scale * change
        for e in range(first, stop):
            implicit_D = implicit_ID[seen[e]]
            for d in range(width):
                implicit_D[d] = total_decay * implicit_D[d] + combined_D[d]
