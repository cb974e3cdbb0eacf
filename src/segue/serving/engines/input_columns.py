"""Which columns of events a trained model reads, so that a service keeps no more of people than it needs.

A network says it. Of any other model it is found out: a column is read if the scores change without it.

Shapes: N queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from segue.core.model import Recommender
from segue.core.types import Queries

__all__ = ["COLUMNS", "Column", "Reads", "reads"]

Column: TypeAlias = Literal["actions", "values", "times"]

COLUMNS: tuple[Column, ...] = get_args(Column)
"""Columns of events that a model may read beside the items."""


ASKED = 16
"""Queries that are asked for it."""


@dataclass(frozen=True)
class Reads:
    """What a model has to be told beside the items."""

    columns: tuple[Column, ...]
    """Of :data:`COLUMNS`."""
    asked: bool
    """Whether the moment of asking."""

    def told(self, queries: Queries) -> Queries:
        """``queries`` with what is read alone; asked an hour after the newest event, where the moment is read."""
        left_out: dict[str, Any] = {name: None for name in COLUMNS if name not in self.columns}
        history = replace(queries.history, context={}, **left_out)
        if not self.asked:
            return replace(queries, history=history, times=None)
        newest = 0 if queries.history.times is None else int(queries.history.times.max(initial=0))
        return replace(queries, history=history, times=np.full(len(queries), newest + 3_600))


def reads(model: Recommender, queries: Queries) -> Reads:
    """What ``model`` reads, by its word or by its answers to ``queries``, which have all columns that there are."""
    told: Any = getattr(model, "columns", None)
    if told is not None:
        return Reads(tuple(name for name in COLUMNS if name in told), "asked" in told)
    queries = queries.block(0, ASKED)
    both = (queries, Queries.anonymous(queries.history))
    columns = [name for name in COLUMNS if any(_differs(model, asker, _without(asker, name)) for asker in both)]
    times = np.zeros(1, np.int64) if queries.history.times is None else queries.history.times
    moments = (times.min(initial=2**62), np.median(times), times.max(initial=0), times.max(initial=0) + 3_600)
    timed = (replace(asker, times=np.full(len(queries), moment)) for asker in both for moment in moments)
    return Reads(tuple(columns), any(_differs(model, replace(one, times=None), one) for one in timed))


def _without(queries: Queries, column: str) -> Queries:
    absent: dict[str, Any] = {column: None}
    return replace(queries, history=replace(queries.history, **absent))


def _differs(model: Recommender, one: Queries, other: Queries) -> bool:
    if one.history is not other.history and one.history.columns().keys() == other.history.columns().keys():
        return False  # the data has no such column
    return not np.array_equal(model.score(one), model.score(other))
