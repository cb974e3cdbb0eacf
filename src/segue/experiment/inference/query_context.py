"""Attach the context of queries, from mappings or from columns of a table.

Shapes: N queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.messages import arg
from segue.core.types import Feature, Queries
from segue.data.validate import MISSING, MISSING_VALUE
from segue.experiment.inference.argument_checks import describe_value, format_count, is_sequence
from segue.experiment.inference.files import TABLE_SUFFIXES, read_table
from segue.experiment.inference.frames import as_frame, id_texts, is_frame
from segue.serving.users.event_context import check_context, describe_context, encode_columns

__all__ = ["column_names", "context_of_users", "context_rows", "read_query_context", "with_query_context"]

Row = Mapping[str, Any]


def column_names(features: Sequence[Feature], table: pl.DataFrame) -> dict[str, str]:
    """Return the ``columns`` of :func:`segue.load` that read a table's context."""
    prefix = {"category": "context", "number": "context_number"}
    return {f"{prefix[one.kind]}:{one.name}": one.name for one in features if one.name in table.columns}


def context_of_users(trained: TrainedModel, table: pl.DataFrame, where: str = "") -> list[Row] | None:
    """Return the query context of each user in a table with ``user_id``.

    ``None`` if it has no such column. Cells are read as those of a log: empty ones and texts such as ``NA`` are
    unknown.

    Args:
        where: name of the table for error messages.

    Raises:
        ValueError: a cell is not a number, or a user has several rows.
    """
    features = [one for one in trained.model.schema.event_context if one.name in table.columns]
    names = [one.name for one in features]
    if not names:
        return None
    table = table.with_columns(_read_column(one, table[one.name], where or arg("users")) for one in features)
    ids = id_texts(table["user_id"], "users")
    if len(set(ids)) < len(ids):
        user = next(one for one in ids if ids.count(one) > 1)
        raise ValueError(
            f"{arg('users')}: got several rows of user '{user}' in a table with the context of queries "
            f"({', '.join(names)}), expected one row per user"
        )
    return list(table.select(names).to_dicts())


def _read_column(feature: Feature, column: pl.Series, where: str) -> pl.Series:
    """Return a column of the context as the model reads it.

    Missing cells are null, and the cells of a number column are numbers.

    Raises:
        ValueError: a cell is not a number.
    """
    is_number = feature.kind == "number"
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = column.cast(pl.String).str.strip_chars()
        is_missing = text.is_in(["", *(MISSING_VALUE if is_number else MISSING)])
        column = pl.select(pl.when(~is_missing).then(text)).to_series().alias(feature.name)
        known = column.drop_nulls().str.to_lowercase()
        if is_number and known.is_in(["true", "false"]).all():
            column = column.str.to_lowercase() == "true"
    elif column.dtype.is_float():
        return column.fill_nan(None)
    if not is_number:
        return column
    numbers = column.cast(pl.Float64, strict=False)
    wrong = column.is_not_null() & ~numbers.is_finite().fill_null(False)
    if wrong.any():
        row = wrong.arg_max() or 0
        raise ValueError(
            f"{where}, row {row + 1}, column {feature.name}: got {column[row]!r}, expected a finite number"
        )
    return numbers


def read_query_context(trained: TrainedModel, path: Path | None) -> list[Row] | None:
    """Return the context of the queries in a file of users.

    ``None`` if it has no such columns.

    Raises:
        ValueError: a cell is not a number, or a user has several rows.
    """
    if path is None or path.suffix.lower() not in TABLE_SUFFIXES:
        return None
    table = read_table(path)
    return context_of_users(trained, table, str(path)) if "user_id" in table.columns else None


def context_rows(context: Any, count: int) -> list[Row]:
    """Return one mapping per query.

    Raises:
        ValueError: ``context`` is neither a mapping nor a table or list with one row per query.
    """
    if isinstance(context, Mapping):
        return [context] * count
    if is_frame(context):
        rows = as_frame(context, "context").to_dicts()
    elif is_sequence(context) and all(isinstance(row, Mapping) for row in context):
        rows = [dict(row) for row in context]
    else:
        raise ValueError(
            f"{arg('context')}: got {describe_value(context)}, expected a mapping such as "
            '{"device": "phone"}, or a table or list of mappings with one row per query'
        )
    if len(rows) != count:
        queries = format_count(count, "query", "queries")
        raise ValueError(f"{arg('context')}: got {format_count(len(rows), 'row')} for {queries}")
    return [{name: value for name, value in row.items() if name not in ("user_id", "query")} for row in rows]


def with_query_context(trained: TrainedModel, queries: Queries, rows: Sequence[Row]) -> tuple[Queries, list[list[str]]]:
    """Return the queries with their context, and remarks on each.

    The remarks name categories that the model does not know.

    Args:
        rows: ``N`` mappings from column to value; ``None`` is unknown.

    Raises:
        ValueError: the model does not read a column, or a value has the wrong type.
    """
    features = trained.model.schema.event_context
    for row in rows:
        if unknown := [name for name in row if name not in {one.name for one in features}]:
            known = ", ".join(one.name for one in features)
            expected = f"expected {known}" if known else f"but '{trained.key}' was trained without context"
            raise ValueError(f"{arg('context')}: unknown column '{unknown[0]}', {expected}")
        check_context(features, row)
    notes = [describe_context(features, row) for row in rows]
    return replace(queries, context=encode_columns(features, rows)), notes
