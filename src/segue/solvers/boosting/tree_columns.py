"""Lay out examples as a matrix for trees.

A field of categories is one column of codes, which a tree splits into two sets; a number is a column, NaN where
missing, and a vector has a column per dimension. Tags and sequences become counts of their most frequent codes. A
sequence that shares its codes with a category, such as the history with the item, becomes three columns: its length,
how often it contains the category of the example, and how many elements ago it did so last.

Shapes: T examples, P columns, S counted codes, B candidates of one history, L elements of a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Events
from segue.core.examples.fields import Examples, Field, fields_of_kind

__all__ = ["Origin", "category_columns", "column_origins", "count_columns", "match_candidates", "tree_columns"]

MAX_COUNTED = 100
"""Codes of tags that have a column of their own, the first ones; encoders sort them by frequency. The others share
one."""


def category_columns(fields: Sequence[Field]) -> list[int]:
    """Return the indices of the columns that hold codes."""
    return list(range(len(fields_of_kind(fields, "category"))))


def count_columns(fields: Sequence[Field]) -> int:
    """Return the number of columns of the matrix."""
    counted = [min(one.size, MAX_COUNTED + 1) for one in fields_of_kind(fields, "tags", "sequence") if not one.shares]
    n_matched = sum(one.shares is not None for one in fields_of_kind(fields, "tags", "sequence"))
    widths = [one.size for one in fields_of_kind(fields, "vector")]
    return len(fields_of_kind(fields, "category", "number")) + sum(counted) + 3 * n_matched + sum(widths)


class Origin(NamedTuple):
    """What a column is made of."""

    name: str
    """The field."""
    part: Literal["value", "length", "count", "since"] = "value"
    """Which of the three columns of a sequence that shares its codes with a category."""


def column_origins(fields: Sequence[Field]) -> list[Origin]:
    """Return the origin of each column of :func:`tree_columns`, ``P`` of them."""
    found = [Origin(one.name) for one in (*fields_of_kind(fields, "category"), *fields_of_kind(fields, "number"))]
    for one in fields_of_kind(fields, "tags", "sequence"):
        if one.shares is None:
            found += [Origin(one.name)] * min(one.size, MAX_COUNTED + 1)
        else:
            found += [Origin(one.name, "length"), Origin(one.name, "count"), Origin(one.name, "since")]
    return found + [Origin(one.name) for one in fields_of_kind(fields, "vector") for _ in range(one.size)]


def tree_columns(examples: Examples) -> NDArray[np.float32]:
    """Return the matrix, ``(T, P)``."""
    fields = examples.fields
    parts: list[NDArray[Any]] = [examples.codes, examples.numbers]
    positions = {one.name: index for index, one in enumerate(fields_of_kind(fields, "category"))}
    for one in fields_of_kind(fields, "tags", "sequence"):
        lists = examples.lists[one.name]
        if one.shares is None:
            parts.append(_counts(lists, one.size))
        else:
            parts.append(_matches(lists, examples.codes[:, positions[one.shares]]))
    parts += [examples.vectors[one.name] for one in fields_of_kind(fields, "vector")]
    return np.concatenate([np.asarray(part, np.float32) for part in parts], axis=1)


def _counts(lists: Events, size: int) -> NDArray[np.float32]:
    """Count the codes of each row, ``(T, S)``."""
    width = min(size, MAX_COUNTED + 1)
    cells = lists.rows.astype(np.int64) * width + np.minimum(lists.items, width - 1)
    return np.bincount(cells, minlength=len(lists) * width).reshape(len(lists), width).astype(np.float32)


def _matches(lists: Events, codes_T: Codes) -> NDArray[np.float32]:
    """Return facts about matches in sequences, ``(T, 3)``.

    They are the length, the number of matches and the elements since the last match, NaN without a match.
    """
    is_match = lists.items == codes_T[lists.rows]
    rows = lists.rows[is_match]
    counts_T = np.bincount(rows, minlength=len(lists))
    since_T = np.full(len(lists), np.nan)
    since_T[rows] = lists.offsets[1:][rows] - np.flatnonzero(is_match)  # the last match of a row overwrites others
    return np.stack([lists.lengths, counts_T, since_T], axis=1).astype(np.float32)


def match_candidates(history_L: Codes, codes_B: Codes) -> NDArray[np.float32]:
    """Return how often candidates are in one history, and how recently, ``(B, 2)``.

    They are the last two columns of a sequence in :func:`tree_columns`.
    """
    found_B2 = np.zeros((len(codes_B), 2), np.float32)
    found_B2[:, 1] = np.nan
    rows = np.flatnonzero(np.isin(codes_B, history_L))  # mostly few
    is_match = codes_B[rows, None] == history_L[::-1]
    found_B2[rows, 0] = is_match.sum(1)
    found_B2[rows, 1] = is_match.argmax(1) + 1 if len(rows) else 0
    return found_B2
