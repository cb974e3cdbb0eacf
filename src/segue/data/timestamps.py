"""Times as they come (numbers, texts, dates) made into seconds since 1970 in UTC."""

from __future__ import annotations

import polars as pl

from segue.data.raw_log import Place, Say

__all__ = ["seconds"]

FINER = ((1e17, 10**9, "nanoseconds"), (1e14, 10**6, "microseconds"), (1e11, 10**3, "milliseconds"))
"""Numbers from here on are no seconds (1e11 s is the year 5138) but a finer unit."""

AWARE = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z")
NAIVE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
WANTED = "seconds since 1970 or an ISO date such as 2024-05-31T12:00:00Z"


def seconds(times: pl.Series, column: str, place: Place, say: Say) -> pl.Series:
    """``time`` as Int64 seconds, or Float64 where fractions decide the order.

    Raises:
        ValueError: a time that is absent, not a number or date, not finite or before 1970: with its place.
    """

    def fault(bad: pl.Series, wanted: str = WANTED) -> ValueError:
        row = bad.arg_max() or 0
        came = times[row]
        shown = "nothing" if came is None else repr(came) if isinstance(came, str) else str(came)
        return ValueError(f"{place.of(row)}, column {column}: got {shown}, expected {wanted}")

    if times.null_count():
        raise fault(times.is_null())
    numbers = _numbers(times, column, say)
    if numbers is None:
        raise fault(times.is_not_null(), f"{WANTED} (the column is {times.dtype})")
    if numbers.null_count():
        raise fault(numbers.is_null())
    if numbers.dtype.is_float() and not numbers.is_finite().all():
        raise fault(~numbers.is_finite())
    if (numbers < 0).any():
        raise fault(numbers < 0, f"a time of 1970 or later: {WANTED}")
    if not times.dtype.is_temporal():
        numbers = _unit(numbers, column, say)
    if numbers.dtype.is_float() and (numbers.floor() == numbers).all():
        numbers = numbers.cast(pl.Int64)
    return numbers.alias("time")


def _numbers(times: pl.Series, column: str, say: Say) -> pl.Series | None:
    """Numbers, with nulls where a text is neither number nor date; ``None`` for a type that can't be a time."""
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
    best = min(readings, key=pl.Series.null_count)  # the first of equals; what it can't read is the fault
    if best is readings[2]:
        naive = int((~text.str.contains(r"(Z|[+-]\d\d:?\d\d)$")).sum())
        if naive:
            say(f"{column}: {naive} of {len(times)} times name no time zone; taken as UTC")
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


def _unit(numbers: pl.Series, column: str, say: Say) -> pl.Series:
    most = float(numbers.max())  # type: ignore[arg-type]
    for least, parts, unit in FINER:
        if most >= least:
            say(f"{column}: times up to {most:.0f} are read as {unit} since 1970")
            return numbers // parts if (numbers % parts == 0).all() else numbers / parts
    return numbers
