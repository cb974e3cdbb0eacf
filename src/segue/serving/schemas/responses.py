"""What goes out: recommendations, reasons and items, as they stand in JSON."""

from __future__ import annotations

from typing import Literal

from segue.serving.schemas.base import Scalar, Step, Wire

__all__ = ["Answer", "Answers", "Explanation", "Influence", "Item", "Items", "Ranked", "Reason", "Unknown", "Version"]


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
