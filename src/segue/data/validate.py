"""Validate raw events and convert them to known types.

Errors name the row; decisions are logged.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from segue.data.raw_log import PREDEFINED_SPLIT_PREFIX, TIME_KNOWN, Log, RawLog
from segue.data.timestamps import to_seconds

__all__ = ["validate_events"]


def validate_events(raw: RawLog, log: Log) -> pl.DataFrame:
    """Return the events with validated types.

    Ids are integers or text, ``time`` is numeric and ``value`` is Float32.

    Raises:
        ValueError: a cell is invalid; the message has row, column, value and what was expected.
    """
    events = raw.events
    if not len(events):
        raise ValueError(
            f"{raw.location.name}: no rows, expected events with columns {raw.names['user']}, {raw.names['item']}"
        )
    columns = [_ids(events["user"], raw, "user", log), _ids(events["item"], raw, "item", log)]
    if "time" in events:
        columns.append(to_seconds(events["time"], raw.names["time"], raw.location, log))
    if "value" in events:
        columns.append(_values(events["value"], raw, "action" in events, log))
    if "action" in events:
        columns.append(_text(events["action"], raw, "action"))
    columns += [
        events[name] for name in events.columns if name.startswith(PREDEFINED_SPLIT_PREFIX) or name == TIME_KNOWN
    ]
    return pl.DataFrame(columns)


def cell_error(raw: RawLog, column: str, row: int | None, got: object, expected: str) -> ValueError:
    """Create the error for one cell."""
    return ValueError(
        f"{raw.location.describe_row(row or 0)}, column {raw.names[column]}: got {got}, expected {expected}"
    )


def _ids(ids: pl.Series, raw: RawLog, column: str, log: Log) -> pl.Series:
    """Convert ids to integers if all are integers, else to text."""
    if ids.null_count():
        raise cell_error(raw, column, ids.is_null().arg_max(), "nothing", "an id")
    if ids.dtype.is_integer():
        return ids.alias(column)
    if ids.dtype.is_float():
        return _from_floats(ids, raw, column, log)
    if ids.dtype == pl.Binary or ids.dtype == pl.Object or ids.dtype.is_nested():
        raise cell_error(raw, column, 0, f"a column of type {ids.dtype}", "ids of one type, integers or text")
    text = _text(ids, raw, column)
    integers = text.cast(pl.Int64, strict=False)
    is_integer = integers.cast(pl.String).eq_missing(text)  # "007" is text, not the number 7
    count = int(is_integer.sum())
    if count == len(text):
        return integers
    if count:
        other = (~is_integer).arg_max() or 0
        log(
            f"{raw.names[column]}: ids of mixed type: {count} integers and {len(text) - count} texts "
            f"(first {text[other]!r} in {raw.location.describe_row(other)}); all are kept as text"
        )
    return text


def _text(column: pl.Series, raw: RawLog, name: str) -> pl.Series:
    """Convert a column to text; empty cells are errors."""
    text = column.cast(pl.String).alias(name)
    empty = text.is_null() | (text.str.len_bytes() == 0)
    if empty.any():
        raise cell_error(raw, name, empty.arg_max(), "nothing", "an id" if name in ("user", "item") else "text")
    return text


def _from_floats(ids: pl.Series, raw: RawLog, column: str, log: Log) -> pl.Series:
    """Convert floating-point ids to integers."""
    invalid = ~(ids.is_finite() & (ids.floor() == ids) & (ids.abs() < 2**53))
    if invalid.any():
        row = invalid.arg_max()
        raise cell_error(raw, column, row, ids[row or 0], "an id: an integer or text")
    log(f"{raw.names[column]}: ids are {ids.dtype} with integer values; converted to integers")
    return ids.cast(pl.Int64).alias(column)


def _values(values: pl.Series, raw: RawLog, may_be_missing: bool, log: Log) -> pl.Series:
    """Convert values to Float32.

    Missing values become NaN where other actions may lack them.
    """
    if not (values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean, pl.Null)):
        raise cell_error(raw, "value", 0, f"a column of type {values.dtype}", "a number")
    numbers = values.cast(pl.Float32, strict=False).alias("value")
    not_numeric = numbers.is_null() & values.is_not_null()
    if not_numeric.any():
        row = not_numeric.arg_max()
        raise cell_error(raw, "value", row, repr(values[row or 0]), "a number")
    infinite = ~numbers.is_finite().fill_null(True)
    if infinite.any():
        row = infinite.arg_max()
        raise cell_error(raw, "value", row, values[row or 0], "a finite number")
    missing = numbers.null_count()
    if missing and not may_be_missing:
        raise cell_error(raw, "value", numbers.is_null().arg_max(), "nothing", "a number")
    if missing:
        log(f"{raw.names['value']}: {missing} of {len(numbers)} events have no value; kept without one (NaN)")
    return numbers.fill_null(np.nan)
