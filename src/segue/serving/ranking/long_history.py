"""Read long histories with a streaming model in parts.

One step for all events would delay other requests.

Shapes: D width.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from segue.core.events import Scores
from segue.core.model import Streaming
from segue.core.types import Queries
from segue.serving.scheduling.steps import Steps

__all__ = ["LONG_HISTORY", "encode_long_history"]

LONG_HISTORY, EVENTS_PER_STEP = 256, 128
"""Events above which a streaming model reads a history in parts, and events of a part."""


def encode_long_history(model: Streaming, query: Queries) -> Steps[Scores]:
    """Return the vector ``(D,)`` of one query."""
    history = query.history
    state = model.state(replace(query, history=history.slice_rows(np.array([0]), np.array([0]))))
    for start in range(0, history.size, EVENTS_PER_STEP):
        yield
        stop = min(start + EVENTS_PER_STEP, history.size)
        state = model.step(state, history.slice_rows(np.array([start]), np.array([stop])))
    vector_D: Scores = model.encode_state(state, query.times, query.context)[0]
    return vector_D
