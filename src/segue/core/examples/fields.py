"""Define fields, and examples whose fields are encoded as arrays.

An example is one row of a table, such as an impression: a label and values of any number of fields. Models read
codes and numbers; :mod:`segue.core.examples.encoder` makes them from a table, and
:mod:`segue.core.examples.derive` from an interaction log.

Shapes: T examples, F fields of categories, K fields of numbers, W width of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Events, Scores, read_only

__all__ = ["MISSING", "N_RESERVED", "UNKNOWN", "Examples", "Field", "FieldKind", "fields_of_kind"]

FieldKind: TypeAlias = Literal["category", "tags", "sequence", "number", "vector"]
"""A single category, a set of categories, an ordered list of categories, a number, or a vector of numbers."""

MISSING, UNKNOWN = 0, 1
"""Codes of an empty cell, and of a value that is rare in training or does not occur there."""

N_RESERVED = 2
"""The first code of a known value."""


@dataclass(frozen=True)
class Field:
    """One input of a click-through model."""

    name: str
    kind: FieldKind
    size: int = 1
    """Number of codes, :data:`MISSING` and :data:`UNKNOWN` included; or the width of a vector; 1 for numbers."""
    shares: str | None = None
    """Name of a field of categories that has the same codes and shares its embeddings, such as the item for a sequence
    of items."""


def fields_of_kind(fields: Sequence[Field], *kinds: FieldKind) -> tuple[Field, ...]:
    """Return the fields of some kinds in their order."""
    return tuple([one for one in fields if one.kind in kinds])


@dataclass(frozen=True, eq=False)
class Examples:
    """Encoded examples."""

    fields: tuple[Field, ...]
    codes: Codes
    """``(T, F)`` codes of the fields of categories, in their order."""
    numbers: Scores
    """``(T, K)`` scaled numbers, in the order of their fields; NaN where missing."""
    lists: Mapping[str, Events] = field(default_factory=dict)
    """Codes of tags and sequences by name: row t of ``items`` belongs to example t. Sequences are ordered, oldest
    first."""
    vectors: Mapping[str, Scores] = field(default_factory=dict)
    """``(T, W)`` vectors by name; a row of NaN is missing."""
    labels: Scores | None = None
    """``(T,)`` 0 or 1, or probabilities; ``None``: not known."""
    users: NDArray[Any] | None = None
    """``(T,)`` user of each example, for metrics per user; ``None``: not known."""
    weights: Scores | None = None
    """``(T,)`` weights in the loss; ``None``: all are 1."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", read_only(self.codes, np.int32))
        object.__setattr__(self, "numbers", read_only(self.numbers, np.float32))
        n_categories = len(fields_of_kind(self.fields, "category"))
        n_numbers = len(fields_of_kind(self.fields, "number"))
        if self.codes.shape[1] != n_categories or self.numbers.shape[1] != n_numbers:
            raise ValueError(
                f"examples: got {self.codes.shape[1]} columns of codes and {self.numbers.shape[1]} of numbers, "
                f"expected {n_categories} and {n_numbers}"
            )
        columns: dict[str, Any] = {"numbers": self.numbers, **self.lists, **self.vectors}
        columns |= {name: getattr(self, name) for name in ("labels", "users", "weights")}
        for name, column in columns.items():
            if column is not None and len(column) != len(self.codes):
                raise ValueError(f"examples.{name}: got {len(column)} rows, expected {len(self.codes)}")

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: NDArray[np.integer[Any]]) -> Examples:
        """Return examples by index, in the order of ``rows``."""

        def pick(column: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if column is None else column[rows]

        return Examples(
            self.fields,
            self.codes[rows],
            self.numbers[rows],
            {name: lists.take(rows) for name, lists in self.lists.items()},
            {name: vectors[rows] for name, vectors in self.vectors.items()},
            pick(self.labels),
            pick(self.users),
            pick(self.weights),
        )

    def with_numbers(self, names: Sequence[str], numbers_TK: Scores) -> Examples:
        """Return the examples with further numbers, ``(T, K)``, which are scaled already."""
        fields = (*self.fields, *(Field(name, "number") for name in names))
        return replace(self, fields=fields, numbers=np.concatenate([self.numbers, numbers_TK], axis=1))

    @classmethod
    def concat(cls, parts: Sequence[Examples]) -> Self:
        """Concatenate examples of the same fields; at least one part."""
        first = parts[0]
        columns: dict[str, Any] = {}
        for name in ("labels", "users", "weights"):
            columns[name] = None if getattr(first, name) is None else np.concatenate([getattr(p, name) for p in parts])
        lists = {}
        for name in first.lists:
            lengths = np.concatenate([part.lists[name].lengths for part in parts])
            items = np.concatenate([part.lists[name].items for part in parts])
            lists[name] = Events(np.concatenate([[0], np.cumsum(lengths)]), items)
        return cls(
            first.fields,
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.numbers for part in parts]),
            lists,
            {name: np.concatenate([part.vectors[name] for part in parts]) for name in first.vectors},
            **columns,
        )

    def rows_between(self, start: int, stop: int) -> Examples:
        """Return examples ``start:stop``."""
        if start == 0 and stop >= len(self):
            return self
        return self.take(np.arange(start, min(stop, len(self))))
