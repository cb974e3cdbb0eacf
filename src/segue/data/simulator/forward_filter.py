"""What a history says of the hidden state, and so of the next item: the forward recursion.

Shapes: N queries, T events, S states, I items.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.core.numba_kernels import kernel
from segue.core.types import Events
from segue.data.simulator.choice_model import Law

__all__ = ["UNKNOWN", "Next", "distribution", "follow"]

UNKNOWN = -1
"""A session flag that was not observed."""


class Next(NamedTuple):
    """What the choice of the next item depends on."""

    belief: NDArray[np.float64]
    """``(N, S)`` P(state of the next event | history)."""
    rest: NDArray[np.float64]
    """``(N, S)`` probability that the state has for items not in the history; 1 if none is left."""
    share: NDArray[np.float64]
    """``(T,)`` share of each event in a repeat; sums to 1 in each row."""
    sequel: NDArray[np.int32]
    """``(N,)`` the next part that waits, or -1."""
    full: NDArray[np.bool_]
    """``(N,)`` whether the history holds all the catalogue."""


def distribution(law: Law, history: Events, after: Next, belief_NS: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(N, I)`` probabilities of the next item, the hidden state being as ``belief_NS`` says."""
    a_S = np.arange(belief_NS.shape[1]) // law.level.shape[1]
    waiting_N = after.sequel >= 0
    returning_NS = belief_NS * law.returning[a_S] * (history.lengths > 0)[:, None]
    following_NS = (belief_NS - returning_NS) * law.following[a_S] * waiting_N[:, None]
    out_NI: NDArray[np.float64] = ((belief_NS - returning_NS - following_NS) / after.rest) @ law.choice.T
    rows_T = history.rows
    closed_T = ~after.full[rows_T]
    out_NI[rows_T[closed_T], history.items[closed_T]] = 0.0
    np.add.at(out_NI, (rows_T, history.items), after.share * returning_NS.sum(axis=1)[rows_T])
    row = np.flatnonzero(waiting_N)
    out_NI[row, after.sequel[row]] += following_NS.sum(axis=1)[row]
    return out_NI


@kernel
def _move(belief: Any, moved: Any, drift: Any, session: float, flag: int) -> None:
    """One drift of the tastes, ``belief (S,)`` in place."""
    n_tastes = drift.shape[1]
    weight = session if flag < 0 else float(flag)
    for a in range(len(belief) // n_tastes):
        low = a * n_tastes
        for to in range(n_tastes):
            total = 0.0
            for z in range(n_tastes):
                total += belief[low + z] * ((1.0 - weight) * drift[0, z, to] + weight * drift[1, z, to])
            moved[to] = total
        for to in range(n_tastes):
            belief[low + to] = moved[to]


@kernel
def follow(
    law: Law,
    prior_NS: NDArray[np.float64],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    flags: NDArray[np.int8],
    ratings: NDArray[np.int8],
    coming: NDArray[np.int8],
) -> Next:
    """Filter each row of events.

    ``flags (T,)``: 1 where an event begins a session, 0 where not, or UNKNOWN (the first of a row is not read);
    ``ratings (T,)``: 1 to 5, or 0 if not observed; ``coming (N,)``: the flag of the event asked for. An event that
    the law cannot produce says nothing of the state.
    """
    n_items, n_tastes = law.level.shape
    n, n_states = prior_NS.shape
    state_NS, rest_NS, share = prior_NS.copy(), np.ones((n, n_states)), np.zeros(len(items))
    sequel, full = np.full(n, -1, dtype=np.int32), np.zeros(n, dtype=np.bool_)
    mark, heat, touched = np.zeros(n_items, np.int64), np.zeros(n_items), np.zeros(n_items, np.int64)
    likely, moved = np.empty(n_states), np.empty(n_tastes)
    base = np.empty(n_states)
    for row in range(n):
        belief, rest = state_NS[row], rest_NS[row]
        base[:] = 1.0
        distinct, warmth = 0, 0.0
        begin, end = offsets[row], offsets[row + 1]
        for t in range(begin, end):
            item = items[t]
            if t > begin:
                _move(belief, moved, law.drift, law.session, flags[t])
            seen = mark[item] == row + 1
            back = heat[item] * law.recency ** (t - 1 - touched[item]) / warmth if seen else 0.0
            part = law.sequel[items[t - 1]] if t > begin else -1
            waiting = part >= 0 and mark[part] != row + 1
            total = 0.0
            for s in range(n_states):
                a = s // n_tastes
                chance = law.following[a] if waiting else 0.0
                emitted = 0.0
                if not seen or distinct == n_items:
                    emitted = (1.0 - chance) * law.choice[item, s] / rest[s]
                if waiting and part == item:
                    emitted += chance
                if t > begin:
                    emitted = (1.0 - law.returning[a]) * emitted + law.returning[a] * back
                if ratings[t] > 0:
                    emitted *= law.rating[law.level[item, s % n_tastes], ratings[t] - 1]
                likely[s] = belief[s] * emitted
                total += likely[s]
            if total > 0.0:
                for s in range(n_states):
                    belief[s] = likely[s] / total
            heat[item] = (heat[item] * law.recency ** (t - touched[item]) if seen else 0.0) + 1.0
            touched[item] = t
            warmth = warmth * law.recency + 1.0
            if not seen:
                mark[item] = row + 1
                distinct += 1
                again = False
                for s in range(n_states):
                    rest[s] -= law.choice[item, s]
                    again = again or rest[s] < 0.5 * base[s]
                if distinct == n_items:
                    rest[:] = 1.0
                elif again:  # at each halving, so that what cancels stays small against what is left
                    rest[:] = 0.0
                    for i in range(n_items):
                        if mark[i] != row + 1:
                            for s in range(n_states):
                                rest[s] += law.choice[i, s]
                    base[:] = rest
        full[row] = distinct == n_items
        if end > begin:
            _move(belief, moved, law.drift, law.session, coming[row])
            part = law.sequel[items[end - 1]]
            if part >= 0 and mark[part] != row + 1:
                sequel[row] = part
        weight = 1.0
        for t in range(end - 1, begin - 1, -1):
            share[t] = weight / warmth
            weight *= law.recency
    return Next(state_NS, rest_NS, share, sequel, full)
