"""What else goes out: people, models, figures and faults, as they stand in JSON."""

from __future__ import annotations

from typing import Literal

from segue.serving.schemas.base import Wire
from segue.serving.schemas.responses import Version

__all__ = ["Fault", "Forgotten", "Live", "Models", "Past", "Person", "Persons", "Published", "Taken"]


class Taken(Wire):
    """What became of events. They are on disk, and the next answer knows them."""

    accepted: int
    """Events that are new."""
    duplicates: int
    """Events whose key was there already."""
    unknown_items: list[str] = []
    """Items outside the catalogue of the active model: kept, but no model makes use of them yet."""


class Past(Wire):
    """An event as the service knows it."""

    item: str
    title: str | None = None
    action: str | None = None
    value: float | None = None
    time: int | None = None
    source: Literal["training", "service"] = "service"
    """Whether it was there in training or came in since."""


class Person(Wire):
    """What the service knows of a user."""

    id: str
    known: bool
    """Whether he was there in training."""
    events: list[Past]
    """The newest, oldest first."""
    total: int
    """All events, also those that are not shown."""
    forgotten: bool = False
    """Whether he was deleted: what was there in training is not used for him."""


class Persons(Wire):
    """Users that were searched for."""

    users: list[str]


class Forgotten(Wire):
    """That a user was deleted."""

    id: str
    events: int
    """Events that were deleted. What was there in training is not used for him any more."""


class Published(Version):
    """A model that the service has at hand."""

    active: bool
    opened: bool
    """Whether it can answer at once; another is opened when it is asked for."""
    items: int | None = None
    """How many its catalogue has, once it is opened."""
    users: int | None = None
    trained: str | None = None
    """When, as an ISO date."""
    data: str | None = None
    metrics: dict[str, float] = {}
    """What was measured on test, where it is known."""
    golden: int = 0
    """Golden queries that it answered as the trained model does."""


class Models(Wire):
    """All models at hand, the active one marked."""

    models: list[Published]
    previous: str | None = None
    """What a rollback would go back to."""


class Live(Wire):
    """How the service fares, over the last minute."""

    requests_per_second: float
    p50_ms: float | None
    """Half of all requests under ``/v1`` were faster."""
    p95_ms: float | None
    p99_ms: float | None
    in_flight: int
    waiting: int
    """Questions that wait for the engine."""
    steps: dict[str, int]
    """Answers by the step of the ladder that gave them, since the start."""
    errors: int
    """Answers of status 5xx since the start."""
    uptime_seconds: float


class Fault(Wire):
    """What is wrong. The same form for every error."""

    error: str
    """In one word: ``invalid``, ``unauthorised``, ``forbidden``, ``missing``, ``too_large``, ``too_many``, ``slow``,
    ``busy``, ``failed``."""
    message: str
    """In words, naming the field."""
    fields: dict[str, str] = {}
    """By field, what is wrong with it."""
    request_id: str = ""
    """To be named when asking an operator."""
