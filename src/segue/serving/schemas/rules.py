"""Schemas of business rules: filters, boosts, quotas, diversity and pins."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from segue.serving.schemas.base import WHOLE_NUMBER, ApiModel, Feature, Id, Scalar

__all__ = ["Boost", "Condition", "Filter", "Pin", "Rules"]

Scalars: TypeAlias = Annotated[list[Scalar], Field(fail_fast=True, min_length=1, max_length=1000)]
"""Several values of an item feature."""


class Condition(ApiModel):
    """Condition on one item feature.

    All given parts must hold; an item without a value fails ``any``, ``min`` and ``max``.
    """

    any: Scalars | None = None
    """The value, or one of the tags, is one of these."""
    none: Scalars | None = None
    """The value, and every tag, is none of these; missing values pass."""
    min: float | None = None
    """Lower bound, inclusive."""
    max: float | None = None
    """Upper bound, inclusive."""


def _to_condition(value: Any) -> Any:
    """Convert a value or a list of values to the condition ``any``."""
    if value is None:
        raise PydanticCustomError("condition", "expected a value, a list of values, or a condition")
    if isinstance(value, str | bool | int | float):
        return {"any": [value]}
    return {"any": value} if isinstance(value, list) else value


Filter: TypeAlias = Annotated[
    dict[
        Feature,
        Annotated[Condition, BeforeValidator(_to_condition, json_schema_input_type=Condition | Scalar | Scalars)],
    ],
    Field(max_length=50),
]
"""Conditions by feature name, all of which must hold. A value or a list of values stands for ``any``."""


class Boost(ApiModel):
    """Raises or lowers the scores of matching items."""

    filter: Filter
    """Items to boost."""
    factor: Annotated[float, Field(gt=0, le=1000)]
    """Factor on the odds of these items. For models with logits, probabilities are multiplied by it and renormalized;
    for other models ``ln(factor)`` standard deviations of the scores are added."""


class Pin(ApiModel):
    """Fixes an item at a position of the list."""

    item: Id
    """Item id. It is shown even if the user has already seen it, but not if another rule excludes it."""
    position: Annotated[int, Field(ge=1, le=1000), WHOLE_NUMBER]
    """Position in the list, starting at 1."""


class Rules(ApiModel):
    """Rules that a list must satisfy."""

    allow: Annotated[list[Id], Field(fail_fast=True, max_length=100_000)] | None = None
    """Only these items may be recommended."""
    deny: Annotated[list[Id], Field(fail_fast=True, max_length=100_000)] = []
    """These items must not be recommended."""
    filter: Filter = {}
    """Conditions that every item must meet, such as ``{"genres": "Comedy", "year": {"min": 1990}}``."""
    boosts: Annotated[list[Boost], Field(max_length=50)] = []
    """Score adjustments."""
    max_per_value: Annotated[
        dict[Feature, Annotated[int, Field(ge=1, le=1000), WHOLE_NUMBER]],
        Field(max_length=10),
    ] = {}
    """Quotas: the maximum number of items for each value of a feature, such as ``{"genres": 3}``."""
    diversify: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Diversity weight: 0 ranks by score alone; 1 makes each item as dissimilar as possible from those above it
    (maximal marginal relevance)."""
    pins: Annotated[list[Pin], Field(max_length=100)] = []
    """Items at fixed positions."""
