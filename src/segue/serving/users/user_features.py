"""What is told of those who ask, as the model reads it.

Questions of several people become one table. What does not fit its feature is refused for each question by itself, so
that nobody's profile changes how another's is read.

Shapes: N questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from segue.core.types import Feature
from segue.serving import schemas

__all__ = ["fitted", "tabled"]

FURTHEST = 1e15
"""Numbers beyond are refused: models compute with 32 bits."""

TYPES: Mapping[str, Any] = {
    "category": pl.String,
    "number": pl.Float64,
    "tags": pl.List(pl.String),
    "vector": pl.List(pl.Float64),
}


def fitted(
    features: Sequence[Feature], told: Mapping[str, schemas.Scalar | Sequence[schemas.Scalar]] | None
) -> dict[str, Any]:
    """What is told of the features that the model reads, each as it is read; all else is left out.

    Raises:
        ValueError: something cannot be what its feature holds.
    """
    return {one.name: READ[one.kind](one, told[one.name]) for one in features if told and one.name in told}


def tabled(features: Sequence[Feature], rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame | None:
    """``N`` rows of :func:`fitted` as a table; none where nothing is told."""
    kinds = {one.name: TYPES[one.kind] for one in features if any(one.name in row for row in rows)}
    if not kinds:
        return None
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in kinds}, schema=kinds)


def _category(feature: Feature, told: Any) -> str:
    return _text(told) if not isinstance(told, list) else _refuse(feature, "expected one text")


def _number(feature: Feature, told: Any) -> float:
    if isinstance(told, bool) or not isinstance(told, int | float) or not abs(told) <= FURTHEST:
        _refuse(feature, f"expected a number of at most {FURTHEST:g}")
    return float(told)


def _tags(feature: Feature, told: Any) -> list[str]:
    return [_text(one) for one in (told if isinstance(told, list) else [told])]


def _vector(feature: Feature, told: Any) -> list[float]:
    if not isinstance(told, list) or len(told) != feature.size:
        _refuse(feature, f"expected {feature.size} numbers")
    return [_number(feature, one) for one in told]


def _text(told: Any) -> str:
    """A value as tables write it."""
    return str(told).lower() if isinstance(told, bool) else str(told)


def _refuse(feature: Feature, why: str) -> Any:
    raise ValueError(f"profile.{feature.name}: {why}")


READ: Mapping[str, Callable[[Feature, Any], Any]] = {
    "category": _category,
    "number": _number,
    "tags": _tags,
    "vector": _vector,
}
