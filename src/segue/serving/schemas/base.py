"""Base class and shared types of the API schemas.

Schemas are strict, frozen and documented field by field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from segue.core.events import MAX_SECONDS
from segue.core.vocab import ID_PATTERN, MAX_ID_LENGTH

__all__ = ["WHOLE_NUMBER", "ApiModel", "Feature", "FeatureValue", "Id", "Name", "Scalar", "Source", "Time", "Value"]

MAX_KEYS = 100
"""Objects with more keys are rejected as a whole; no schema has that many."""

Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH, pattern=ID_PATTERN)]
"""Name of a model, a kind of event, or a key."""


def _to_id(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("id", "expected an id, which is text or an integer")
    if abs(value) >= 10 ** (MAX_ID_LENGTH - 1):
        raise PydanticCustomError("id", "expected an id of at most {limit} characters", {"limit": MAX_ID_LENGTH})
    return str(value)


Id: TypeAlias = Annotated[Name, BeforeValidator(_to_id, json_schema_input_type=Name | int)]
"""External id of a user or an item: text, or an integer, which is the same as its digits as text.

Ids are compared character by character: ``7``, ``"7"`` are the same id, and ``"007"``, ``"7.0"``, ``" 7"`` are others.
Responses contain ids as text.
"""

Feature: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH)]
"""Name of a feature."""

Scalar: TypeAlias = Annotated[str, StringConstraints(max_length=1024)] | bool | int | float
"""Single value of a feature."""


_LONG_LIST = Field(fail_fast=True, max_length=10_000)
FeatureValue: TypeAlias = (
    str | bool | int | float | Annotated[list[str], _LONG_LIST] | Annotated[list[int | float], _LONG_LIST]
)
"""Value of a feature of an added item: a text of any length, a boolean, a number, or a list of tags or numbers."""


def _to_whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE_NUMBER = BeforeValidator(_to_whole_number)
"""Accepts ``5.0`` as an integer, as JSON has one number type. Must follow the bounds, or OpenAPI omits them."""


def _to_seconds(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise PydanticCustomError("time", "expected Unix seconds, such as 1700000000")
    if value < 0:
        raise PydanticCustomError("time", "expected Unix seconds greater than or equal to 0")
    if value >= MAX_SECONDS:
        raise PydanticCustomError(
            "time",
            "expected Unix seconds below {limit}; the number appears to be in milliseconds or a finer unit",
            {"limit": MAX_SECONDS},
        )
    return int(value)


Time: TypeAlias = Annotated[
    int, BeforeValidator(_to_seconds, json_schema_input_type=Annotated[float, Field(ge=0, lt=MAX_SECONDS)])
]
"""Unix time in seconds, not milliseconds; fractions of a second are dropped."""

Value: TypeAlias = Annotated[float, Field(ge=-1e15, le=1e15)]
"""Value of an event. Models compute in float32, in which the square of a larger value overflows."""

Source: TypeAlias = Literal["model", "fallback", "neighbors", "popular"]
"""What produced a list: the requested model, the fallback model, neighbors of the history's items, or popularity."""


class ApiModel(BaseModel):
    """Base of all schemas.

    The docstring under a field becomes its OpenAPI description.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, strict=True
    )

    @model_validator(mode="before")
    @classmethod
    def _check_key_count(cls, data: Any) -> Any:
        """Reject objects with very many keys.

        Pydantic would report each unknown key as a separate error.
        """
        if isinstance(data, dict) and len(data) > MAX_KEYS:
            raise PydanticCustomError("too_many_keys", "got {n} keys, most of them unknown", {"n": len(data)})
        return data
