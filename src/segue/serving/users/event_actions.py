"""Check the kinds of events against those in the training data of a model."""

from __future__ import annotations

from collections.abc import Sequence

from segue.core.types import DataSchema
from segue.serving import schemas

__all__ = ["ANY_ACTION", "check_history_actions", "resolve_action"]

ANY_ACTION = ("interaction",)
"""The actions of a log without kinds of events; its models accept events of every kind."""


def check_history_actions(schema: DataSchema, history: Sequence[str | schemas.HistoryEvent] | None) -> None:
    """Check that every given kind of event is known.

    Raises:
        ValueError: one is unknown; the message names its field and lists the known ones.
    """
    for index, event in enumerate(history or ()):
        if isinstance(event, schemas.HistoryEvent) and not _is_accepted(schema, event.action):
            raise ValueError(f"history[{index}].action: {_unknown(schema)}")


def resolve_action(schema: DataSchema, action: str | None) -> str | None:
    """Return the kind of an event; the default is the target or the only kind.

    Raises:
        ValueError: the kind is unknown, or missing where there are several and no target.
    """
    if not _is_accepted(schema, action):
        raise ValueError(_unknown(schema))
    if action is not None or schema.actions == ANY_ACTION:
        return action
    if schema.target is not None:
        return schema.actions[schema.target]
    if len(schema.actions) > 1:
        raise ValueError(f"missing, expected one of {', '.join(schema.actions)}")
    return schema.actions[0]


def _is_accepted(schema: DataSchema, action: str | None) -> bool:
    return action is None or action in schema.actions or schema.actions == ANY_ACTION


def _unknown(schema: DataSchema) -> str:
    return f"unknown kind of event, expected one of {', '.join(schema.actions)}"
