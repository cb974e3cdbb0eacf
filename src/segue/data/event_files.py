"""Files of events: ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``, one or a folder or a pattern of them."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from segue.core.types import Dataset
from segue.data.dataframes import mapped, resolve
from segue.data.delimited import check_text, read_delimited
from segue.data.raw_log import Place, Raw

__all__ = ["found", "looks_like", "read_files", "read_prepared"]

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def looks_like(address: str) -> bool:
    """Whether ``address`` means files: it has their ending, exists, or is written as a path or a pattern."""
    return Path(address).suffix.lower() in KINDS or Path(address).exists() or any(sign in address for sign in "/\\*")


def found(address: str) -> list[Path]:
    """The files meant by ``address``, sorted by name, all of one kind."""
    place = Path(address).expanduser()
    if place.is_dir():
        paths = [path for path in place.iterdir() if path.suffix.lower() in KINDS]
    elif place.exists():
        paths = [place]
    else:
        paths = [Path(text) for text in glob.glob(str(place)) if Path(text).is_file()]
    wanted = ", ".join(KINDS)
    if not paths:
        raise ValueError(f"{address}: no such file, or no files in it; expected {wanted}")
    kinds = {path.suffix.lower() for path in paths}
    if len(kinds) > 1 or not kinds <= set(KINDS):
        raise ValueError(f"{address}: files of kind {', '.join(sorted(kinds))}, expected one kind of {wanted}")
    return sorted(paths)


def read_files(paths: Sequence[Path], columns: Mapping[str, str] | None = None) -> Raw:
    """The events of all files, one after the other.

    Raises:
        ValueError: empty, unreadable, wrong encoding, or a missing column: with the file.
    """
    parts = [_read(path, columns) for path in paths]
    first = parts[0]
    for path, part in zip(paths, parts, strict=True):
        if set(part.events.columns) != set(first.events.columns):
            came, wanted = (", ".join(p.names[c] for c in p.events.columns) for p in (part, first))
            raise ValueError(f"{path}: has columns {came}, expected {wanted} as in {paths[0]}")
    events = pl.concat([part.events.select(first.events.columns) for part in parts], how="vertical_relaxed")
    places = [replace(part.place, rows=len(part.events)) for part in parts]
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return replace(first, events=events, place=replace(places[0], more=tuple(places[1:])), notes=notes)


def _read(path: Path, columns: Mapping[str, str] | None) -> Raw:
    kind, name = path.suffix.lower(), str(path)
    if not path.stat().st_size:
        raise ValueError(f"{name}: empty file, expected events")
    try:
        if kind == ".parquet":
            found = list(pl.scan_parquet(path, glob=False).collect_schema())
            names = resolve(columns, found, name)
            return _noted(pl.read_parquet(path, columns=list(names.values()), glob=False), found, names, Place(name))
        if kind in (".jsonl", ".ndjson"):
            return _json_lines(path, columns)
        return _delimited(path, "," if kind == ".csv" else "\t", columns)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        if kind != ".parquet":
            check_text(path.read_bytes(), name)
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{name}: not a readable {kind} file: {str(error).splitlines()[0]}") from None


def _delimited(path: Path, separator: str, columns: Mapping[str, str] | None) -> Raw:
    """Ids are read as text; times and values as numbers where all are, else as text so that each can be judged."""
    found = pl.read_csv(path, separator=separator, n_rows=0, glob=False).columns
    names = resolve(columns, found, str(path))
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
    return _noted(frame, found, names, Place(str(path), 2, "line"))


def _json_lines(path: Path, columns: Mapping[str, str] | None) -> Raw:
    found = pl.read_ndjson(path, n_rows=1000, infer_schema_length=1000).columns
    names = resolve(columns, found, str(path))
    frame = pl.read_ndjson(path, schema_overrides=dict.fromkeys(names.values(), pl.String)).select(names.values())
    raw = _noted(frame, found, names, Place(str(path), 1, "line"))
    data, mixed = path.read_bytes(), []
    for column in (names["user"], names["item"]):
        quoted = len(re.findall(rb'"%b"\s*:\s*"' % re.escape(column).encode(), data))
        if 0 < quoted < len(frame):
            mixed.append(
                f"{path}: {column}: ids of mixed type: {quoted} of {len(frame)} are texts, the others numbers; "
                "all are read as text"
            )
    return replace(raw, notes=(*raw.notes, *mixed))


def _noted(frame: pl.DataFrame, found: Sequence[str], names: Mapping[str, str], place: Place) -> Raw:
    unused = [column for column in found if column not in names.values()]
    raw = mapped(frame.select(names.values()), names, place)
    return replace(raw, notes=(f"columns not used: {', '.join(unused)}",)) if unused else raw


def read_prepared(dataset: Dataset) -> Raw:
    """A prepared dataset as raw events again, to be filtered."""
    assert dataset.item_features is not None
    assert dataset.user_features is not None
    folder = Path(dataset.header["folder"])
    events = pl.read_parquet(folder / "interactions.parquet")
    names = resolve(None, events.columns, str(folder))
    raw = mapped(events, names, Place(f"{folder}/interactions.parquet"))
    return replace(raw, items=dataset.item_features.collect(), users=dataset.user_features.collect())
