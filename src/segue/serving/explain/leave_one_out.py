"""Leave-one-out attribution: the effect of each history item on a score.

Source: occlusion, Zeiler & Fergus 2014, arXiv:1311.2901. It needs only the model's scores. It measures what an item
adds to all the others: if two items carry the same information, neither gets a large attribution.

The model encodes one history per item left out. A streaming model reads the common beginning of these histories once:
each continues from the state before the first event that it leaves out.

Shapes: T events of the history, L items left out, N = L + 1 queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Scores
from segue.core.model import Recommender, Streaming, is_factored
from segue.core.state import State
from segue.core.types import Queries
from segue.serving.scheduling.steps import Steps, run_steps

__all__ = ["MAX_LEFT_OUT", "compute_attributions", "compute_attributions_in_steps"]

MAX_LEFT_OUT = 50
"""Newest events that are left out in turn; older ones always stay."""

MAX_STEP_ROWS = 4
"""Histories that are encoded between two pauses."""

MAX_BLOCK_SCORES = 16_000_000
"""Scores computed between two pauses for a model that is not factored: 64 MB."""

STEP_EVENTS, MIN_STEP_LENGTH = 128, 8
"""Events that a streaming model reads between two pauses, and the smallest number of them in each history."""


def compute_attributions(model: Recommender, queries: Queries, item: int) -> tuple[Codes, Scores]:
    """Return the distinct items among the newest events and their attributions.

    See :func:`compute_attributions_in_steps`.
    """
    return run_steps(compute_attributions_in_steps(model, queries, item, None))


def compute_attributions_in_steps(
    model: Recommender,
    queries: Queries,
    item: int,
    streaming: Streaming | None,
    is_late: Callable[[], bool] = lambda: False,
) -> Steps[tuple[Codes, Scores]]:
    """Return the distinct items among the newest events and their attributions.

    Args:
        queries: exactly one.
        streaming: the same model, if it can continue from states.
        is_late: whether the deadline has passed, checked at every pause. Then only the attributions computed so far are
            returned, which are those of the newest items; none for a streaming model, which computes all of them at
            the same time.

    Returns:
        ``(L,)`` items, newest first, and by how much the score of ``item`` is higher than without any event of each.
    """
    items = left_out_items(queries)
    score_steps = _score_histories(model, queries, items, item)
    if streaming is not None:
        score_steps = _score_from_states(streaming, queries, items, item)
    parts: list[Scores] = []
    for new_scores in score_steps:
        parts.append(new_scores)
        if is_late():
            break
        yield
    scores_N = np.concatenate(parts)
    return items[: max(0, len(scores_N) - 1)], scores_N[:1] - scores_N[1:]


def left_out_items(queries: Queries) -> Codes:
    """Return the distinct items among the newest events, newest first."""
    newest = queries.history.items[-MAX_LEFT_OUT:][::-1]
    _, first_positions = np.unique(newest, return_index=True)
    items: Codes = newest[np.sort(first_positions)]
    return items


def _score_histories(model: Recommender, queries: Queries, left_out: Codes, item: int) -> Iterator[NDArray[Any]]:
    """Yield the scores of ``item`` in blocks.

    The first is for the whole history, the others without each item ``left_out``.
    """
    history = queries.history
    keep_NT = np.ones((len(left_out) + 1, history.size), np.bool_)
    keep_NT[1:] = history.items != left_out[:, None]
    block_size = MAX_STEP_ROWS
    if not is_factored(model):
        block_size = max(1, min(MAX_STEP_ROWS, MAX_BLOCK_SCORES // model.schema.n_items))
    for start in range(0, len(keep_NT), block_size):
        keep_BT = keep_NT[start : start + block_size]
        repeated = queries.take(np.zeros(len(keep_BT), np.int64))
        block = replace(repeated, history=repeated.history.where(keep_BT.ravel()))
        if is_factored(model):
            yield model.encode(block) @ model.vectors[item] + model.bias[item]
        else:
            yield model.score(block, np.full((len(block), 1), item, np.int32))[:, 0]


def _score_from_states(model: Streaming, queries: Queries, left_out: Codes, item: int) -> Iterator[NDArray[Any]]:
    """Yield all scores in the last step, as :func:`_score_histories` orders them.

    The other steps yield empty arrays.
    """
    history = queries.history
    starts_L = np.array([np.argmax(history.items == one) for one in left_out], np.int64)
    order = np.argsort(starts_L, kind="stable")  # rows of the state: the whole history, then items in this order
    state = model.state(replace(queries, history=history.where(np.zeros(history.size, np.bool_))))
    position = 0
    while position < history.size:
        # a row is added where its item occurs first: the length of the step follows from the most rows it may have
        longest = max(MIN_STEP_LENGTH, STEP_EVENTS // len(state))
        n_rows = 1 + int(np.count_nonzero(starts_L < position + longest))
        stop = min(history.size, position + max(MIN_STEP_LENGTH, STEP_EVENTS // n_rows))
        n_new = 1 + int(np.count_nonzero(starts_L < stop)) - len(state)
        state = State.concat([state, state.take(np.zeros(n_new, np.int64))])
        events = history.slice_rows(np.array([position]), np.array([stop])).take(np.zeros(len(state), np.int64))
        keep_NT = np.ones((len(state), stop - position), np.bool_)
        keep_NT[1:] = history.items[position:stop] != left_out[order[: len(state) - 1], None]
        state = model.step(state, events.where(keep_NT.ravel()))
        position = stop
        yield np.zeros(0, np.float32)
    times = None if queries.times is None else np.repeat(queries.times, len(state))
    context = {name: np.repeat(column, len(state)) for name, column in queries.context.items()}
    scores_N = model.encode_state(state, times, context) @ model.vectors[item] + model.bias[item]
    yield scores_N[np.concatenate([[0], 1 + np.argsort(order)])]
