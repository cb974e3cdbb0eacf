"""Detect which event columns a trained model reads.

The service stores no more about users than the model needs. A network declares its columns; for any other model, a
column is read if the scores change without it.

Shapes: N queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from segue.core.model import Recommender
from segue.core.types import Queries

__all__ = ["COLUMNS", "InputColumn", "InputColumns", "detect_input_columns"]

InputColumn: TypeAlias = Literal["actions", "values", "times"]

COLUMNS: tuple[InputColumn, ...] = get_args(InputColumn)
"""Event columns that a model may read in addition to the items. Context columns that a model reads are those of its
schema."""


NUM_PROBES = 16
"""Queries used for the detection."""


@dataclass(frozen=True)
class InputColumns:
    """Inputs that a model reads in addition to the items."""

    columns: tuple[InputColumn, ...]
    """Subset of :data:`COLUMNS`."""
    uses_query_time: bool
    """Whether it reads the time of the query."""

    def restrict(self, queries: Queries) -> Queries:
        """Return ``queries`` with only the columns that are read.

        If the query time is read, it is set to one hour after the newest event.
        """
        dropped: dict[str, Any] = {name: None for name in COLUMNS if name not in self.columns}
        history = replace(queries.history, context={}, **dropped)
        if not self.uses_query_time:
            return replace(queries, history=history, times=None)
        newest = 0 if queries.history.times is None else int(queries.history.times.max(initial=0))
        return replace(queries, history=history, times=np.full(len(queries), newest + 3_600))


def detect_input_columns(model: Recommender, queries: Queries) -> InputColumns:
    """Return the inputs that ``model`` declares, or that change its scores.

    Args:
        queries: used to compare scores; must have all columns that the data has.
    """
    declared: Any = getattr(model, "columns", None)
    if declared is not None:
        return InputColumns(tuple(name for name in COLUMNS if name in declared), "query_times" in declared)
    queries = queries.rows_between(0, NUM_PROBES)
    probes = (queries, Queries.anonymous(queries.history))
    columns = [
        name for name in COLUMNS if any(_changes_scores(model, probe, _drop_column(probe, name)) for probe in probes)
    ]
    times = np.zeros(1, np.int64) if queries.history.times is None else queries.history.times
    query_times = (times.min(initial=2**62), np.median(times), times.max(initial=0), times.max(initial=0) + 3_600)
    timed = (replace(probe, times=np.full(len(queries), time)) for probe in probes for time in query_times)
    return InputColumns(
        tuple(columns), any(_changes_scores(model, replace(probe, times=None), probe) for probe in timed)
    )


def _drop_column(queries: Queries, column: str) -> Queries:
    dropped: dict[str, Any] = {column: None}
    return replace(queries, history=replace(queries.history, **dropped))


def _changes_scores(model: Recommender, queries: Queries, changed: Queries) -> bool:
    if queries.history is not changed.history and queries.history.columns().keys() == changed.history.columns().keys():
        return False  # the data does not have the column
    return not np.array_equal(model.score(queries), model.score(changed))
