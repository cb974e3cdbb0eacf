"""Convert times (numbers, texts, dates) to Unix seconds in UTC.

The unit of numbers is detected once per column, from most of its values; a number in another unit is an error. Dates
have no unit. Times that are valid but improbable are reported.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl

from segue.core.events import MAX_SECONDS
from segue.data.raw_log import Log, SourceLocation

__all__ = ["to_seconds"]

UNITS = ((1, "seconds"), (10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds"))
"""Parts of a second and their names. A number of ``MAX_SECONDS`` or more is in a finer unit than seconds."""

DATE_DIGITS = ((8, "%Y%m%d", "YYYYMMDD"), (14, "%Y%m%d%H%M%S", "YYYYMMDDHHMMSS"))
"""Integers whose digits are dates: number of digits, format, and its name."""

EARLY, LATE = 100_000_000, 4_102_444_800
"""1973-03-03 and 2100-01-01 in seconds; times outside of them are reported."""

YEAR_10000 = 253_402_300_800
"""The end of the calendar, in seconds."""

AWARE = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M%#z")
NAIVE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M")
OFFSET = r"(:\d\d(?:\.\d+)?) ?([+-]\d\d)(?::?(\d\d))?$"
"""A UTC offset after a time of day: ``+02:00``, ``+0200``, or ``+02`` as PostgreSQL writes it."""
EXPECTED = "seconds since 1970 or an ISO date such as 2024-05-31T12:00:00Z"


def to_seconds(times: pl.Series, column: str, location: SourceLocation, log: Log) -> pl.Series:
    """Convert a column of times to seconds.

    The type is Int64, or Float64 if there are fractions.

    Raises:
        ValueError: a time is missing, no number or date, not finite, before 1970, or in another unit than most; the
            message names the row.
    """

    def error(invalid: pl.Series, expected: str = EXPECTED) -> ValueError:
        row = invalid.arg_max() or 0
        return ValueError(
            f"{location.describe_row(row)}, column {column}: got {_show(times[row])}, expected {expected}"
        )

    if isinstance(times.dtype, pl.Categorical | pl.Enum):
        times = times.cast(pl.String)
    if times.null_count():
        raise error(times.is_null())
    found = _read(times, column, log)
    if found is None:
        raise error(times.is_not_null(), f"{EXPECTED} (the column is {times.dtype})")
    seconds, is_date = found
    if seconds.null_count():
        raise error(seconds.is_null())
    if seconds.dtype.is_float() and not seconds.is_finite().all():
        raise error(~seconds.is_finite())
    if (seconds < 0).any():
        raise error(seconds < 0, f"a time of 1970 or later: {EXPECTED}")
    if not is_date and (dates := _from_digits(seconds, column, log)) is not None:
        seconds, is_date = dates, True
    if not is_date:
        units = _units(seconds)
        parts, name = UNITS[int(units.drop_nulls().mode().min() or 0)]  # type: ignore[arg-type]
        other = (units != UNITS.index((parts, name))).fill_null(False)
        if other.any():
            raise error(
                other,
                f"{name} since 1970 as in other rows, such as {_show(times.filter(~other)[0])} "
                f"({int(other.sum())} of {len(times)} numbers are of another magnitude; convert all to one unit)",
            )
        if parts > 1:
            log(f"{column}: times up to {float(seconds.max()):.0f} are read as {name} since 1970")  # type: ignore[arg-type]
            seconds = seconds // parts if (seconds % parts == 0).all() else seconds / parts
    if (too_late := seconds >= YEAR_10000).any():
        row = too_late.arg_max() or 0  # the cell itself may be no valid date in Python
        raise ValueError(
            f"{location.describe_row(row)}, column {column}: got {seconds[row]:.0f} seconds since 1970, expected a "
            "time before the year 10000"
        )
    if seconds.dtype.is_float() and (seconds.floor() == seconds).all():
        seconds = seconds.cast(pl.Int64)
    if len(seconds) > 1 and is_date and (seconds % 86_400 == 0).all():
        log(f"{column}: the times are days; events of one day keep the order of the rows")
    _report_improbable(times, seconds, column, location, log)
    return seconds.alias("time")


def _read(times: pl.Series, column: str, log: Log) -> tuple[pl.Series, bool] | None:
    """Return numbers, and whether they are seconds because they were dates.

    Texts that are neither a number nor a date become null. ``None`` for types that cannot be times.
    """
    if times.dtype.is_float() or times.dtype.is_decimal():
        numbers = times.cast(pl.Float64)
        largest = float(numbers.max() or 0)  # type: ignore[arg-type]
        if times.dtype == pl.Float32 and 2**24 <= largest < np.inf:
            log(
                f"{column}: Float32 rounds numbers as large as {largest:.0f} to multiples of "
                f"{np.spacing(np.float32(largest)):.0f}; events at equal times keep the order of the rows"
            )
        return numbers, False
    if times.dtype.is_integer():
        return times.cast(pl.Int64, strict=False), False
    if times.dtype == pl.Date:
        return times.cast(pl.Datetime("us")).dt.epoch("s"), True
    if isinstance(times.dtype, pl.Datetime):
        if times.dtype.time_zone is None:
            log(f"{column}: the times have no time zone; read as UTC")
        return _epoch(times), True
    if times.dtype != pl.String:
        return None
    text = times.str.strip_chars().str.replace(r"(?i) ?(Z|UTC|GMT)$", "+00:00")
    readings = (text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False), _dates(text))
    best = min(readings, key=pl.Series.null_count)  # the first of equals; times that it cannot read are errors
    exponents = text.str.contains(r"\d[eE]") if best is readings[1] else pl.Series([False])
    if exponents.any():
        log(
            f"{column}: {int(exponents.sum())} of {len(times)} times are in scientific notation, such as "
            f"{times.filter(exponents)[0]!r}; a spreadsheet may have rounded them"
        )
    if best is readings[2]:
        naive = int((~text.str.contains(OFFSET)).sum())
        if naive:
            number = "the" if naive == len(times) else f"{naive} of {len(times)}"
            log(f"{column}: {number} times have no time zone; read as UTC")
    return best, best is readings[2]


def _epoch(moments: pl.Series) -> pl.Series:
    micro = moments.dt.epoch("us")
    return micro // 10**6 if (micro % 10**6 == 0).all() else micro / 1e6


def _dates(texts: pl.Series) -> pl.Series:
    text = pl.col("t").str.replace(OFFSET, "${1}${2}:${3}").str.replace(":$", ":00")
    aware = [text.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False) for form in AWARE]
    naive = [text.str.to_datetime(form, time_unit="us", strict=False) for form in NAIVE]
    days = text.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    zoned = pl.coalesce(*naive, days).dt.replace_time_zone("UTC")
    return _epoch(texts.alias("t").to_frame().select(pl.coalesce(*aware, zoned)).to_series())


def _from_digits(numbers: pl.Series, column: str, log: Log) -> pl.Series | None:
    """Convert integers such as 20240131 to seconds; ``None`` unless all are dates."""
    if not len(numbers) or (numbers.dtype.is_float() and (numbers.floor() != numbers).any()):
        return None
    for digits, form, name in DATE_DIGITS:
        scale = 10 ** (digits - 8)
        if not numbers.is_between(19700101 * scale, 21000101 * scale - 1).all():
            continue
        text = numbers.cast(pl.Int64).cast(pl.String)
        dates = text.str.to_datetime(form, time_unit="us", strict=False)
        if not dates.null_count():
            log(f"{column}: numbers such as {text[0]} are read as dates {name} in UTC")
            return dates.dt.epoch("s")
    return None


def _units(numbers: pl.Series) -> pl.Series:
    """Return the index in ``UNITS`` that fits each number.

    It is null for 0, which is the same in every unit.
    """
    bounds = [float(MAX_SECONDS) * parts for parts, _ in UNITS[:-1]]
    units = sum((numbers >= bound).cast(pl.Int8) for bound in bounds)
    assert isinstance(units, pl.Series)
    return units.to_frame("unit").select(pl.when(numbers != 0).then(pl.col("unit"))).to_series()


def _report_improbable(times: pl.Series, seconds: pl.Series, column: str, location: SourceLocation, log: Log) -> None:
    """Report times before 1973 and after 2099."""
    early, late = seconds < EARLY, seconds >= LATE
    for improbable, text in ((early, "before 1973"), (late, "after 2099")):
        count, row = int(improbable.sum()), improbable.arg_max() or 0
        if count == len(seconds):
            ends = " to ".join(_iso(end) for end in (seconds.min(), seconds.max()))
            log(f"{column}: all times are {text} ({ends}); if that is wrong, check their unit")
        elif count:
            log(
                f"{column}: {count} of {len(times)} times are {text}, the first in {location.describe_row(row)}: "
                f"{_show(times[row])}; they are used as they are"
            )


def _iso(seconds: object) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).date().isoformat()  # type: ignore[call-overload]


def _show(value: object) -> str:
    return "nothing" if value is None else repr(value) if isinstance(value, str) else str(value)
