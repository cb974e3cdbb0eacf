"""Validate raw events and convert them to known types.

Errors name the row; decisions are logged.
"""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import numpy as np
import polars as pl

from segue.core.types import Mask
from segue.data.coordinates import grid_cells
from segue.data.raw_log import (
    COLUMNS,
    CONTEXT_PREFIXES,
    MAX_CATEGORIES,
    PREDEFINED_SPLIT_PREFIX,
    TIME_KNOWN,
    Log,
    RawLog,
)
from segue.data.timestamps import to_seconds

__all__ = ["MISSING", "MISSING_VALUE", "validate_events"]

MISSING_VALUE = ("NA", "N/A", "<NA>", "null", "NULL", "Null", "None", "\\N")
MISSING = (*MISSING_VALUE, "nan", "NaN", "NaT")
"""Texts that databases and libraries write for a missing value; a value of NaN is an error of its own."""

MAX_ID = 256
"""The service accepts ids of at most this many characters, without control characters."""

INVISIBLE = "\ufeff\u200b\u2060"
"""Byte order mark, zero-width space and word joiner."""

EXACT_INTEGERS: dict[type[pl.DataType], int] = {pl.Float64: 2**53, pl.Float32: 2**24, pl.Float16: 2**11}
"""Larger whole numbers are rounded in these types, so that different ids are equal."""


def validate_events(raw: RawLog, log: Log, incomplete: str = "error") -> pl.DataFrame:
    """Return the events with validated types.

    Ids are integers or text, ``time`` is numeric and ``value`` is Float32. ``incomplete="drop"`` removes events without
    a user, item or time; the number is logged.

    Raises:
        ValueError: a cell is invalid; the message has row, column, value and what was expected.
    """
    if len(raw.events):
        raw = _select_complete(raw, incomplete, log)
    events = raw.events
    if not len(events):
        raise ValueError(
            f"{raw.location.name}: no rows, expected events with columns {raw.names['user']}, {raw.names['item']}"
        )
    _check_repeated_header(raw)
    columns = [_ids(events["user"], raw, "user", log), _ids(events["item"], raw, "item", log)]
    if "time" in events:
        columns.append(to_seconds(events["time"], raw.names["time"], raw.location, log))
    if "value" in events and (values := _values(events["value"], raw, log)) is not None:
        columns.append(values)
    if "action" in events:
        columns.append(_text(events["action"], raw, "action"))
    for name in events.columns:
        if name.startswith(CONTEXT_PREFIXES[0]):
            columns.append(_categories(events[name], raw, log))
        elif name.startswith(CONTEXT_PREFIXES[1]):
            numbers = _values(_without_nan(events[name]), raw, log, name)
            columns.append(pl.repeat(np.nan, len(events), dtype=pl.Float32, eager=True) if numbers is None else numbers)
            columns[-1] = columns[-1].alias(name)
    columns += _cells(raw, log)
    columns += [
        events[name] for name in events.columns if name.startswith(PREDEFINED_SPLIT_PREFIX) or name == TIME_KNOWN
    ]
    return pl.DataFrame(columns)


def _select_complete(raw: RawLog, incomplete: str, log: Log) -> RawLog:
    """Remove events without a user, item or time, or raise an error for the first.

    Texts that stand for a missing value, such as ``NA``, become null.
    """
    events = raw.events
    numbers = [name for name in events.columns if name.startswith(CONTEXT_PREFIXES[1:])]
    context = [name for name in events.columns if name.startswith(CONTEXT_PREFIXES)]
    for key in ("user", "item", "time", "value", "action", *context):
        if key in events and events[key].dtype in (pl.String, pl.Categorical, pl.Enum):
            text = events[key].cast(pl.String)
            is_missing = text.str.strip_chars().is_in(MISSING_VALUE if key == "value" or key in numbers else MISSING)
            if is_missing.any():
                log(
                    f"{raw.names[key]}: {int(is_missing.sum())} of {len(text)} cells are "
                    f"{text.filter(is_missing)[0]!r} or similar; read as missing"
                )
                events = events.with_columns(pl.select(pl.when(~is_missing).then(text)).to_series().alias(key))
    events = events.with_columns(
        pl.when(pl.col(key).cast(pl.String).str.strip_chars() != "").then(pl.col(key)).alias(key)
        for key in ("user", "item", "time")
        if key in events and events[key].dtype in (pl.String, pl.Categorical, pl.Enum)
    )
    complete = np.ones(len(events), np.bool_)
    for key in ("user", "item", "time"):
        if key not in events or not events[key].null_count():
            continue
        missing: Mask = events[key].is_null().to_numpy()
        if incomplete == "error":
            row = int(missing.argmax())
            cell = raw.events[key][row]
            expected = "seconds since 1970 or an ISO date" if key == "time" else "an id"
            raise cell_error(
                raw,
                key,
                row,
                repr(cell) if isinstance(cell, str) and cell.strip() else "nothing",
                f"{expected} ({int(missing.sum())} of {len(missing)} rows have none; "
                "filters.incomplete=drop leaves them out)",
            )
        log(f"{raw.names[key]}: {int(missing.sum())} of {len(missing)} events have none and are left out")
        complete &= ~missing
    if complete.all():
        return replace(raw, events=events)
    location = replace(raw.location, selected=np.flatnonzero(complete))
    return replace(raw, events=events.filter(pl.Series(complete)), location=location)


def _check_repeated_header(raw: RawLog) -> None:
    """Raise an error if a row is the header again, as in concatenated files."""
    if any(raw.events[key].dtype not in (pl.String, pl.Categorical, pl.Enum) for key in ("user", "item")):
        return
    is_header = _is_name(raw, "user")
    if not is_header.any():
        return
    is_header &= _is_name(raw, "item")
    if is_header.any():
        raise ValueError(
            f"{raw.location.describe_row(is_header.arg_max() or 0)}: got the header again ({raw.names['user']}, "
            f"{raw.names['item']}) in {int(is_header.sum())} of {len(is_header)} rows, expected an event; remove it"
        )


def _is_name(raw: RawLog, key: str) -> pl.Series:
    """Return in which rows a cell is the name of its column."""
    ids, name = raw.events[key].cast(pl.String), raw.names[key]
    name = COLUMNS[key] if name.isdecimal() else name  # numbers count the columns of a file without header
    return (ids == name) | (ids == COLUMNS[key]) | (ids == f"\ufeff{name}")


def cell_error(raw: RawLog, column: str, row: int | None, got: object, expected: str) -> ValueError:
    """Create the error for one cell."""
    return ValueError(
        f"{raw.location.describe_row(row or 0)}, column {raw.names[column]}: got {got}, expected {expected}"
    )


def _ids(ids: pl.Series, raw: RawLog, column: str, log: Log) -> pl.Series:
    """Convert ids to integers if all are integers, else to text."""
    dtype = ids.dtype
    if dtype == pl.Object:
        ids = _from_objects(ids, raw, column)
    elif dtype.is_float() or dtype.is_decimal():
        ids = _from_decimals(ids, raw, column, log)
    elif dtype == pl.Binary:
        ids = _from_bytes(ids, raw, column, log)
    elif dtype.is_nested() or (dtype.is_temporal() and dtype != pl.Date):
        raise cell_error(raw, column, 0, f"a column of type {dtype}", "ids of one type, integers or text")
    elif dtype == pl.Boolean:
        log(f"{raw.names[column]}: ids are true and false; kept as text")
    if ids.dtype.is_integer() and ids.dtype not in (pl.Int128, pl.UInt128):
        return ids.alias(column)
    text = _text(ids, raw, column)
    if (whole := _whole_numbers(text)) is not None:
        example = text.filter(text.str.ends_with(".0"))[0]
        log(f"{raw.names[column]}: ids are numbers such as {example!r}; converted to integers")
        text = whole
    integers = [text.cast(size, strict=False) for size in (pl.Int64, pl.UInt64)]
    # "007" is text, not the number 7
    are_integers = [numbers.cast(pl.String).eq_missing(text) for numbers in integers]
    for numbers, is_same in zip(integers, are_integers, strict=True):
        if is_same.all():
            return numbers
    _report_unusual(text, raw, column, log)
    is_integer = are_integers[0] | are_integers[1]
    if count := int(is_integer.sum()):
        other = (~is_integer).arg_max() or 0
        log(
            f"{raw.names[column]}: ids of mixed type: {count} integers and {len(text) - count} texts "
            f"(first {text[other]!r} in {raw.location.describe_row(other)}); all are kept as text"
        )
    return text


def _whole_numbers(text: pl.Series) -> pl.Series | None:
    """Return ids such as ``12.0`` as ``12`` if all are whole numbers.

    ``None`` if some are not, or none has this form.
    """
    if not text[0].endswith(".0") and not text.str.ends_with(".0").any():
        return None
    whole = text.str.replace(r"\.0$", "")
    return whole if whole.str.contains(r"^(0|-?[1-9]\d*)$").all() else None


def _report_unusual(text: pl.Series, raw: RawLog, column: str, log: Log) -> None:
    """Log ids that the service rejects, and ids that are probably damaged."""
    ids = pl.col(text.name)
    reports = (
        (
            (ids.str.len_chars() > MAX_ID) | ids.str.contains(r"[\x00-\x1f\x7f]"),
            f"are longer than {MAX_ID} characters or contain control characters; the service rejects them",
        ),
        (ids != ids.str.strip_chars(), "begin or end with white space, which is part of the id"),
        (ids.str.contains(f"^[{INVISIBLE}]|[{INVISIBLE}]$"), "begin or end with an invisible character"),
        (ids.str.contains("^'.*'$"), "are in single quotes, which are part of the id"),
        (
            ids.str.contains(r"^[+-]?\d+(\.\d+)?[eE]\+\d+$|^[+-]?\d\.\d+[eE]\d+$"),
            "are in scientific notation; a spreadsheet may have rounded them, so that different ids are equal",
        ),
    )
    table = text.to_frame()
    distinct = table.unique()
    for condition, what in reports:
        if not distinct.select(condition).to_series().any():
            continue
        is_unusual = table.select(condition).to_series()
        row = is_unusual.arg_max() or 0
        shown = text[row] if len(text[row]) <= 40 else f"{text[row][:40]}..."
        log(
            f"{raw.names[column]}: the ids of {int(is_unusual.sum())} of {len(text)} events {what} "
            f"(first {shown!r} in {raw.location.describe_row(row)})"
        )


def _text(column: pl.Series, raw: RawLog, name: str) -> pl.Series:
    """Convert a column to text; empty cells are errors."""
    text = column.cast(pl.String).alias(name)
    empty = text.is_null() | (text.str.len_bytes() == 0)
    if empty.any():
        raise cell_error(raw, name, empty.arg_max(), "nothing", "an id" if name in ("user", "item") else "text")
    return text


def _from_bytes(ids: pl.Series, raw: RawLog, column: str, log: Log) -> pl.Series:
    """Convert binary ids to text: UTF-8, or else UUIDs of 16 bytes."""
    cells = ids.to_list()
    try:
        text = [cell.decode("utf-8") for cell in cells]
        kind = "binary; read as UTF-8 text"
        is_text = all(one.isprintable() for one in text)
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        wrong = next((row for row, cell in enumerate(cells) if len(cell) != 16), None)
        if wrong is not None:
            raise cell_error(raw, column, wrong, repr(cells[wrong]), "an id: UTF-8 text, or a UUID of 16 bytes")
        text, kind = [str(UUID(bytes=cell)) for cell in cells], "16 bytes each; read as UUIDs"
    log(f"{raw.names[column]}: ids are {kind}")
    return pl.Series(ids.name, text, dtype=pl.String)


def _from_objects(ids: pl.Series, raw: RawLog, column: str) -> pl.Series:
    """Convert UUIDs, and texts and integers held as Python objects, to text."""
    cells = ids.to_list()
    kind = type(cells[0])
    expected = "ids of one type: integers, text or UUIDs"
    if kind not in (UUID, str, int):
        raise cell_error(raw, column, 0, f"{cells[0]!r} ({kind.__name__})", expected)
    other = next((row for row, cell in enumerate(cells) if type(cell) is not kind), None)
    if other is not None:
        raise cell_error(raw, column, other, f"{cells[other]!r} ({type(cells[other]).__name__})", expected)
    return pl.Series(ids.name, [str(one) for one in cells], dtype=pl.String)


def _from_decimals(ids: pl.Series, raw: RawLog, column: str, log: Log) -> pl.Series:
    """Convert floating-point and decimal ids to integers.

    Raises:
        ValueError: an id has a fraction, is not finite, or is so large that its type rounds it.
    """
    limit = EXACT_INTEGERS.get(type(ids.dtype))
    if limit is None:
        is_whole = ids == ids.cast(pl.Decimal(None, 0))
    else:
        is_whole = ids.is_finite() & (ids.floor() == ids)
        too_large = is_whole & (ids.abs() >= limit)
        if too_large.any():
            row = too_large.arg_max()
            expected = f"an id below {limit:,}, above which {ids.dtype} is not exact; use integers or text"
            raise cell_error(raw, column, row, ids[row or 0], expected)
    if not is_whole.all():
        row = (~is_whole).arg_max()
        raise cell_error(raw, column, row, ids[row or 0], "an id: an integer or text")
    log(f"{raw.names[column]}: ids are {ids.dtype} with integer values; converted to integers")
    return ids.cast(pl.Int128 if limit is None else pl.Int64)


def _categories(column: pl.Series, raw: RawLog, log: Log) -> pl.Series:
    """Convert a context column to text.

    Empty cells are null, and whole numbers such as ``3.0`` are read as ``3``.
    """
    name = column.name
    if column.dtype.is_nested() or column.dtype in (pl.Object, pl.Binary):
        raise cell_error(raw, name, 0, f"a column of type {column.dtype}", "categories: text, integers or booleans")
    text = _without_nan(column).cast(pl.String).str.strip_chars()
    text = pl.select(pl.when(text != "").then(text)).to_series()
    known = text.drop_nulls()
    if len(known) and (whole := _whole_numbers(known)) is not None and len(whole):
        text = text.str.replace(r"\.0$", "")
    elif len(known) and known.str.to_lowercase().is_in(["true", "false"]).all():
        text = text.str.to_lowercase()
    if missing := text.null_count():
        log(f"{raw.names.get(name, name)}: {missing} of {len(text)} events have no value; the context is unknown there")
    return text.alias(name)


def _cells(raw: RawLog, log: Log) -> list[pl.Series]:
    """Convert coordinates to grid cells, one context column of categories per size.

    Events without latitude or longitude have no cell. Sizes with too many cells are left out.

    Raises:
        ValueError: a coordinate is out of range.
    """
    columns = []
    for key in (name for name in raw.events.columns if name.startswith(CONTEXT_PREFIXES[2])):
        name, _, side = key.removeprefix(CONTEXT_PREFIXES[2]).partition(":")
        if side != "latitude":
            continue
        pair = []
        for which, limit in (("latitude", 90), ("longitude", 180)):
            own = f"{CONTEXT_PREFIXES[2]}{name}:{which}"
            numbers = _values(_without_nan(raw.events[own]), raw, log, own)
            pair.append(np.full(len(raw.events), np.nan) if numbers is None else numbers.to_numpy())
            if (is_wrong := np.abs(pair[-1]) > limit).any():
                row = int(is_wrong.argmax())
                raise cell_error(raw, own, row, repr(raw.events[own][row]), f"a {which} from -{limit} to {limit}")
        for size, cells in grid_cells(*pair).items():
            column = pl.Series(f"{CONTEXT_PREFIXES[0]}{name}_{size}", cells.tolist(), dtype=pl.String)
            if (count := column.n_unique()) > MAX_CATEGORIES:
                log(f"{name}_{size}: {count:,} cells, more than {MAX_CATEGORIES:,}; this size is left out")
                continue
            columns.append(column)
    return columns


def _without_nan(column: pl.Series) -> pl.Series:
    """Replace NaN by null: some tables mark missing cells with NaN."""
    return column.fill_nan(None) if column.dtype.is_float() else column


def _values(values: pl.Series, raw: RawLog, log: Log, name: str = "value") -> pl.Series | None:
    """Convert values, or a context column of numbers, to Float32.

    Missing values become NaN.

    The result is ``None`` if all values are missing.
    """
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        values = values.str.strip_chars()
        values = pl.select(pl.when(values != "").then(values)).to_series()
    if values.dtype == pl.String and values.drop_nulls().str.to_lowercase().is_in(["true", "false"]).all():
        values = pl.select(pl.when(values.is_not_null()).then(values.str.to_lowercase() == "true")).to_series()
    if values.dtype == pl.Boolean and values.null_count() < len(values):
        log(f"{raw.names[name]}: true and false are read as 1 and 0")
    if not (values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean, pl.Null)):
        raise cell_error(raw, name, 0, f"a column of type {values.dtype}", "a number")
    numbers = values.cast(pl.Float32, strict=False).alias(name)
    not_numeric = numbers.is_null() & values.is_not_null()
    if not_numeric.any():
        row = not_numeric.arg_max()
        raise cell_error(raw, name, row, repr(values[row or 0]), "a number")
    infinite = ~numbers.is_finite().fill_null(True)
    if infinite.any():
        row = infinite.arg_max()
        raise cell_error(raw, name, row, values[row or 0], "a finite number")
    missing = numbers.null_count()
    if missing == len(numbers):
        log(f"{raw.names[name]}: no event has a value; the column is ignored")
        return None
    if missing:
        log(f"{raw.names[name]}: {missing} of {len(numbers)} events have no value; kept without one (NaN)")
    return numbers.fill_null(np.nan)
