"""Read the rows of a request as a table, for the columns of a click-through model.

JSON has fewer types than a table: a column gets the type of its cells, as readers of files infer it.

Shapes: T rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from segue.core.examples.columns import CellError, Column
from segue.core.examples.encoder import ExampleEncoder
from segue.core.features import MAX_MAGNITUDE
from segue.serving.errors import describe_value

__all__ = ["check_columns", "rows_to_frame", "unread_columns"]

MAX_INTEGER = 2**63
"""Integers of a column are below this in magnitude."""

TOO_LARGE: Mapping[str, str] = {
    "number": f"a number of at most {MAX_MAGNITUDE:g} in magnitude",
    "time": "Unix seconds, not milliseconds",
    "category": "a whole number below 2**63 in magnitude, or text",
    "tags": "whole numbers below 2**63 in magnitude, or texts",
    "sequence": "whole numbers below 2**63 in magnitude, or texts",
    "vector": "numbers below 2**63 in magnitude",
}
"""What is expected in place of a larger integer, by kind of column."""

TYPES: Mapping[str, Any] = {
    "text": pl.String,
    "truth value": pl.Boolean,
    "whole number": pl.Int64,
    "number": pl.Float64,
    "list of texts": pl.List(pl.String),
    "list of whole numbers": pl.List(pl.Int64),
    "list of numbers": pl.List(pl.Float64),
}
"""Type of a column by that of its cells."""

SCALARS = ("text", "truth value", "whole number", "number")
LISTS = ("list of texts", "list of whole numbers", "list of numbers")

WIDER: Mapping[str, str] = {"whole number": "number", "list of whole numbers": "list of numbers"}
"""Types whose cells may stand in one column with those of another type."""

ACCEPTED: Mapping[str, tuple[str, ...]] = {
    "category": SCALARS,
    "number": ("text", "whole number", "number"),
    "time": ("text", "whole number", "number"),
    "text": ("text",),
    "vector": ("list of whole numbers", "list of numbers"),
    "tags": LISTS,
    "sequence": LISTS,
}
"""Types of cells by kind of column; lists may also be text where the column has a separator."""

EXPECTED = {
    "category": "text, a number or a truth value",
    "number": "a number",
    "time": "Unix seconds, or text such as 2024-05-31 18:30",
    "text": "text",
    "vector": "a list of numbers",
    "tags": "a list of texts or numbers",
    "sequence": "a list of texts or numbers",
}


def check_columns(rows: Sequence[Mapping[str, Any]], encoder: ExampleEncoder) -> None:
    """Check that every column of a model occurs in some row.

    Raises:
        ValueError: one does not; the message names it.
    """
    names = set().union(*rows)
    if missing := [column.name for column in encoder.columns if column.name not in names]:
        raise ValueError(f"no row has the column '{missing[0]}', which the model reads; give null where it is empty")


def unread_columns(rows: Sequence[Mapping[str, Any]], known: Iterable[str]) -> list[str]:
    """Return the columns of the rows that are not among those of the training."""
    return sorted(set().union(*rows) - set(known))


def rows_to_frame(rows: Sequence[Mapping[str, Any]], encoder: ExampleEncoder, first: int = 0) -> pl.DataFrame:
    """Return the columns of a model as a table.

    Args:
        first: number of the first row, for errors.

    Raises:
        CellError: a cell has a type that its column cannot have, or another one than a cell above it.
    """
    return pl.DataFrame(
        [_read_column(column, [row.get(column.name) for row in rows], first) for column in encoder.columns]
    )


def _read_column(column: Column, cells: Sequence[Any], first: int) -> pl.Series:
    accepted, expected = ACCEPTED[column.kind], EXPECTED[column.kind]
    if column.kind in ("tags", "sequence") and column.separator is not None:
        accepted, expected = (*accepted, "text"), f"{expected}, or text"
    found = ""
    for row, cell in enumerate(cells):
        if cell is None or cell == []:
            continue
        kind, got = _type_of(cell), describe_value(cell)
        if kind not in accepted:
            raise CellError(column.name, first + row, f"expected {expected}, got {got}")
        if _is_too_large(cell):
            raise CellError(column.name, first + row, f"expected {TOO_LARGE[column.kind]}, got {got}")
        if not _is_unicode(cell):
            raise CellError(column.name, first + row, "expected text without lone surrogates such as \\ud800")
        kind = kind if WIDER.get(kind) != found else found
        if found and kind not in (found, WIDER.get(found)):
            problem = f"expected a {WIDER.get(found, found)} as in the rows before, got {got}"
            raise CellError(column.name, first + row, problem)
        found = kind
    empty = pl.List(pl.String) if any(cell == [] for cell in cells) else pl.String
    return pl.Series(column.name, cells, dtype=TYPES[found] if found else empty, strict=False)


def _type_of(cell: Any) -> str:
    """Return the type of a cell that is not empty."""
    if isinstance(cell, list):
        if isinstance(cell[0], str):
            return "list of texts"
        return "list of whole numbers" if all(isinstance(one, int) for one in cell) else "list of numbers"
    if isinstance(cell, bool):
        return "truth value"
    if isinstance(cell, int):
        return "whole number"
    return "text" if isinstance(cell, str) else "number"


def _is_unicode(cell: Any) -> bool:
    """Check that texts can be encoded; JSON allows half a surrogate pair."""
    try:
        "".join(one for one in (cell if isinstance(cell, list) else [cell]) if isinstance(one, str)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_too_large(cell: Any) -> bool:
    """Check for integers that do not fit into 64 bits."""
    parts = cell if isinstance(cell, list) else [cell]
    return any(isinstance(one, int) and abs(one) >= MAX_INTEGER for one in parts)
