"""Tables of events: in memory (whatever speaks the Arrow C interface) with a mapping of columns to our names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from segue.core.config import suggest
from segue.data.raw_log import COLUMNS, Place, Raw

__all__ = ["frame_of", "is_table", "mapped", "read_table", "resolve"]


def is_table(source: object) -> bool:
    """Whether ``source`` is an in-memory table: pandas, Polars, DuckDB, pyarrow, ..."""
    return hasattr(source, "__arrow_c_stream__") or isinstance(source, pl.LazyFrame)


def read_table(source: Any, columns: Mapping[str, str] | None = None) -> Raw:
    """The events of an in-memory table.

    Raises:
        ValueError: no table, a column of mixed types, or a missing column.
    """
    name, frame = frame_of(source)
    return mapped(frame, resolve(columns, frame.columns, name), Place(name))


def frame_of(source: Any) -> tuple[str, pl.DataFrame]:
    """What kind of table an in-memory table is, and its columns.

    Raises:
        ValueError: a column of mixed types.
    """
    name = f"{type(source).__module__.split('.')[0]} table"
    if isinstance(source, pl.LazyFrame):
        source = source.collect()
    try:
        return name, source if isinstance(source, pl.DataFrame) else pl.DataFrame(source)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        # pandas hands columns of mixed type to pyarrow, which refuses them
        said = " ".join(str(part) for part in error.args)
        raise ValueError(f"{name}: {said}; expected columns of one type each") from None


def resolve(columns: Mapping[str, str] | None, found: list[str], name: str) -> dict[str, str]:
    """Our names to the names in the table, of the columns that are there.

    Raises:
        ValueError: an unknown name of ours, or a column that was asked for or is needed and is missing.
    """
    for key in columns or {}:
        if key not in COLUMNS:
            raise ValueError(f"columns.{key}: unknown{suggest(key, COLUMNS)}")
    faults = []
    names: dict[str, str] = {}
    for key, default in COLUMNS.items():
        wanted = (columns or {}).get(key, default)
        if wanted in found:
            names[key] = wanted
        elif key in (columns or {}) or key in ("user", "item"):
            faults.append(
                f"{name}: no column '{wanted}' ({key}){suggest(wanted, found)}; "
                f"columns are named like {key}={found[0] if found else wanted}"
            )
    if faults:
        raise ValueError("\n".join(faults))
    return names


def mapped(frame: pl.DataFrame, names: Mapping[str, str], place: Place) -> Raw:
    """The raw log in ``frame``; which columns are not used is noted."""
    unused = [column for column in frame.columns if column not in names.values()]
    notes = (f"{place.name}: columns not used: {', '.join(unused)}",) if unused else ()
    events = frame.select(pl.col(column).alias(key) for key, column in names.items())
    return Raw(events, place, names=dict(names), notes=notes)
