"""Read the columns of a table of users.

They are the context of their queries, and features of new users.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.config import suggest
from segue.core.messages import arg, warn
from segue.data.validate import MISSING, MISSING_VALUE
from segue.experiment.inference.files import TABLE_SUFFIXES, read_ids, read_table
from segue.experiment.inference.frames import id_texts

__all__ = ["UserColumns", "read_user_columns", "read_users"]

Row = Mapping[str, Any]

TEXTS = (pl.String, pl.Categorical, pl.Enum)
BOOLEANS = {"true", "false"}


@dataclass(frozen=True)
class UserColumns:
    """What a table of users says about them."""

    context: Sequence[Row] | None = None
    """``N`` contexts of queries; ``None``: the table has none."""
    features: Sequence[Row] | None = None
    """``N`` profiles without unknown values; ``None``: the table has none."""
    messages: tuple[str, ...] = ()
    """Which columns are not used."""


def read_user_columns(trained: TrainedModel, table: pl.DataFrame, where: str = "") -> UserColumns:
    """Read the columns of a table with ``user_id``, one row per user.

    Cells of the context are read as those of a log: empty ones and texts such as ``NA`` are unknown. Cells of features
    are read as those of a table of users. A table with ``item_id`` holds events and has neither.

    Args:
        where: name of the table for error messages.

    Raises:
        ValueError: a cell is not a number, or a user has several rows.
    """
    of_users = [str(name) for name in trained.metadata.get("user_features", ())]
    names = [name for name in of_users if name in table.columns]
    if "item_id" in table.columns:
        text = (
            f"the table of users holds events, so that its columns {', '.join(names)} are not used; give user_features"
        )
        return UserColumns(messages=(text,) if names else ())
    where = where or arg("users")
    kinds = {one.name: one.kind for one in trained.model.schema.event_context}
    columns = [name for name in kinds if name in table.columns]
    others = [name for name in table.columns if name not in ("user_id", *columns, *names)]
    _check_rows(table, columns, names)
    context = [_read_context(table[name], kinds[name] == "number", where) for name in columns]
    features = [_read_feature(trained, table[name], where) for name in names]
    return UserColumns(
        pl.DataFrame(context).to_dicts() if columns else None,
        [_known_cells(row) for row in pl.DataFrame(features).to_dicts()] if names else None,
        tuple(_describe_unused(name, [*of_users, *kinds]) for name in others),
    )


def read_users(trained: TrainedModel, path: Path, *, has_context: bool = False) -> pl.DataFrame | pl.Series:
    """Read a file of users: a table with ``user_id``, or one id per line.

    Args:
        has_context: whether an option gives the context of the queries.

    Raises:
        ValueError: the file is missing or not readable, the table lacks the column or has a wrong cell, or both the
            table and an option have the context.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        return read_ids(path)
    table = read_table(path)
    if "user_id" not in table.columns:
        raise ValueError(f"{path}: no column 'user_id'; found {', '.join(table.columns)}")
    if "item_id" in table.columns:
        warn(f"{path}: the column item_id is not used; histories are those of the log")
        table = table.drop("item_id")
    columns = read_user_columns(trained, table, str(path))
    if has_context and columns.context is not None:
        raise ValueError(f"{arg('context')}: {path} has columns of the context, too; give one of them")
    return table


def _check_rows(table: pl.DataFrame, context: Sequence[str], features: Sequence[str]) -> None:
    """Check that no user has several rows if these describe the user."""
    ids = id_texts(table["user_id"], "users")
    if len(set(ids)) == len(ids) or not (context or features):
        return
    user = next(one for one in ids if ids.count(one) > 1)
    what = f"the context of queries ({', '.join(context)})" if context else f"user features ({', '.join(features)})"
    raise ValueError(
        f"{arg('users')}: got several rows of user '{user}' in a table with {what}, expected one row per user"
    )


def _describe_unused(name: str, known: Sequence[str]) -> str:
    hint = suggest(name, known).partition("; known")[0] if known else ""
    return f"the column '{name}' of the table of users is neither a user feature nor context, and is not used{hint}"


def _known_cells(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None}


def _read_context(column: pl.Series, is_number: bool, where: str) -> pl.Series:
    """Return a column of the context as the model reads it.

    Missing cells are null, and the cells of a number column are numbers.

    Raises:
        ValueError: a cell is not a number.
    """
    if column.dtype in TEXTS:
        column = _without(column, MISSING_VALUE if is_number else MISSING)
        known = column.drop_nulls().str.to_lowercase()
        if is_number and known.is_in(["true", "false"]).all():
            column = column.str.to_lowercase() == "true"
    elif column.dtype.is_float():
        return column.fill_nan(None)
    return _to_numbers(column, where) if is_number else column


def _read_feature(trained: TrainedModel, column: pl.Series, where: str) -> pl.Series:
    """Return a column of user features as the model reads it.

    Raises:
        ValueError: a cell is not a number.
    """
    feature = next((one for one in trained.model.schema.user_features if one.name == column.name), None)
    if column.dtype.is_float():
        column = column.fill_nan(None)
    if column.dtype not in TEXTS or feature is None or feature.kind == "vector":
        return column
    if feature.kind == "number":
        return _to_numbers(_without(column, MISSING_VALUE), where)
    column = _without(column)
    return column.str.to_lowercase() if set(feature.categories) <= BOOLEANS else column


def _without(column: pl.Series, missing: Sequence[str] = ()) -> pl.Series:
    """Return texts without outer spaces; empty and ``missing`` ones are null."""
    text = column.cast(pl.String).str.strip_chars()
    is_missing = text.is_in(["", *missing])
    return pl.select(pl.when(~is_missing).then(text)).to_series().alias(column.name)


def _to_numbers(column: pl.Series, where: str) -> pl.Series:
    numbers = column.cast(pl.Float64, strict=False)
    wrong = column.is_not_null() & ~numbers.is_finite().fill_null(False)
    if wrong.any():
        row = wrong.arg_max() or 0
        raise ValueError(f"{where}, row {row + 1}, column {column.name}: got {column[row]!r}, expected a finite number")
    return numbers
