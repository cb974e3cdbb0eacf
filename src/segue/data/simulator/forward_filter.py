"""Infer the hidden state and the next item from a history.

Both follow from the forward recursion.

Shapes: N queries, T events, S states, I items.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.core.numba_kernels import kernel
from segue.core.types import Events
from segue.data.simulator.choice_model import ChoiceModel

__all__ = ["UNKNOWN", "FilterResult", "next_item_probabilities", "run_filter"]

UNKNOWN = -1
"""Session flag that was not observed."""


class FilterResult(NamedTuple):
    """Posterior after a history, from which next-item probabilities follow."""

    belief: NDArray[np.float64]
    """``(N, S)`` P(state of the next event | history)."""
    rest: NDArray[np.float64]
    """``(N, S)`` total probability of items not in the history, given the state; 1 if none is left."""
    share: NDArray[np.float64]
    """``(T,)`` probability that a repeat is of this event; sums to 1 in each row."""
    sequel: NDArray[np.int32]
    """``(N,)`` unseen next part of the series of the last item, or -1."""
    full: NDArray[np.bool_]
    """``(N,)`` whether the history contains the whole catalog."""


def next_item_probabilities(
    model: ChoiceModel, history: Events, after: FilterResult, belief_NS: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the probabilities of the next item, ``(N, I)``.

    They are conditional on the state distribution ``belief_NS``.
    """
    a_S = np.arange(belief_NS.shape[1]) // model.level.shape[1]
    waiting_N = after.sequel >= 0
    returning_NS = belief_NS * model.repeat_prob[a_S] * (history.lengths > 0)[:, None]
    following_NS = (belief_NS - returning_NS) * model.sequel_prob[a_S] * waiting_N[:, None]
    out_NI: NDArray[np.float64] = ((belief_NS - returning_NS - following_NS) / after.rest) @ model.choice.T
    rows_T = history.rows
    closed_T = ~after.full[rows_T]
    out_NI[rows_T[closed_T], history.items[closed_T]] = 0.0
    np.add.at(out_NI, (rows_T, history.items), after.share * returning_NS.sum(axis=1)[rows_T])
    row = np.flatnonzero(waiting_N)
    out_NI[row, after.sequel[row]] += following_NS.sum(axis=1)[row]
    return out_NI


@kernel
def _move(belief: Any, moved: Any, drift: Any, session: float, flag: int) -> None:
    """Apply one drift of tastes to ``belief (S,)``, in place."""
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
def _sum_unseen(choice_IS: Any, mark: Any, seen_mark: int, rest: Any) -> None:
    """Set ``rest (S,)`` to the total probability of the unseen items.

    Unseen items are those that are not marked as seen.
    """
    rest[:] = 0.0
    for i in range(len(mark)):
        if mark[i] != seen_mark:
            for s in range(len(rest)):
                rest[s] += choice_IS[i, s]


@kernel
def run_filter(
    model: ChoiceModel,
    prior_NS: NDArray[np.float64],
    offsets: NDArray[np.int64],
    items: NDArray[np.int32],
    flags: NDArray[np.int8],
    ratings: NDArray[np.int8],
    next_flags: NDArray[np.int8],
) -> FilterResult:
    """Filter each row of events.

    Impossible events do not change the state distribution. ``flags (T,)``: 1 where an event starts a session, 0 where
    it does not, or UNKNOWN (ignored at the first event of a row); ``ratings (T,)``: 1 to 5, or 0 if not observed;
    ``next_flags (N,)``: flags of the next events.
    """
    n_items, n_tastes = model.level.shape
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
                _move(belief, moved, model.drift, model.session, flags[t])
            seen = mark[item] == row + 1
            back = heat[item] * model.recency ** (t - 1 - touched[item]) / warmth if seen else 0.0
            part = model.sequel[items[t - 1]] if t > begin else -1
            waiting = part >= 0 and mark[part] != row + 1
            total = 0.0
            for s in range(n_states):
                a = s // n_tastes
                chance = model.sequel_prob[a] if waiting else 0.0
                emitted = 0.0
                if not seen or distinct == n_items:
                    emitted = (1.0 - chance) * model.choice[item, s] / rest[s]
                if waiting and part == item:
                    emitted += chance
                if t > begin:
                    emitted = (1.0 - model.repeat_prob[a]) * emitted + model.repeat_prob[a] * back
                if ratings[t] > 0:
                    emitted *= model.rating[model.level[item, s % n_tastes], ratings[t] - 1]
                likely[s] = belief[s] * emitted
                total += likely[s]
            if total > 0.0:
                for s in range(n_states):
                    belief[s] = likely[s] / total
            heat[item] = (heat[item] * model.recency ** (t - touched[item]) if seen else 0.0) + 1.0
            touched[item] = t
            warmth = warmth * model.recency + 1.0
            if not seen:
                mark[item] = row + 1
                distinct += 1
                again = False
                for s in range(n_states):
                    rest[s] -= model.choice[item, s]
                    again = again or rest[s] < 0.5 * base[s]
                if distinct == n_items:
                    rest[:] = 1.0
                elif again:  # recompute at each halving, so that rounding errors stay small relative to the rest
                    _sum_unseen(model.choice, mark, row + 1, rest)
                    base[:] = rest
        full[row] = distinct == n_items
        if end > begin:
            _move(belief, moved, model.drift, model.session, next_flags[row])
            part = model.sequel[items[end - 1]]
            if part >= 0 and mark[part] != row + 1:
                sequel[row] = part
        weight = 1.0
        for t in range(end - 1, begin - 1, -1):
            share[t] = weight / warmth
            weight *= model.recency
    return FilterResult(state_NS, rest_NS, share, sequel, full)
