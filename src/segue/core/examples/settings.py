"""Settings of how the columns of a table of examples are encoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le
from pydantic import Field

from segue.core.config import Settings

__all__ = ["ColumnKind", "ExampleSettings", "Scaling"]

ColumnKind: TypeAlias = Literal["category", "tags", "sequence", "number", "vector", "time", "ignore"]
"""How a column is read; a ``time`` becomes categories of the calendar, and ``ignore`` leaves the column out."""

Scaling: TypeAlias = Literal["standard", "log", "quantile"]
"""``standard``: mean 0 and variance 1; ``log``: the same for sign(x) log(1 + |x|); ``quantile``: by rank, uniform from
-1 to 1."""

Count = Annotated[int, Ge(1)]


class ExampleSettings(Settings):
    """How columns become inputs of a model; fitted on training rows only."""

    label: str = "label"
    """Column of the labels: 0 or 1, or true or false."""
    user: str | None = None
    """Column that says whose example it is, for metrics per user; none: ``user`` or ``user_id``, if there is one."""
    columns: Mapping[str, ColumnKind] = Field(default_factory=dict)
    """Kinds of columns by name. By default texts and integers are categories, other numbers are numbers, lists of texts
    or integers are tags, lists of numbers with decimals are vectors, and dates are times."""
    separator: str | None = None
    """What separates the values of tags and sequences in a column of text, such as ``|``."""
    min_count: Count = 2
    """Rows of training with a category from which it has an embedding of its own; rarer categories share one with those
    that do not occur in training."""
    max_categories: Annotated[int, Ge(2)] = 1_000_000
    """Maximum number of categories of a column; the most frequent ones have embeddings of their own."""
    buckets: Mapping[str, Annotated[int, Ge(2)]] = Field(default_factory=dict)
    """Number of hash buckets by column, in place of a list of its categories; categories may share a bucket."""
    shares: Mapping[str, str] = Field(default_factory=dict)
    """By sequence, the column of categories whose codes and embeddings it shares, such as ``{"history": "item"}``; the
    model ``din`` compares them."""
    scaling: Scaling | Mapping[str, Scaling] = "standard"
    """Scaling of numbers: of all columns, or by column; others are ``standard``."""
    max_length: Annotated[int, Ge(1), Le(10_000)] = 50
    """Maximum number of values of tags and sequences; the last ones are used."""
    clip: Annotated[float, Gt(0)] = 10.0
    """Scaled numbers are clipped to this magnitude."""

    def scaling_of(self, column: str) -> Scaling:
        """Return the scaling of a column of numbers."""
        return self.scaling.get(column, "standard") if isinstance(self.scaling, Mapping) else self.scaling
