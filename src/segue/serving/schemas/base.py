"""Base class and shared types of the API schemas.

Schemas are strict, frozen and documented field by field.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["WHOLE_NUMBER", "ApiModel", "Feature", "Id", "Scalar", "Source", "Time", "Value"]

MAX_KEYS = 100
"""Objects with more keys are rejected as a whole; no schema has that many."""

Id: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""External id of a user or an item."""

Feature: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""Name of a feature."""

Scalar: TypeAlias = Annotated[str, StringConstraints(max_length=1024)] | bool | int | float
"""Single value of a feature."""


def _to_whole_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE_NUMBER = BeforeValidator(_to_whole_number)
"""Accepts ``5.0`` as an integer, as JSON has one number type. Must follow the bounds, or OpenAPI omits them."""

Time: TypeAlias = Annotated[int, Field(ge=-(2**53), le=2**53), WHOLE_NUMBER]
"""Unix time in seconds."""

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
