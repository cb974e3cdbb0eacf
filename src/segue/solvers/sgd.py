"""Stochastic gradient descent of biases, factors and what having an item tells, one rating after the other.

A rating is ``b_u + b_i + q_i . (p_u + z_u)`` with ``z_u = |N|^-1/2 sum_{j in N} y_j`` over the items N that user u has
(Koren 2008, eq. 15). A rating with error e moves everything it was made from,

    b += step (e - l2_bias b)              q_i += step (e (p_u + z_u) - l2 q_i)
    p_u += step (e q_i - l2 p_u)           y_j += step (e |N|^-1/2 q_i - l2 y_j)   for all j in N

which as it stands costs |N| D for each rating. But all y_j of a user's items shrink and grow alike, so that z_u moves
as p_u does, ``z_u += step (e q_i - l2 z_u)``: while a user's ratings are visited no more than the sum of the two is
needed, and the y_j are brought up to date after his last rating. The numbers are those of the formulas, not near them,
and a rating costs D.

Shapes: U users, I items, T ratings, E pairs of a user and an item he has, D width without the bias.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["descend"]


def descend(
    offsets: NDArray[np.int64],
    items: Codes,
    targets_T: Scores,
    seen_offsets: NDArray[np.int64],
    seen: Codes,
    users_UB: Scores,
    items_IB: Scores,
    implied_ID: Scores,
    *,
    step: float,
    l2: float,
    l2_bias: float,
    rng: np.random.Generator,
) -> float:
    """One pass over all ratings in place: users in an order that is drawn, the ratings of each in another.

    Returns:
        The sum of the squared errors, each as it was when its rating was visited.

    Args:
        offsets: ``(U + 1,)`` ratings of user u are ``offsets[u]:offsets[u + 1]``.
        items: ``(T,)`` their items.
        targets_T: what ``b_u + b_i + q_i . (p_u + z_u)`` should be.
        seen_offsets: ``(U + 1,)`` the distinct items that u has are ``seen[seen_offsets[u]:seen_offsets[u + 1]]``.
        seen: ``(E,)``; empty for factors without what having an item tells.
        users_UB: b and p, ``(U, 1 + D)``.
        items_IB: b and q, ``(I, 1 + D)``.
        implied_ID: y.
    """
    order = rng.permutation(len(offsets) - 1)
    draws_T = rng.random(len(items), np.float32)
    total = np.zeros(1)
    steps = np.float32(step), np.float32(l2), np.float32(l2_bias)
    _descend(
        order, offsets, items, targets_T, draws_T, seen_offsets, seen, users_UB, items_IB, implied_ID, *steps, total
    )
    return float(total[0])


@summing_kernel(
    read(int64),
    read(int64),
    read(int32),
    read(float32),
    read(float32),
    read(int64),
    read(int32),
    written(float32, 2),
    written(float32, 2),
    written(float32, 2),
    float32,
    float32,
    float32,
    written(float64),
)
def _descend(
    order: NDArray[np.int64],
    offsets: NDArray[np.int64],
    items: Codes,
    targets: Scores,
    draws: Scores,
    seen_offsets: NDArray[np.int64],
    seen: Codes,
    users_UB: Scores,
    items_IB: Scores,
    implied_ID: Scores,
    step: np.float32,
    l2: np.float32,
    l2_bias: np.float32,
    squares: NDArray[np.float64],
) -> None:
    width = users_UB.shape[1] - 1
    longest = 0
    for u in range(len(order)):
        longest = max(longest, offsets[u + 1] - offsets[u])
    visit = np.empty(longest, np.int64)
    start, moved = np.empty(width, np.float32), np.empty(width, np.float32)
    one = np.float32(1.0)
    decay = one - step * l2
    for place in range(len(order)):
        u = order[place]
        begin, count = offsets[u], offsets[u + 1] - offsets[u]
        first, stop = seen_offsets[u], seen_offsets[u + 1]
        if count == 0:
            continue
        # own is p + z; of what it gains p has one half and z the other, or p has all where there is no z
        own = users_UB[u, 1:]
        share, root = one, np.float32(0.0)
        moved[:] = np.float32(0.0)
        if stop > first:
            share, root = np.float32(0.5), one / np.sqrt(np.float32(stop - first))
            for e in range(first, stop):
                implied = implied_ID[seen[e]]
                for d in range(width):
                    moved[d] += implied[d]
        for d in range(width):
            moved[d] = root * moved[d] + own[d]
            start[d] = moved[d]
        for k in range(count):
            visit[k] = begin + k
        for k in range(count - 1, 0, -1):
            other = min(int(draws[begin + k] * (k + 1)), k)
            visit[k], visit[other] = visit[other], visit[k]
        bias, kept = users_UB[u, 0], one
        push = step / share
        for k in range(count):
            t = visit[k]
            item = items_IB[items[t]]
            factors = item[1:]
            product = np.float32(0.0)
            for d in range(width):
                product += factors[d] * moved[d]
            error = targets[t] - bias - item[0] - product
            squares[0] += np.float64(error) * np.float64(error)
            bias += step * (error - l2_bias * bias)
            item[0] += step * (error - l2_bias * item[0])
            mine, its = push * error, step * error
            for d in range(width):
                before = factors[d]
                factors[d] = decay * before + its * moved[d]
                moved[d] = decay * moved[d] + mine * before
            kept *= decay
        users_UB[u, 0] = bias
        for d in range(width):
            gained = share * (moved[d] - kept * start[d])
            own[d] = kept * own[d] + gained
            moved[d] = root * gained
        for e in range(first, stop):
            implied = implied_ID[seen[e]]
            for d in range(width):
                implied[d] = kept * implied[d] + moved[d]
