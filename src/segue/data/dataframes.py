"""Read in-memory tables of events.

Any table with the Arrow C stream interface is accepted, with a column mapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from segue.core.config import suggest
from segue.data.raw_log import COLUMNS, RawLog, SourceLocation

__all__ = ["is_table", "read_table", "resolve_columns", "to_frame", "to_raw_log"]


def is_table(source: object) -> bool:
    """Check whether ``source`` is an in-memory table.

    Examples are tables of pandas, Polars, DuckDB and pyarrow.
    """
    return hasattr(source, "__arrow_c_stream__") or isinstance(source, pl.LazyFrame)


def read_table(source: Any, columns: Mapping[str, str] | None = None) -> RawLog:
    """Read the events of an in-memory table.

    Raises:
        ValueError: ``source`` is not a table, a column has mixed types, or a column is missing.
    """
    name, frame = to_frame(source)
    return to_raw_log(frame, resolve_columns(columns, frame.columns, name), SourceLocation(name))


def to_frame(source: Any) -> tuple[str, pl.DataFrame]:
    """Convert an in-memory table to Polars; also return the name of its type.

    Raises:
        ValueError: a column has mixed types.
    """
    name = f"{type(source).__module__.split('.')[0]} table"
    if isinstance(source, pl.LazyFrame):
        source = source.collect()
    try:
        return name, source if isinstance(source, pl.DataFrame) else pl.DataFrame(source)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        # pandas passes columns of mixed types to pyarrow, which rejects them
        message = " ".join(str(part) for part in error.args)
        raise ValueError(f"{name}: {message}; expected columns of one type each") from None


def resolve_columns(columns: Mapping[str, str] | None, found: list[str], name: str) -> dict[str, str]:
    """Map internal column names to the names of the columns found in a table.

    Args:
        columns: names given by the user, by internal name.
        found: columns of the table.
        name: name of the table for error messages.

    Raises:
        ValueError: an internal name is unknown, or a required or given column is missing.
    """
    for key in columns or {}:
        if key not in COLUMNS:
            raise ValueError(f"columns.{key}: unknown{suggest(key, COLUMNS)}")
    errors = []
    names: dict[str, str] = {}
    for key, default in COLUMNS.items():
        expected = (columns or {}).get(key, default)
        if expected in found:
            names[key] = expected
        elif key in (columns or {}) or key in ("user", "item"):
            errors.append(
                f"{name}: no column '{expected}' ({key}){suggest(expected, found)}; "
                f"name columns like {key}={found[0] if found else expected}"
            )
    if errors:
        raise ValueError("\n".join(errors))
    return names


def to_raw_log(frame: pl.DataFrame, names: Mapping[str, str], location: SourceLocation) -> RawLog:
    """Select and rename the columns ``names`` of ``frame``; unused columns are noted."""
    unused = [column for column in frame.columns if column not in names.values()]
    notes = (f"{location.name}: columns not used: {', '.join(unused)}",) if unused else ()
    events = frame.select(pl.col(column).alias(key) for key, column in names.items())
    return RawLog(events, location, names=dict(names), notes=notes)
