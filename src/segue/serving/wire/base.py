"""What everything that goes over the wire has in common: strict, frozen, documented field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

__all__ = ["Id", "Scalar", "Step", "Time", "Whole", "Wire"]

Id: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""The outside id of a user or an item."""

Scalar: TypeAlias = Annotated[str, StringConstraints(max_length=1024)] | bool | int | float
"""One value of a feature."""


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole: TypeAlias = Annotated[int, BeforeValidator(_whole)]
"""A whole number. JSON has one kind of numbers: ``5.0`` is whole too."""

Time: TypeAlias = Annotated[Whole, Field(ge=-(2**53), le=2**53)]
"""Seconds since 1970."""

Step: TypeAlias = Literal["model", "fallback", "neighbours", "popular"]
"""Who answered: the model that was asked, a cheaper one, neighbours of the history's items, or what is popular."""


class Wire(BaseModel):
    """Base of all that is sent; the text under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, strict=True
    )
