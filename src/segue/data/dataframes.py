"""Read in-memory tables of events.

Any table with the Arrow C stream interface is accepted, with a column mapping.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import polars as pl

from segue.core.config import suggest
from segue.data.coordinates import CELL_SIZES
from segue.data.raw_log import COLUMNS, CONTEXT_PREFIXES, TIME_KNOWN, Log, RawLog, SourceLocation, no_log

PROBABLE = {
    "time": (
        "time",
        "date",
        "datetime",
        "ts",
        "eventtime",
        "eventdate",
        "createdat",
        "unixtimestamp",
        "unixreviewtime",
    ),
    "value": ("value", "score", "stars", "ratings"),
    "action": ("event", "eventtype", "eventname", "behavior", "behaviortype", "interactiontype"),
}
"""Usual names of columns without case, ``_`` and ``-``. They are not used, because they may mean something else."""

CONVERSION_ERRORS = (TypeError, ValueError, OverflowError, NotImplementedError, pl.exceptions.PolarsError)

__all__ = [
    "ColumnNames",
    "count_columns",
    "is_table",
    "normalize_columns",
    "read_table",
    "resolve_columns",
    "to_frame",
    "to_raw_log",
]

ColumnNames: TypeAlias = Mapping[str, str | int | Sequence[str | int] | None]
"""Columns of a log by internal or default name; ``None`` ignores a column, a number counts columns from 1. ``context``
lists further columns of events with categories, ``context_number`` further columns with numbers; ``context:NAME`` and
``context_number:NAME`` read one such column and name it. ``context_coordinates`` is a pair of columns, latitude and
longitude, whose grid cells are categories."""

RESERVED = ("offsets", "items", "actions", "values", "times", TIME_KNOWN, "action_known")
"""Names of other columns of prepared events, which no context column may have."""

CONTEXT_NAME = r"\w[\w -]{0,63}"
"""Name of a context column."""


def is_table(source: object) -> bool:
    """Check whether ``source`` is an in-memory table.

    Examples are tables of pandas, Polars, DuckDB and pyarrow.
    """
    return hasattr(source, "__arrow_c_stream__") or isinstance(source, pl.LazyFrame)


def read_table(source: Any, columns: ColumnNames | None = None) -> RawLog:
    """Read the events of an in-memory table.

    Raises:
        ValueError: ``source`` is not a table, a column has mixed types, or a column is missing.
    """
    name, frame = to_frame(source)
    notes: list[str] = []
    try:
        names = resolve_columns(columns, frame.columns, name, notes.append)
    except ValueError as error:
        index = [repr(level) for level in getattr(getattr(source, "index", None), "names", ()) if level is not None]
        hint = f"\n{name}: the index, {', '.join(index)}, is not read; make it a column with reset_index()"
        raise ValueError(f"{error}{hint if index else ''}") from None
    return to_raw_log(frame, names, SourceLocation(name), notes)


def to_frame(source: Any) -> tuple[str, pl.DataFrame]:
    """Convert an in-memory table to Polars; also return the name of its type.

    Raises:
        ValueError: a column has mixed types.
    """
    name = f"{type(source).__module__.split('.')[0]} table"
    if isinstance(source, pl.LazyFrame):
        source = source.collect()
    if type(source).__name__ == "Series":
        raise ValueError(f"{name}: got a Series, expected a table with columns such as user_id and item_id")
    try:
        return name, source if isinstance(source, pl.DataFrame) else pl.DataFrame(source)
    except (*CONVERSION_ERRORS, pl.exceptions.PanicException) as error:
        # pandas passes columns of mixed types to pyarrow, which rejects them
        message = " ".join(str(part) for part in error.args)
        column = _find_unreadable_column(source)
        where = "" if column is None else f", column {column}"
        raise ValueError(
            f"{name}{where}: {message}; expected columns of one type each, with different names: numbers, text or dates"
        ) from None


def _find_unreadable_column(source: Any) -> str | None:
    """Return the first column of a pandas table that cannot be converted, or ``None``."""
    if type(source).__module__.split(".")[0] != "pandas" or not source.columns.is_unique:
        return None
    for column in source.columns:
        try:
            pl.DataFrame(source[[column]])
        except (*CONVERSION_ERRORS, pl.exceptions.PanicException):
            return str(column)
    return None


def normalize_columns(columns: ColumnNames | None) -> dict[str, str]:
    """Return the column names given by the user, by internal name.

    A column to ignore has the name ``""``.

    Raises:
        ValueError: a key is unknown or given twice, a name is not a text, or a required column is ignored.
    """
    internal = {default: key for key, default in COLUMNS.items()}
    names: dict[str, str] = {}
    for given, name in _name_context(columns or {}):
        key = internal.get(given, given)
        if key not in COLUMNS and not key.startswith(CONTEXT_PREFIXES):
            known = (*COLUMNS, *internal, *(prefix.rstrip(":") for prefix in CONTEXT_PREFIXES))
            raise ValueError(f"columns.{given}: unknown{suggest(str(given), known)}")
        if key in names:
            raise ValueError(f"columns.{given}: given twice, as '{key}' and as '{COLUMNS[key]}'")
        if isinstance(name, bool) or not isinstance(name, str | int | None):
            raise ValueError(f"columns.{given}: got {name!r}, expected a column name, or None to ignore the column")
        if key in ("user", "item") and name in (None, ""):
            raise ValueError(f"columns.{given}: got {name!r}, expected a column name; a log needs users and items")
        names[key] = "" if name is None else str(name)
    for key, name in names.items():
        if other := next((k for k in names if name and names[k] == name and k != key), None):
            raise ValueError(f"columns.{other}: '{name}' is already the column of columns.{key}")
    return names


def _name_context(columns: ColumnNames) -> Iterator[tuple[str, Any]]:
    """Yield the columns with one key each.

    Columns listed as ``context`` or ``context_number`` are named as in the table; coordinates are a pair of columns.

    Raises:
        ValueError: a context column is not in a list, has an unusable name, or has the name of another one.
    """
    names: set[str] = set()
    for given, value in columns.items():
        listed = [(given, value)]
        if f"{given}:" in CONTEXT_PREFIXES[:2]:
            if isinstance(value, str | int) or not isinstance(value, Sequence):
                raise ValueError(
                    f"columns.{given}: got {value!r}, expected a list of column names; '{given}:NAME' names one column"
                )
            listed = [(f"{given}:{column}", column) for column in value]
        if str(given).startswith(CONTEXT_PREFIXES[2]) or f"{given}:" == CONTEXT_PREFIXES[2]:
            yield from _name_coordinates(given, value, names)
            continue
        for key, column in listed:
            if str(key).startswith(CONTEXT_PREFIXES):
                name = key.partition(":")[2]
                if not re.fullmatch(CONTEXT_NAME, name) or name in RESERVED:
                    raise ValueError(
                        f"columns.{given}: got the name {name!r} of a context column, expected letters, digits, '_', "
                        f"'-' and spaces, and none of {', '.join(RESERVED)}; rename it: "
                        f"'{key.partition(':')[0]}:NAME': {column!r}"
                    )
                if name in (COLUMNS["user"], COLUMNS["item"], "query"):
                    raise ValueError(
                        f"columns.{given}: the name '{name}' is reserved for ids, expected another name of a context "
                        "column; 'context:NAME' names one"
                    )
                if column in (None, ""):
                    raise ValueError(f"columns.{given}: got {column!r}, expected a column name; leave out the entry")
                if name in names:
                    raise ValueError(f"columns.{given}: two context columns have the name '{name}'")
                names.add(name)
            yield key, column


def _name_coordinates(given: str, value: Any, names: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the columns of latitude and longitude.

    The names of their cells are added to ``names``.

    Raises:
        ValueError: the value is not a pair of columns, or a name is unusable or taken.
    """
    name, _, side = (given.partition(":")[2] or "cell").partition(":")
    if side in ("latitude", "longitude"):  # named before
        names.update(f"{name}_{size}" for size in CELL_SIZES)
        yield given, value
        return
    pair = value.split("+") if isinstance(value, str) else value
    if isinstance(pair, int) or not isinstance(pair, Sequence) or len(pair) != 2 or not all(pair):
        raise ValueError(f"columns.{given}: got {value!r}, expected the columns of latitude and longitude")
    if not re.fullmatch(CONTEXT_NAME, name) or len(name) > 50:
        raise ValueError(
            f"columns.{given}: got the name {name!r}, expected at most 50 letters, digits, '_', '-' and spaces"
        )
    for cells in (f"{name}_{size}" for size in CELL_SIZES):
        if cells in names:
            raise ValueError(f"columns.{given}: two context columns have the name '{cells}'")
        names.add(cells)
    yield f"{CONTEXT_PREFIXES[2]}{name}:latitude", pair[0]
    yield f"{CONTEXT_PREFIXES[2]}{name}:longitude", pair[1]


def resolve_columns(columns: ColumnNames | None, found: Sequence[str], name: str, log: Log = no_log) -> dict[str, str]:
    """Map internal column names to the names of the columns found in a table.

    Columns that are not given have their default names. Case, spaces, ``-`` and ``_`` in these do not matter.

    Args:
        columns: names given by the user, by internal or default name; ``None`` or ``""``: the column is ignored.
        found: columns of the table.
        name: name of the table for error messages.
        log: receives the columns that are recognized by a similar name.

    Raises:
        ValueError: an internal name is unknown, or a required or given column is missing or ambiguous.
    """
    given = normalize_columns(columns)
    errors = []
    names: dict[str, str] = {}
    taken = set(given.values())
    context = {key: name for key, name in given.items() if key.startswith(CONTEXT_PREFIXES)}
    for key, default in {**COLUMNS, **context}.items():
        expected = given.get(key, default)
        if not expected:
            if default in found:
                log(f"{name}: column {default} is ignored")
            continue
        similar = [column for column in found if _simplify(column) == _simplify(expected) and column not in taken]
        matches = [column for column in found if column == expected and (key in given or column not in taken)]
        if not matches and key not in given and similar:
            matches = similar
            log(f"{name}: column '{similar[0]}' is read as {default}")
        if len(matches) > 1:
            errors.append(f"{name}: {len(matches)} columns for {key}: {', '.join(matches)}; expected one")
        elif matches:
            names[key] = matches[0]
        elif key in given or key in ("user", "item"):
            free = [column for column in found if column not in names.values()]
            if other := next((one for one, column in given.items() if column == expected in found), None):
                errors.append(f"columns.{other}: '{expected}' is the column of {key} ids, expected another column")
                continue
            errors.append(
                f"{name}: no column '{expected}' ({key}){suggest(expected, found)}; "
                f"name columns like {key}={free[0] if free else expected}"
            )
    if errors:
        raise ValueError("\n".join(errors))
    _report_absent(names, given, found, log)
    return names


def _report_absent(names: Mapping[str, str], given: Mapping[str, str], found: Sequence[str], log: Log) -> None:
    """Log that there are no times, and columns that may be what is absent."""
    absent = [key for key in PROBABLE if key not in names and key not in given]
    if "time" in absent:
        log(f"no column {COLUMNS['time']}; the order of the rows is the order of events")
    for key in absent:
        for column in found:
            if _simplify(column) in PROBABLE[key] and column not in names.values():
                log(f"column '{column}' is not used; if it is the {key} of events, name it: {key}={column}")


def count_columns(found: Sequence[str], expected: Mapping[str, str]) -> int:
    """Count the ``expected`` columns that ``found`` contains.

    ``expected`` is by internal name. A single found column counts nothing, because it may be a whole line.
    """
    simple = {_simplify(column) for column in found}
    return sum(_simplify(column) in simple for column in expected.values() if column) if len(found) > 1 else 0


def _simplify(column: str) -> str:
    return re.sub(r"[\s_-]|:(token|float)$", "", column).casefold()  # RecBole adds the type to the name


def to_raw_log(
    frame: pl.DataFrame, names: Mapping[str, str], location: SourceLocation, notes: Sequence[str] = ()
) -> RawLog:
    """Select and rename the columns ``names`` of ``frame``; unused columns are noted."""
    unused = [column for column in frame.columns if column not in names.values()]
    if unused:
        notes = (*notes, f"{location.name}: columns not used: {', '.join(unused)}")
    events = frame.select(pl.col(column).alias(key) for key, column in names.items())
    return RawLog(events, location, names=dict(names), notes=tuple(notes))
