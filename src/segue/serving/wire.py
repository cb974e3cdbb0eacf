"""What goes over the wire: questions, events and answers as they stand in JSON, checked strictly.

Ids are text of 1 to 256 characters without control characters. A key that is not known is refused, and so are numbers
that are not finite. Limits that an operator sets (``k``, length of a history, ...) are checked where they are known, in
:mod:`segue.serving.service`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

__all__ = [
    "Answer",
    "Answers",
    "Boost",
    "Condition",
    "Event",
    "Events",
    "Explanation",
    "Fault",
    "Forgotten",
    "Given",
    "Id",
    "Influence",
    "Item",
    "Items",
    "Live",
    "Models",
    "Past",
    "Person",
    "Persons",
    "Pin",
    "Published",
    "Question",
    "Questions",
    "Ranked",
    "Reason",
    "Rules",
    "Scalar",
    "Step",
    "Taken",
    "Unknown",
    "Version",
    "WhyQuestion",
]

Id: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""The outside id of a user or an item."""

Scalar: TypeAlias = Annotated[str, StringConstraints(max_length=1024)] | bool | int | float
"""One value of a feature."""

Time: TypeAlias = Annotated[int, Field(ge=-(2**53), le=2**53)]
"""Seconds since 1970."""

Step: TypeAlias = Literal["model", "fallback", "neighbours", "popular"]
"""Who answered: the model that was asked, a cheaper one, neighbours of the history's items, or what is popular."""


class Wire(BaseModel):
    """Base of all that is sent; the text under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, strict=True
    )


class Given(Wire):
    """One event of a history that is sent along."""

    item: Id
    """The item."""
    action: Id | None = None
    """The kind of event, such as ``purchase``."""
    value: float | None = None
    """Its value, such as a rating."""
    time: Time | None = None
    """When, in seconds since 1970."""


class Condition(Wire):
    """What a feature of an item must be. Several parts must all hold; an item whose feature is not known fails."""

    any: Annotated[list[Scalar], Field(min_length=1, max_length=1000)] | None = None
    """One of these values; of a list of tags, one of its tags."""
    none: Annotated[list[Scalar], Field(min_length=1, max_length=1000)] | None = None
    """None of these values; what is not known passes."""
    min: float | None = None
    """A number of at least this."""
    max: float | None = None
    """A number of at most this."""


Where: TypeAlias = Annotated[
    dict[Annotated[str, StringConstraints(min_length=1, max_length=256)], Condition], Field(max_length=50)
]
"""Conditions by the name of a feature, all of which must hold."""


class Boost(Wire):
    """Items to be moved up or down."""

    where: Where
    """Which items."""
    factor: Annotated[float, Field(gt=0, le=1000)]
    """What their probability is multiplied with, before all are scaled to sum to one again; of models whose scores are
    no logits, ``ln(factor)`` standard deviations of the scores are added."""


class Pin(Wire):
    """An item that stands in a place of its own."""

    item: Id
    """The item; it is shown even if the history holds it, but not if a rule forbids it."""
    place: Annotated[int, Field(ge=1, le=1000)]
    """Where it stands, from 1."""


class Rules(Wire):
    """What an answer may hold."""

    allow: Annotated[list[Id], Field(max_length=100_000)] | None = None
    """The only items that may be recommended."""
    deny: Annotated[list[Id], Field(max_length=100_000)] = []
    """Items that may not."""
    where: Where = {}
    """Conditions that every item must meet."""
    boosts: Annotated[list[Boost], Field(max_length=50)] = []
    """Items to move up or down."""
    most: Annotated[
        dict[Annotated[str, StringConstraints(min_length=1, max_length=256)], Annotated[int, Field(ge=1, le=1000)]],
        Field(max_length=10),
    ] = {}
    """Quotas: at most so many items of each value of this feature, such as ``{"genres": 3}``."""
    diversify: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0: by score alone; 1: each next item as unlike those above it as can be (maximal marginal relevance)."""
    pins: Annotated[list[Pin], Field(max_length=100)] = []
    """Items with a place of their own."""


class Question(Rules):
    """What next? For a user who is known, a history that is sent along, or somebody new."""

    user: Id | None = None
    """Who asks. Without ``history`` he is answered by what the service knows of him."""
    history: Annotated[list[Id | Given], Field(max_length=100_000)] | None = None
    """What to go by instead: items, or events, oldest first; may be empty."""
    profile: Annotated[dict[str, Scalar | list[Scalar]], Field(max_length=100)] | None = None
    """Features of the user, by the names the data had for them."""
    k: Annotated[int, Field(ge=1)] = 10
    """How many items."""
    repeats: bool = False
    """Whether items of the history may be recommended again."""
    time: Time | None = None
    """The moment of asking, for models that are told; without it, now."""
    model: Id | None = None
    """Which model; without it the active one, or the one that an experiment chooses."""
    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] | None = None
    """An answer after so many milliseconds is of no use: a cheaper one is given in time."""


class Questions(Wire):
    """Several questions at once, answered in their order."""

    questions: Annotated[list[Question], Field(min_length=1)]
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
    value: float | None = None
    """Its value, such as a rating."""
    time: Time | None = None
    """When, in seconds since 1970; without it, the moment of arrival."""
    key: Id | None = None
    """Chosen by the sender: of several events of a user with one key only the first is kept."""


class Events(Wire):
    """Several events at once: all are kept, or none."""

    events: Annotated[list[Event], Field(min_length=1)]
    """The events, in their order."""


class Taken(Wire):
    """What became of events. They are on disk, and the next answer knows them."""

    accepted: int
    """Events that are new."""
    duplicates: int
    """Events whose key was there already."""
    unknown_items: list[str] = []
    """Items outside the catalogue of the active model: kept, but no model makes use of them yet."""


class Ranked(Wire):
    """One recommended item."""

    id: str
    title: str | None = None
    score: float
    """As the model has it: comparable within one answer alone."""
    probability: float | None = None
    """That it is the next one, among all that may be recommended again or not as asked; of models with logits alone."""
    pinned: bool = False
    """Whether a rule put it there."""


class Version(Wire):
    """Which model answered."""

    name: str
    """As it was published."""
    key: str
    """The kind of model, such as ``sasrec``."""
    version: str
    """The first 12 digits of the hash of what it learned."""
    engine: str
    """What computed the scores: ``native``, ``onnx``, ..."""


class Unknown(Wire):
    """What the answer could not take into account."""

    user: bool = False
    """The user was not there in training."""
    items: list[str] = []
    """Items that are not in the catalogue, of the history and of the rules."""
    features: list[str] = []
    """Features that the model or the catalogue does not have."""


class Answer(Wire):
    """What is recommended."""

    items: list[Ranked]
    """Best first; fewer than ``k`` where rules leave fewer."""
    model: Version
    step: Step = "model"
    """Who answered; anything but ``model`` means trouble, which ``notes`` tell."""
    removed: dict[str, int] = {}
    """By rule, how many items of the catalogue it kept out: ``history``, ``allow``, ``deny``, ``where``, and of quotas
    (``most``) those that were passed over on the way."""
    unknown: Unknown = Unknown()
    notes: list[str] = []
    """What else is to be known, in words."""


class Answers(Wire):
    """Answers in the order of the questions."""

    answers: list[Answer]


class Influence(Wire):
    """What an event of the history did."""

    id: str
    title: str | None = None
    change: float
    """By so much the item's score is higher than it would be without this event."""


class Reason(Wire):
    """One thing that speaks for or against an item."""

    kind: Literal["rank", "influence", "features", "neighbours", "rule", "unknown"]
    text: str
    """In words."""


class Explanation(Wire):
    """Why an item is recommended, or why not."""

    item: Ranked
    recommended: bool
    """Whether it is among the ``k`` of the answer."""
    place: int | None = None
    """Its place among all that rules allow, from 1; none: a rule keeps it out."""
    influences: list[Influence] = []
    """Items of the history, the most influential first."""
    shared: dict[str, list[str]] = {}
    """By feature, the values that it shares with items of the history."""
    neighbours: list[Item] = []
    """Items of the history that people often have together with it, the closest first."""
    rules: dict[str, str] = {}
    """By rule, what it did to this item."""
    reasons: list[Reason] = []
    """The same in words."""
    model: Version


class Item(Wire):
    """An item of the catalogue."""

    id: str
    title: str | None = None
    features: dict[str, Scalar | list[Scalar] | None] = {}
    """What else is known of it."""
    likeness: float | None = None
    """How like it is to the one asked about, at most 1."""


class Items(Wire):
    """Items that were asked for."""

    items: list[Item]


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


class Forgotten(Wire):
    """That a user was deleted."""

    id: str
    events: int
    """Events that were deleted. What was there in training is not used for him any more."""


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


class Persons(Wire):
    """Users that were searched for."""

    users: list[str]


class Published(Version):
    """A model that the service has at hand."""

    active: bool
    items: int
    users: int
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


class Fault(Wire):
    """What is wrong. The same form for every error."""

    error: str
    """In one word: ``invalid``, ``unauthorised``, ``forbidden``, ``missing``, ``too_large``, ``too_many``, ``busy``."""
    message: str
    """In words, naming the field."""
    fields: dict[str, str] = {}
    """By field, what is wrong with it."""
    request_id: str = ""
    """To be named when asking an operator."""
