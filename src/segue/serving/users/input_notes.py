"""Remarks on inputs that are valid but probably not meant.

These are improbable times, histories in the wrong order, categories of the context that the model does not know, and
inputs that it reads and that are missing. Profiles are described by :mod:`segue.serving.users.profile_notes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from segue.core.model import Recommender
from segue.serving import schemas
from segue.serving.users.event_context import context_of, describe_context
from segue.serving.users.model_inputs import (
    describe_ungiven,
    describe_unread_columns,
    names_column,
    query_context_columns,
)

__all__ = ["LATE", "describe_late_times", "describe_request"]

LATE = 4_102_444_800
"""2100-01-01 in seconds; later times are reported."""


def describe_late_times(times: Sequence[tuple[str, int | None]]) -> list[str]:
    """Describe times after 2099; usually there are none.

    Args:
        times: names of fields and their values.
    """
    late = [(name, time) for name, time in times if time is not None and time >= LATE]
    if not late:
        return []
    name, time = late[0]
    more = f" and {len(late) - 1} more" if len(late) > 1 else ""
    return [f"{name}: {time}{more} after 2099; used as given, check the unit"]


def describe_request(model: Recommender, key: str, request: schemas.RecommendRequest) -> list[str]:
    """Describe improbable and missing inputs of a valid request to a model.

    Args:
        key: key of the model, which names it as in Python. The time of a query that gives none is the present.
    """
    has_context = names_column(query_context_columns(model), request.context)
    schema, notes = model.schema, describe_ungiven(model, key, has_context=has_context, has_time=True)
    if request.history:
        notes += describe_unread_columns(model, key, _given_columns(request.history))
    if request.time is not None or request.history is not None:
        events = [
            (f"history[{index}].time", event.time)
            for index, event in enumerate(request.history or ())
            if isinstance(event, schemas.HistoryEvent) and event.time is not None
        ]
        notes += describe_late_times([("time", request.time), *events])
        for (_, before), (name, time) in pairwise(events):
            if time < before:
                notes.append(f"{name}: {time} is before the time of an earlier event; expected the oldest event first")
                break
    if schema.event_context:
        notes += describe_context(schema.event_context, request.context)
        for index, event in enumerate(request.history or ()):
            if found := describe_context(schema.event_context, context_of(event), f"history[{index}].context"):
                notes += found[:1]
                break
    return notes


def _given_columns(history: Sequence[str | schemas.HistoryEvent]) -> set[str] | None:
    """Return the columns of which an event has a value.

    ``None`` if the history is a list of item ids.
    """
    events = [event for event in history if isinstance(event, schemas.HistoryEvent)]
    columns = {name for name in ("action", "value", "time") if any(getattr(one, name) is not None for one in events)}
    if any(value is not None for one in events for value in (one.context or {}).values()):
        columns.add("context")
    return columns or None
