"""Sample the events of users from the choice model.

Shapes: U users, T events, S states, I items.
"""

from __future__ import annotations

from math import floor, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.numba_kernels import kernel
from segue.data.simulator.choice_model import SESSION_GAP, AliasTables, ChoiceModel
from segue.data.simulator.counter_rng import EVENTS, key, uniform

__all__ = ["FIRST_START", "sample_events"]

FIRST_START = 1_640_995_200
"""2022-01-01 in UTC; users start within ``START_SPAN`` seconds after."""
START_SPAN = 3 * 365 * 86_400
MAX_TRIES = 64


@kernel
def _sample_index(weights: Any, u: float) -> int:
    """Return the index at which the running sum of ``weights`` (sum 1) exceeds ``u``."""
    total = 0.0
    for place in range(len(weights)):
        total += weights[place]
        if u < total:
            return place
    place = len(weights) - 1
    while place > 0 and weights[place] == 0.0:
        place -= 1
    return place


@kernel
def _sample_by_scan(choice_IS: Any, s: int, seen: Any, mark: int, u: float) -> int:
    """Sample an unseen item by running sums over the catalog.

    The result is exact; the time is linear in the number of items.
    """
    total = 0.0
    for i in range(len(seen)):
        if seen[i] != mark:
            total += choice_IS[i, s]
    running, chosen = 0.0, -1
    for i in range(len(seen)):
        if seen[i] != mark:
            running += choice_IS[i, s]
            chosen = i
            if u * total < running:
                break
    return chosen


@kernel
def sample_events(
    model: ChoiceModel,
    table: AliasTables,
    seed: int,
    first: int,
    prior_US: NDArray[np.float64],
    offsets: NDArray[np.int64],
    seen: NDArray[np.int32],
    items: NDArray[np.int32],
    times: NDArray[np.int64],
    ratings: NDArray[np.float32],
    states: NDArray[np.int16],
) -> None:
    """Fill the ``(T,)`` columns of the users from ``first`` on.

    ``states`` is not filled if its length is 0. ``seen (I,)`` is scratch memory, initially 0.
    """
    n_items, n_tastes = model.level.shape
    for row in range(len(offsets) - 1):
        mark = first + row + 1
        start = key(seed, EVENTS, first + row)
        n = 2
        s = _sample_index(prior_US[row], uniform(start, 0))
        a, z = s // n_tastes, s % n_tastes
        clock = FIRST_START + np.int64(floor(uniform(start, 1) * START_SPAN))
        begin, distinct = offsets[row], 0
        for t in range(begin, offsets[row + 1]):
            age = t - begin
            if age > 0:
                fresh_session = uniform(start, n) < model.session
                if fresh_session:
                    clock += 2 * SESSION_GAP + np.int64(floor(-4 * 86_400 * log(1.0 - uniform(start, n + 1))))
                else:
                    clock += 60 + np.int64(floor(uniform(start, n + 1) * 7_200))
                z = _sample_index(model.drift[1 if fresh_session else 0, z], uniform(start, n + 2))
                n += 3
            s = a * n_tastes + z
            next_part = model.sequel[items[t - 1]] if age > 0 else np.int32(-1)
            if age > 0 and uniform(start, n) < model.repeat_prob[a]:
                u = uniform(start, n + 1)
                if model.recency == 1.0:
                    back = np.int64(floor(u * age))
                else:
                    back = np.int64(floor(log(1.0 - u * (1.0 - model.recency**age)) / log(model.recency)))
                item = items[t - 1 - min(back, age - 1)]
                n += 2
            elif next_part >= 0 and seen[next_part] != mark and uniform(start, n + 1) < model.sequel_prob[a]:
                item = next_part
                n += 2
            else:
                n += 2
                item = np.int32(-1)
                for _ in range(MAX_TRIES):
                    place = uniform(start, n) * n_items
                    drawn = np.int64(floor(place))
                    # the fractional part of the same number decides between the item and its alias
                    if place - drawn >= table.keep[s, drawn]:
                        drawn = np.int64(table.other[s, drawn])
                    n += 1
                    if distinct == n_items or seen[drawn] != mark:
                        item = np.int32(drawn)
                        break
                if item < 0:
                    item = np.int32(_sample_by_scan(model.choice, s, seen, mark, uniform(start, n)))
                    n += 1
            if seen[item] != mark:
                seen[item] = mark
                distinct += 1
            items[t] = item
            times[t] = clock
            ratings[t] = 1.0 + _sample_index(model.rating[model.level[item, z]], uniform(start, n))
            n += 1
            if len(states) > 0:
                states[t] = s
