"""Which columns of events a trained model reads, so that a service keeps no more of people than it needs.

A network says it. Of any other model it is found out: a column is read if the scores change without it.

Shapes: N queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segue.core.model import Recommender
from segue.core.types import Queries

__all__ = ["COLUMNS", "Reads", "reads"]

COLUMNS = ("actions", "values", "times")
"""Columns of events that a model may read beside the items."""

LATER = (3_600, 300_000_000)
"""Seconds after the newest event at which it is asked, to see whether the answer depends on it."""


ASKED = 16
"""Queries that are asked for it."""


@dataclass(frozen=True)
class Reads:
    """What a model has to be told beside the items."""

    columns: tuple[str, ...]
    """Of :data:`COLUMNS`."""
    asked: bool
    """Whether the moment of asking."""


def reads(model: Recommender, queries: Queries) -> Reads:
    """What ``model`` reads, by its word or by its answers to ``queries``, which have all columns that there are."""
    told: Any = getattr(model, "columns", None)
    if told is not None:
        return Reads(tuple(name for name in COLUMNS if name in told), "asked" in told)
    queries = queries.block(0, ASKED)
    both = (queries, Queries.anonymous(queries.history))
    columns = [name for name in COLUMNS if any(_differs(model, asker, _without(asker, name)) for asker in both)]
    newest = 0 if queries.history.times is None else int(queries.history.times.max(initial=0))
    moments = (np.full(len(queries), newest + later) for later in LATER)
    return Reads(tuple(columns), any(_differs(model, queries, replace(queries, times=times)) for times in moments))


def _without(queries: Queries, column: str) -> Queries:
    absent: dict[str, Any] = {column: None}
    return replace(queries, history=replace(queries.history, **absent))


def _differs(model: Recommender, one: Queries, other: Queries) -> bool:
    if one.history is not other.history and one.history.columns().keys() == other.history.columns().keys():
        return False  # the data has no such column
    return not np.array_equal(model.score(one), model.score(other))
