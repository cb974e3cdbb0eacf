"""Rules of an answer, as they stand in JSON."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from segue.serving.schemas.base import WHOLE, Feature, Id, Scalar, Wire

__all__ = ["Boost", "Condition", "Pin", "Rules", "Where"]


class Condition(Wire):
    """What a feature of an item must be. Several parts must all hold; an item whose feature is not known fails."""

    any: Annotated[list[Scalar], Field(fail_fast=True, min_length=1, max_length=1000)] | None = None
    """One of these values; of a list of tags, one of its tags."""
    none: Annotated[list[Scalar], Field(fail_fast=True, min_length=1, max_length=1000)] | None = None
    """None of these values; what is not known passes."""
    min: float | None = None
    """A number of at least this."""
    max: float | None = None
    """A number of at most this."""


Where: TypeAlias = Annotated[dict[Feature, Condition], Field(max_length=50)]
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
    place: Annotated[int, Field(ge=1, le=1000), WHOLE]
    """Where it stands, from 1."""


class Rules(Wire):
    """What an answer may hold."""

    allow: Annotated[list[Id], Field(fail_fast=True, max_length=100_000)] | None = None
    """The only items that may be recommended."""
    deny: Annotated[list[Id], Field(fail_fast=True, max_length=100_000)] = []
    """Items that may not."""
    where: Where = {}
    """Conditions that every item must meet."""
    boosts: Annotated[list[Boost], Field(max_length=50)] = []
    """Items to move up or down."""
    most: Annotated[
        dict[Feature, Annotated[int, Field(ge=1, le=1000), WHOLE]],
        Field(max_length=10),
    ] = {}
    """Quotas: at most so many items of each value of this feature, such as ``{"genres": 3}``."""
    diversify: Annotated[float, Field(ge=0, le=1)] = 0.0
    """0: by score alone; 1: each next item as unlike those above it as can be (maximal marginal relevance)."""
    pins: Annotated[list[Pin], Field(max_length=100)] = []
    """Items with a place of their own."""
