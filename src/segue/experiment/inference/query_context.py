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
from segue.experiment.inference.argument_checks import describe_value, is_sequence
from segue.experiment.inference.files import TABLE_SUFFIXES, read_table
from segue.experiment.inference.frames import as_frame, id_texts, is_frame
from segue.serving.users.event_context import check_context, describe_context, encode_columns

__all__ = ["column_names", "context_of_users", "context_rows", "read_query_context", "with_query_context"]

Row = Mapping[str, Any]


def column_names(features: Sequence[Feature], table: pl.DataFrame) -> dict[str, str]:
    """Return the ``columns`` of :func:`segue.load` that read a table's context."""
    prefix = {"category": "context", "number": "context_number"}
    return {f"{prefix[one.kind]}:{one.name}": one.name for one in features if one.name in table.columns}


def context_of_users(trained: TrainedModel, table: pl.DataFrame) -> list[Row] | None:
    """Return the query context of each user in a table with ``user_id``.

    ``None`` if it has no such column.

    Raises:
        ValueError: a user has several rows.
    """
    names = [one.name for one in trained.model.schema.event_context if one.name in table.columns]
    if not names:
        return None
    ids = id_texts(table["user_id"], "users")
    if len(set(ids)) < len(ids):
        user = next(one for one in ids if ids.count(one) > 1)
        raise ValueError(
            f"{arg('users')}: got several rows of user '{user}' in a table with the context of queries "
            f"({', '.join(names)}), expected one row per user"
        )
    return list(table.select(names).to_dicts())


def read_query_context(trained: TrainedModel, path: Path | None) -> list[Row] | None:
    """Return the context of the queries in a file of users.

    ``None`` if it has no such columns. In text formats numbers are parsed, and empty cells are unknown.

    Raises:
        ValueError: a cell is not a number, or a user has several rows.
    """
    if path is None or path.suffix.lower() not in TABLE_SUFFIXES:
        return None
    table = read_table(path)
    for feature in trained.model.schema.event_context:
        if feature.name in table.columns and table[feature.name].dtype == pl.String:
            text = pl.col(feature.name).str.strip_chars().replace("", None)
            table = table.with_columns(text)
            if feature.kind == "number":
                numbers = table[feature.name].cast(pl.Float64, strict=False)
                if len(wrong := table[feature.name].filter(numbers.is_null() & table[feature.name].is_not_null())):
                    raise ValueError(f"{path}: column {feature.name}: got '{wrong[0]}', expected a number")
                table = table.with_columns(numbers)
    return context_of_users(trained, table) if "user_id" in table.columns else None


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
        raise ValueError(f"{arg('context')}: got {len(rows)} rows for {count} queries")
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
