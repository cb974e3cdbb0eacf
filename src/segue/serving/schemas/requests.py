"""What comes in: questions and events, as they stand in JSON."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from segue.serving.schemas.base import WHOLE, Feature, Id, Scalar, Time, Value, Wire
from segue.serving.schemas.rules import Rules

__all__ = ["MOST", "Event", "Events", "Given", "Question", "Questions", "WhyQuestion"]

MOST = 10_000
"""Questions or events that are looked at one by one. What operators allow is told apart, and is less."""


Scalars: TypeAlias = Annotated[list[Scalar], Field(fail_fast=True, max_length=1000)]
"""Several values of a feature."""


class Given(Wire):
    """One event of a history that is sent along."""

    item: Id
    """The item."""
    action: Id | None = None
    """The kind of event, such as ``purchase``."""
    value: Value | None = None
    """Its value, such as a rating."""
    time: Time | None = None
    """When, in seconds since 1970."""


class Question(Rules):
    """What next? For a user who is known, a history that is sent along, or somebody new."""

    user: Id | None = None
    """Who asks. Without ``history`` he is answered by what the service knows of him."""
    history: Annotated[list[Id | Given], Field(fail_fast=True, max_length=100_000)] | None = None
    """What to go by instead: items, or events, oldest first; may be empty."""
    profile: Annotated[dict[Feature, Scalar | Scalars], Field(max_length=100)] | None = None
    """Features of the user, by the names the data had for them."""
    k: Annotated[int, Field(ge=1), WHOLE] = 10
    """How many items."""
    repeats: bool = False
    """Whether items of the history may be recommended again."""
    time: Time | None = None
    """The moment of asking, for models that are told; without it, now."""
    model: Id | None = None
    """Which model; without it the active one, or the one that an experiment chooses."""
    deadline_ms: Annotated[int, Field(ge=1, le=600_000), WHOLE] | None = None
    """An answer after so many milliseconds is of no use: a cheaper one is given in time."""


class Questions(Wire):
    """Several questions at once, answered in their order."""

    questions: Annotated[list[Question], Field(fail_fast=True, min_length=1, max_length=MOST)]
    """The questions."""


class WhyQuestion(Question):
    """Why is this item recommended, or why not?"""

    item: Id
    """The item."""


class Event(Wire):
    """Something that happened."""

    user: Id
    """Who."""
    item: Id
    """What with. An item outside the catalogue is kept too."""
    action: Id | None = None
    """The kind of event, such as ``purchase``."""
    value: Value | None = None
    """Its value, such as a rating."""
    time: Time | None = None
    """When, in seconds since 1970; without it, the moment of arrival."""
    key: Id | None = None
    """Chosen by the sender: of several events of a user with one key only the first is kept."""


class Events(Wire):
    """Several events at once: all are kept, or none."""

    events: Annotated[list[Event], Field(fail_fast=True, min_length=1, max_length=MOST)]
    """The events, in their order."""
