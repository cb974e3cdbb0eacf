"""Settings of how the columns of a table of examples are encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

from annotated_types import Ge, Gt, Le
from pydantic import Field, model_validator

from segue.core.config import Settings, reject_unused

__all__ = ["ColumnKind", "ExampleSettings", "Scaling", "check_propensities"]

ColumnKind: TypeAlias = Literal["category", "tags", "sequence", "number", "vector", "text", "time", "ignore"]
"""How a column is read; a ``text`` becomes a vector, a ``time`` categories of the calendar, and ``ignore`` leaves the
column out."""

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
    text_encoder: str = "tfidf"
    """Key of the text encoder of columns of kind ``text``: ``tfidf`` or ``word2vec``, which learn from the different
    texts of each column, or the pretrained ``transformer`` or ``word_vectors``."""
    text_options: Mapping[str, Any] = Field(default={})
    """Settings of the text encoder by name, such as ``{"size": 64}``; the others have their defaults."""
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

    position: str | None = None
    """Column with the position at which an example was shown, from 1; it is no input. Positive examples of training are
    weighted by the inverse of the propensity of their position."""
    propensities: tuple[float, ...] | Literal["clicks", "items"] = "clicks"
    """How likely each position is examined, relative to the first. ``clicks`` estimates it by the click rate of each
    position, which is right where positions were drawn at random; ``items`` by the clicks on the same item at several
    positions."""
    position_item: str | None = None
    """Column of the items that ``items`` compares."""
    min_propensity: Annotated[float, Gt(0), Le(1)] = 0.1
    """Smaller propensities are raised to this value, so that no example has a very large weight."""

    @model_validator(mode="after")
    def _check_position(self) -> Self:
        reject_unused(
            self,
            {
                "propensities": (self.position is not None, "a table with 'position'"),
                "min_propensity": (self.position is not None, "a table with 'position'"),
                "position_item": (self.propensities == "items", "propensities=items"),
                "text_encoder": ("text" in self.columns.values(), "a column of kind text"),
                "text_options": ("text" in self.columns.values(), "a column of kind text"),
            },
        )
        if self.propensities == "items" and self.position_item is None:
            raise ValueError(
                "position_item: got none, expected the column of the items that propensities=items compares"
            )
        if not isinstance(self.propensities, str):
            check_propensities(self.propensities)
        return self

    def scaling_of(self, column: str) -> Scaling:
        """Return the scaling of a column of numbers."""
        return self.scaling.get(column, "standard") if isinstance(self.scaling, Mapping) else self.scaling


def check_propensities(propensities: Sequence[float]) -> None:
    """Check given propensities.

    Raises:
        ValueError: there are none, or one is not above 0 and at most 1.
    """
    if not propensities:
        raise ValueError("propensities: got none, expected one per position, such as [1.0, 0.6, 0.4]")
    for position, value in enumerate(propensities, 1):
        if not 0 < value <= 1:
            raise ValueError(f"propensities: got {value} at position {position}, expected more than 0 and at most 1")
