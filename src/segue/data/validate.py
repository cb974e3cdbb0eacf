"""What came, made into columns of known types; every fault is an error with its place, every decision is told."""

from __future__ import annotations

import numpy as np
import polars as pl

from segue.data.raw_log import TIME_KNOWN, Raw, Say
from segue.data.timestamps import seconds

__all__ = ["checked"]


def checked(raw: Raw, say: Say) -> pl.DataFrame:
    """The events with ``user`` and ``item`` as whole numbers or text, ``time`` as numbers, ``value`` as Float32.

    Raises:
        ValueError: with place, column, what came and what was expected.
    """
    events = raw.events
    if not len(events):
        raise ValueError(
            f"{raw.place.name}: no rows, expected events with columns {raw.names['user']}, {raw.names['item']}"
        )
    columns = [_ids(events["user"], raw, "user", say), _ids(events["item"], raw, "item", say)]
    if "time" in events:
        columns.append(seconds(events["time"], raw.names["time"], raw.place, say))
    if "value" in events:
        columns.append(_values(events["value"], raw, "action" in events, say))
    if "action" in events:
        columns.append(_text(events["action"], raw, "action"))
    columns += [events[name] for name in events.columns if name.startswith("given:") or name == TIME_KNOWN]
    return pl.DataFrame(columns)


def fault(raw: Raw, column: str, row: int | None, came: object, expected: str) -> ValueError:
    """The error for one cell."""
    return ValueError(f"{raw.place.of(row or 0)}, column {raw.names[column]}: got {came}, expected {expected}")


def _ids(ids: pl.Series, raw: Raw, column: str, say: Say) -> pl.Series:
    if ids.null_count():
        raise fault(raw, column, ids.is_null().arg_max(), "nothing", "an id")
    if ids.dtype.is_integer():
        return ids.alias(column)
    if ids.dtype.is_float():
        return _whole(ids, raw, column, say)
    if ids.dtype == pl.Binary or ids.dtype == pl.Object or ids.dtype.is_nested():
        raise fault(raw, column, 0, f"a column of type {ids.dtype}", "ids of one type, whole numbers or text")
    text = _text(ids, raw, column)
    whole = text.cast(pl.Int64, strict=False)
    numbers = whole.cast(pl.String).eq_missing(text)  # "007" is a text, not the number 7
    count = int(numbers.sum())
    if count == len(text):
        return whole
    if count:
        other = (~numbers).arg_max() or 0
        say(
            f"{raw.names[column]}: ids of mixed type: {count} whole numbers and {len(text) - count} texts "
            f"(first {text[other]!r} in {raw.place.of(other)}); all are kept as text"
        )
    return text


def _text(column: pl.Series, raw: Raw, name: str) -> pl.Series:
    text = column.cast(pl.String).alias(name)
    empty = text.is_null() | (text.str.len_bytes() == 0)
    if empty.any():
        raise fault(raw, name, empty.arg_max(), "nothing", "an id" if name in ("user", "item") else "a text")
    return text


def _whole(ids: pl.Series, raw: Raw, column: str, say: Say) -> pl.Series:
    broken = ~(ids.is_finite() & (ids.floor() == ids) & (ids.abs() < 2**53))
    if broken.any():
        row = broken.arg_max()
        raise fault(raw, column, row, ids[row or 0], "an id: a whole number or a text")
    say(f"{raw.names[column]}: ids came as {ids.dtype}, all whole; kept as whole numbers")
    return ids.cast(pl.Int64).alias(column)


def _values(values: pl.Series, raw: Raw, mixed: bool, say: Say) -> pl.Series:
    if not (values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean, pl.Null)):
        raise fault(raw, "value", 0, f"a column of type {values.dtype}", "a number")
    numbers = values.cast(pl.Float32, strict=False).alias("value")
    unread = numbers.is_null() & values.is_not_null()
    if unread.any():
        row = unread.arg_max()
        raise fault(raw, "value", row, repr(values[row or 0]), "a number")
    infinite = ~numbers.is_finite().fill_null(True)
    if infinite.any():
        row = infinite.arg_max()
        raise fault(raw, "value", row, values[row or 0], "a finite number")
    empty = numbers.null_count()
    if empty and not mixed:
        raise fault(raw, "value", numbers.is_null().arg_max(), "nothing", "a number")
    if empty:
        say(f"{raw.names['value']}: {empty} of {len(numbers)} events have no value; kept without one (NaN)")
    return numbers.fill_null(np.nan)
