"""Histories as a sparse table in which all that did not happen is zero.

Shapes: N rows, I items.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from scipy.sparse import csr_array

from segue.core.ratings import valued
from segue.core.types import Events

__all__ = ["Weights", "weighed"]

Weights: TypeAlias = Literal["binary", "values", "centred"]
"""What an event weighs: 1, its value, or its value less a mean; values of an item that is met again are summed."""


def weighed(events: Events, n_items: int, weights: Weights, mean: float = 0.0) -> csr_array[Any]:
    """``(N, I)`` what each row has of each item; events without a value weigh nothing, unless all weigh 1."""
    if weights == "binary":
        return events.csr(n_items)
    events = valued(events)
    assert events.values is not None
    return events.csr(n_items, events.values - np.float32(mean) if weights == "centred" else events.values)
