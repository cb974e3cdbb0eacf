"""Coerce the user features of requests to the types that the model reads.

The features of several users become one data frame. Values are checked for each request by itself, so that one request
cannot change how another is read.

Shapes: N requests.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.features import MAX_MAGNITUDE
from segue.core.types import Feature
from segue.features.text.user_texts import EncoderUnavailable, open_user_texts
from segue.serving import schemas

__all__ = ["check_profile", "coerce_user_features", "user_features_frame"]

logger = logging.getLogger("segue.serving")

DTYPES: Mapping[str, Any] = {
    "category": pl.String,
    "number": pl.Float64,
    "tags": pl.List(pl.String),
    "vector": pl.List(pl.Float64),
}


def check_profile(trained: TrainedModel, profile: Mapping[str, Any] | None) -> None:
    """Check the user features of a request, texts included.

    Raises:
        ValueError: a value does not fit the type of its feature, or a text cannot be encoded.
    """
    coerce_user_features(trained.model.schema.user_features, profile)
    try:
        open_user_texts(trained.user_text_encodings).check(profile)
    except EncoderUnavailable as error:
        logger.error("profile.%s", error)
        name = str(error).partition(":")[0]
        raise ValueError(
            f"profile.{name}: the text cannot be encoded by this service; the log has the reason"
        ) from None
    except ValueError as error:
        raise ValueError(f"profile.{error}") from None


def coerce_user_features(
    features: Sequence[Feature], raw_features: Mapping[str, schemas.Scalar | Sequence[schemas.Scalar] | None] | None
) -> dict[str, Any]:
    """Coerce the features that the model reads and leave out all others.

    Unknown values are left out, too.

    Raises:
        ValueError: a value does not fit the type of its feature.
    """
    raw = raw_features or {}
    return {one.name: COERCIONS[one.kind](one, raw[one.name]) for one in features if raw.get(one.name) is not None}


def user_features_frame(features: Sequence[Feature], rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame | None:
    """Combine ``N`` results of :func:`coerce_user_features` into a data frame.

    ``None`` if all are empty.
    """
    dtypes = {feature.name: DTYPES[feature.kind] for feature in features if any(feature.name in row for row in rows)}
    if not dtypes:
        return None
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in dtypes}, schema=dtypes)


def _to_category(feature: Feature, value: Any) -> str:
    return _to_text(value) if not isinstance(value, list) else _reject(feature, value, "one text")


def _to_number(feature: Feature, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_MAGNITUDE:
        _reject(feature, value, f"a number between -{MAX_MAGNITUDE:g} and {MAX_MAGNITUDE:g}")
    return float(value)


def _to_tags(feature: Feature, value: Any) -> list[str]:
    return [_to_text(one) for one in (value if isinstance(value, list) else [value])]


def _to_vector(feature: Feature, value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != feature.size:
        _reject(feature, value, f"a list of {feature.size} numbers")
    return [_to_number(feature, one) for one in value]


def _to_text(value: Any) -> str:
    """Format a value as tables do.

    A whole number is an integer, as JSON has one number type.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reject(feature: Feature, value: Any, expected: str) -> Any:
    shown = "text" if isinstance(value, str) else "a list" if isinstance(value, list) else reprlib.repr(value).lower()
    raise ValueError(f"profile.{feature.name}: got {shown}, expected {expected}")


COERCIONS: Mapping[str, Callable[[Feature, Any], Any]] = {
    "category": _to_category,
    "number": _to_number,
    "tags": _to_tags,
    "vector": _to_vector,
}
