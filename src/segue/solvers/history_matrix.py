"""Sparse matrices of histories, in which unobserved cells are zero.

Shapes: N rows, I items.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from scipy.sparse import csr_array

from segue.core.ratings import rated_events
from segue.core.types import Events

__all__ = ["EventWeights", "weighted_matrix"]

EventWeights: TypeAlias = Literal["binary", "values", "centered"]
"""Weight of an event: 1, its value, or its value minus a mean. Values of repeated items are summed."""


def weighted_matrix(events: Events, n_items: int, weights: EventWeights, mean: float = 0.0) -> csr_array[Any]:
    """Return the ``(N, I)`` summed weights of events.

    Events without a value weigh 0, unless all events weigh 1.
    """
    if weights == "binary":
        return events.csr(n_items)
    events = rated_events(events)
    assert events.values is not None
    return events.csr(n_items, events.values - np.float32(mean) if weights == "centered" else events.values)
