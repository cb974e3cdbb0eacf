"""Read event files: ``.csv``, ``.tsv``, ``.jsonl`` and ``.parquet``.

An address is one file, a folder or a pattern.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from segue.core.types import Dataset
from segue.data.dataframes import resolve_columns, to_raw_log
from segue.data.delimited import check_utf8, read_delimited
from segue.data.raw_log import RawLog, SourceLocation

__all__ = ["find_files", "is_file_address", "read_files", "read_prepared"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def is_file_address(address: str) -> bool:
    """Check whether ``address`` refers to files.

    The check uses its suffix, its existence, or the form of a path or pattern.
    """
    return Path(address).suffix.lower() in SUFFIXES or Path(address).exists() or any(sign in address for sign in "/\\*")


def find_files(address: str) -> list[Path]:
    """Return the files of ``address`` sorted by name, all with the same suffix.

    Raises:
        ValueError: there are no files, or they have several suffixes.
    """
    location = Path(address).expanduser()
    if location.is_dir():
        paths = [path for path in location.iterdir() if path.suffix.lower() in SUFFIXES]
    elif location.exists():
        paths = [location]
    else:
        paths = [Path(text) for text in glob.glob(str(location)) if Path(text).is_file()]
    expected = ", ".join(SUFFIXES)
    if not paths:
        raise ValueError(f"{address}: no such file, or no files in it; expected {expected}")
    suffixes = {path.suffix.lower() for path in paths}
    if len(suffixes) > 1 or not suffixes <= set(SUFFIXES):
        raise ValueError(f"{address}: got files {', '.join(sorted(suffixes))}, expected one suffix of {expected}")
    return sorted(paths)


def read_files(paths: Sequence[Path], columns: Mapping[str, str] | None = None) -> RawLog:
    """Read and concatenate the events of all files.

    Raises:
        ValueError: a file is empty, unreadable or wrongly encoded, or lacks a column; the message names the file.
    """
    parts = [_read(path, columns) for path in paths]
    first = parts[0]
    for path, part in zip(paths, parts, strict=True):
        if set(part.events.columns) != set(first.events.columns):
            got, expected = (", ".join(p.names[c] for c in p.events.columns) for p in (part, first))
            raise ValueError(f"{path}: got columns {got}, expected {expected} as in {paths[0]}")
    events = pl.concat([part.events.select(first.events.columns) for part in parts], how="vertical_relaxed")
    locations = [replace(part.location, rows=len(part.events)) for part in parts]
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return replace(first, events=events, location=replace(locations[0], next_files=tuple(locations[1:])), notes=notes)


def _read(path: Path, columns: Mapping[str, str] | None) -> RawLog:
    suffix, name = path.suffix.lower(), str(path)
    if not path.stat().st_size:
        raise ValueError(f"{name}: empty file, expected events")
    try:
        if suffix == ".parquet":
            found = list(pl.scan_parquet(path, glob=False).collect_schema())
            names = resolve_columns(columns, found, name)
            frame = pl.read_parquet(path, columns=list(names.values()), glob=False)
            return _to_raw_log(frame, found, names, SourceLocation(name))
        if suffix in (".jsonl", ".ndjson"):
            return _read_json_lines(path, columns)
        return _read_delimited(path, "," if suffix == ".csv" else "\t", columns)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        if suffix != ".parquet":
            check_utf8(path.read_bytes(), name)
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{name}: not a readable {suffix} file: {str(error).splitlines()[0]}") from None


def _read_delimited(path: Path, separator: str, columns: Mapping[str, str] | None) -> RawLog:
    """Read ids as text, and times and values as numbers.

    If any time or value is not a number, all are read as text, so that errors can be located.
    """
    found = pl.read_csv(path, separator=separator, n_rows=0, glob=False).columns
    names = resolve_columns(columns, found, str(path))
    texts: dict[str, type[pl.DataType]] = dict.fromkeys(names.values(), pl.String)
    numbers: dict[str, type[pl.DataType]] = {
        names[key]: dtype for key, dtype in (("time", pl.Int64), ("value", pl.Float32)) if key in names
    }
    try:
        frame = pl.read_csv(
            path, separator=separator, columns=list(texts), schema_overrides=texts | numbers, glob=False
        )
    except pl.exceptions.PolarsError:
        frame = read_delimited(path, str(path), texts, separator, header=True)
    return _to_raw_log(frame, found, names, SourceLocation(str(path), 2, "line"))


def _read_json_lines(path: Path, columns: Mapping[str, str] | None) -> RawLog:
    found = pl.read_ndjson(path, n_rows=1000, infer_schema_length=1000).columns
    names = resolve_columns(columns, found, str(path))
    frame = pl.read_ndjson(path, schema_overrides=dict.fromkeys(names.values(), pl.String)).select(names.values())
    raw = _to_raw_log(frame, found, names, SourceLocation(str(path), 1, "line"))
    data, mixed = path.read_bytes(), []
    for column in (names["user"], names["item"]):
        quoted = len(re.findall(rb'"%b"\s*:\s*"' % re.escape(column).encode(), data))
        if 0 < quoted < len(frame):
            mixed.append(
                f"{path}: {column}: ids of mixed type: {quoted} of {len(frame)} are text, the others numbers; "
                "all are read as text"
            )
    return replace(raw, notes=(*raw.notes, *mixed))


def _to_raw_log(
    frame: pl.DataFrame, found: Sequence[str], names: Mapping[str, str], location: SourceLocation
) -> RawLog:
    unused = [column for column in found if column not in names.values()]
    raw = to_raw_log(frame.select(names.values()), names, location)
    return replace(raw, notes=(f"columns not used: {', '.join(unused)}",)) if unused else raw


def read_prepared(dataset: Dataset) -> RawLog:
    """Read the events of a prepared dataset, to apply filters."""
    assert dataset.item_features is not None
    assert dataset.user_features is not None
    folder = Path(dataset.header["folder"])
    events = pl.read_parquet(folder / "interactions.parquet")
    names = resolve_columns(None, events.columns, str(folder))
    raw = to_raw_log(events, names, SourceLocation(f"{folder}/interactions.parquet"))
    return replace(
        raw,
        items=dataset.item_features.collect(),
        users=dataset.user_features.collect(),
        id_types={"user": dataset.users.id_type, "item": dataset.items.id_type},
    )
