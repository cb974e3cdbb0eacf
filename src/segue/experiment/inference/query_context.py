"""Attach the context of queries.

Shapes: N queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from segue.core.bundle import TrainedModel
from segue.core.messages import arg
from segue.core.types import Feature, Queries
from segue.experiment.inference.argument_checks import describe_value, format_count, is_sequence
from segue.experiment.inference.frames import as_frame, is_frame
from segue.serving.users.event_context import check_context, describe_context, encode_columns

__all__ = ["column_names", "context_rows", "with_query_context"]

Row = Mapping[str, Any]


def column_names(features: Sequence[Feature], table: pl.DataFrame) -> dict[str, str]:
    """Return the ``columns`` of :func:`segue.load` that read a table's context."""
    prefix = {"category": "context", "number": "context_number"}
    return {f"{prefix[one.kind]}:{one.name}": one.name for one in features if one.name in table.columns}


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
