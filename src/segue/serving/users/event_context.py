"""Check, store and encode the context of events and requests.

Shapes: N contexts.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.features import MAX_MAGNITUDE
from segue.core.types import Events, Feature
from segue.serving import schemas

__all__ = [
    "Context",
    "check_context",
    "check_request_context",
    "context_of",
    "decode_columns",
    "decode_context",
    "describe_context",
    "encode_columns",
    "encode_context",
]

Context: TypeAlias = Mapping[str, schemas.Scalar | None]
"""Value of each column; ``None`` and missing columns are unknown."""


def check_context(features: Sequence[Feature], context: Context | None, field: str = "context") -> None:
    """Check the columns of a context and the types of their values.

    Args:
        features: columns that models read.

    Raises:
        ValueError: an unknown column, or a value of the wrong type; the message begins with its field.
    """
    known = {feature.name: feature for feature in features}
    for name, value in (context or {}).items():
        if name not in known:
            expected = f"expected {', '.join(known)}" if known else "no model that is loaded reads context"
            raise ValueError(f"{field}.{name}: unknown column of the context, {expected}")
        if value is not None and known[name].kind == "number":
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not abs(value) <= MAX_MAGNITUDE:  # type: ignore[arg-type]
                shown = "text" if isinstance(value, str) else reprlib.repr(value).lower()
                raise ValueError(
                    f"{field}.{name}: got {shown}, expected a number between -{MAX_MAGNITUDE:g} and {MAX_MAGNITUDE:g}"
                )


def check_request_context(features: Sequence[Feature], request: schemas.RecommendRequest) -> None:
    """Check the context of a request and of the events of its history.

    Raises:
        ValueError: see :func:`check_context`.
    """
    check_context(features, request.context)
    for index, event in enumerate(request.history or ()):
        if isinstance(event, schemas.HistoryEvent) and event.context:
            check_context(features, event.context, f"history[{index}].context")


def encode_context(context: Context | None) -> str | None:
    """Return the known values as JSON with sorted names; ``None`` without any."""
    known = {name: value for name, value in (context or {}).items() if value is not None}
    return json.dumps(known, ensure_ascii=False, sort_keys=True, separators=(",", ":")) if known else None


def decode_context(stored: str | None) -> Context | None:
    """Return what :func:`encode_context` was given."""
    context: Context | None = None if stored is None else json.loads(stored)
    return context


def context_of(event: Any) -> Context | None:
    """Return the context of an event in the store or in a request.

    The latter may be an item id, which has none.
    """
    found = getattr(event, "context", None)
    context: Context | None = decode_context(found) if isinstance(found, str) else found
    return context


def encode_columns(features: Sequence[Feature], contexts: Sequence[Context | None]) -> dict[str, NDArray[Any]]:
    """Return the ``(N,)`` columns that a model reads, as in ``Events.context``.

    Categories that the model does not know are unknown, and so are values of the wrong type, which another model may
    have accepted.
    """
    columns: dict[str, NDArray[Any]] = {}
    for feature in features:
        values = [(context or {}).get(feature.name) for context in contexts]
        if feature.kind == "number":
            numbers = [
                value if isinstance(value, int | float) and not isinstance(value, bool) else np.nan for value in values
            ]
            columns[feature.name] = np.array(numbers, np.float32)
        else:
            codes: dict[str | None, int] = (
                {name: code for code, name in enumerate(feature.categories)} if any(contexts) else {}
            )
            columns[feature.name] = np.array([codes.get(_to_category(value), -1) for value in values], np.int32)
    return columns


def decode_columns(features: Sequence[Feature], events: Events) -> list[Context | None]:
    """Return the known context of each event; ``None`` without any."""
    rows: list[dict[str, Any]] = [{} for _ in range(events.size)]
    for feature in features:
        for row, value in zip(rows, events.context.get(feature.name, np.zeros(0)).tolist(), strict=False):
            if feature.kind == "category" and value >= 0:
                row[feature.name] = feature.categories[value]
            elif feature.kind == "number" and value == value:
                row[feature.name] = value
    return [row or None for row in rows]


def describe_context(features: Sequence[Feature], context: Context | None, field: str = "context") -> list[str]:
    """Describe categories that the model does not know."""
    return [
        f"{field}.{feature.name}: the model does not know the value"
        for feature in features
        if feature.kind == "category"
        and context
        and context.get(feature.name) is not None
        and _to_category(context[feature.name]) not in feature.categories
    ]


def _to_category(value: schemas.Scalar | None) -> str | None:
    """Format a value as tables do.

    Whole numbers are integers, booleans are in lower case, and text has no outer spaces.
    """
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).lower() if isinstance(value, bool) else str(value).strip()
