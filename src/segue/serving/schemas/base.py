"""What everything that goes over the wire has in common: strict, frozen, documented field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["WHOLE", "Feature", "Id", "Scalar", "Step", "Time", "Value", "Wire"]

MOST_KEYS = 100
"""Keys of an object that are looked at one by one; there are none with so many."""

Id: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""The outside id of a user or an item."""

Feature: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""The name of a feature."""

Scalar: TypeAlias = Annotated[str, StringConstraints(max_length=1024)] | bool | int | float
"""One value of a feature."""


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""JSON has one kind of numbers: ``5.0`` is whole too. It stands behind the bounds, or no description tells these."""

Time: TypeAlias = Annotated[int, Field(ge=-(2**53), le=2**53), WHOLE]
"""Seconds since 1970."""

Value: TypeAlias = Annotated[float, Field(ge=-1e15, le=1e15)]
"""The value of an event. Models compute with 32 bits: squares of what is larger are infinite."""

Step: TypeAlias = Literal["model", "fallback", "neighbours", "popular"]
"""Who answered: the model that was asked, a cheaper one, neighbours of the history's items, or what is popular."""


class Wire(BaseModel):
    """Base of all that is sent; the text under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, strict=True
    )

    @model_validator(mode="before")
    @classmethod
    def _few(cls, told: Any) -> Any:
        """Each key that is not known is a fault of its own: a hundred thousand of them would keep everybody waiting."""
        if isinstance(told, dict) and len(told) > MOST_KEYS:
            raise PydanticCustomError("too_many_keys", "got {n} keys, most of them unknown", {"n": len(told)})
        return told
