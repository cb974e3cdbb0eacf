"""Convert times (numbers, texts, dates) to Unix seconds in UTC."""

from __future__ import annotations

import polars as pl

from segue.data.raw_log import Log, SourceLocation

__all__ = ["to_seconds"]

FINER_UNITS = ((1e17, 10**9, "nanoseconds"), (1e14, 10**6, "microseconds"), (1e11, 10**3, "milliseconds"))
"""Numbers from this size on are in a finer unit than seconds (1e11 s is the year 5138)."""

AWARE = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")
NAIVE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
EXPECTED = "seconds since 1970 or an ISO date such as 2024-05-31T12:00:00Z"


def to_seconds(times: pl.Series, column: str, location: SourceLocation, log: Log) -> pl.Series:
    """Convert a column of times to seconds.

    The type is Int64, or Float64 if there are fractions.

    Raises:
        ValueError: a time is missing, no number or date, not finite, or before 1970; the message names the row.
    """

    def error(invalid: pl.Series, expected: str = EXPECTED) -> ValueError:
        row = invalid.arg_max() or 0
        value = times[row]
        shown = "nothing" if value is None else repr(value) if isinstance(value, str) else str(value)
        return ValueError(f"{location.describe_row(row)}, column {column}: got {shown}, expected {expected}")

    if times.null_count():
        raise error(times.is_null())
    numbers = _numbers(times, column, log)
    if numbers is None:
        raise error(times.is_not_null(), f"{EXPECTED} (the column is {times.dtype})")
    if numbers.null_count():
        raise error(numbers.is_null())
    if numbers.dtype.is_float() and not numbers.is_finite().all():
        raise error(~numbers.is_finite())
    if (numbers < 0).any():
        raise error(numbers < 0, f"a time of 1970 or later: {EXPECTED}")
    if not times.dtype.is_temporal():
        numbers = _unit(numbers, column, log)
    if numbers.dtype.is_float() and (numbers.floor() == numbers).all():
        numbers = numbers.cast(pl.Int64)
    return numbers.alias("time")


def _numbers(times: pl.Series, column: str, log: Log) -> pl.Series | None:
    """Return numbers, null where a text is not a number or date.

    ``None`` for types that cannot be times.
    """
    if times.dtype.is_float():
        return times.cast(pl.Float64)
    if times.dtype == pl.UInt64:
        return times.cast(pl.Int64, strict=False)
    if times.dtype.is_integer():
        return times.cast(pl.Int64)
    if times.dtype == pl.Date:
        return times.cast(pl.Datetime("us")).dt.epoch("s")
    if isinstance(times.dtype, pl.Datetime):
        return _epoch(times)
    if times.dtype != pl.String:
        return None
    text = times.str.strip_chars()
    readings = (text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False), _dates(text))
    best = min(readings, key=pl.Series.null_count)  # the first of equals; times that it cannot read are errors
    if best is readings[2]:
        naive = int((~text.str.contains(r"(Z|[+-]\d\d:?\d\d)$")).sum())
        if naive:
            log(f"{column}: {naive} of {len(times)} times have no time zone; read as UTC")
    return best


def _epoch(moments: pl.Series) -> pl.Series:
    micro = moments.dt.epoch("us")
    return micro // 10**6 if (micro % 10**6 == 0).all() else micro / 1e6


def _dates(texts: pl.Series) -> pl.Series:
    text = pl.col("t")
    utc = text.str.replace("Z$", "+00:00")
    aware = [utc.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False) for form in AWARE]
    naive = [text.str.to_datetime(form, time_unit="us", strict=False) for form in NAIVE]
    days = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    zoned = pl.coalesce(*naive, days).dt.replace_time_zone("UTC")
    return _epoch(texts.alias("t").to_frame().select(pl.coalesce(*aware, zoned)).to_series())


def _unit(numbers: pl.Series, column: str, log: Log) -> pl.Series:
    largest = float(numbers.max())  # type: ignore[arg-type]
    for least, parts, unit in FINER_UNITS:
        if largest >= least:
            log(f"{column}: times up to {largest:.0f} are read as {unit} since 1970")
            return numbers // parts if (numbers % parts == 0).all() else numbers / parts
    return numbers
