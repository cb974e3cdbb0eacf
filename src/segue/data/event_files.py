"""Read event files: delimited text, JSON Lines, Parquet and Arrow.

An address is one file, a folder, a folder of Hive partitions or a pattern. Text may be compressed.
"""

from __future__ import annotations

import glob
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from segue.core.types import Dataset
from segue.data.dataframes import ColumnNames, count_columns, normalize_columns, resolve_columns, to_raw_log
from segue.data.delimited import check_utf8, choose_separator, read_delimited, read_quoted, split_line, trim
from segue.data.raw_log import COLUMNS, RawLog, SourceLocation

__all__ = ["find_files", "is_file_address", "read_files", "read_prepared"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".ipc")
TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt", ".dat")
"""Formats that may be compressed. ``.txt`` and ``.dat`` are delimited text, and not looked for in folders."""
COMPRESSIONS = (".gz", ".zst")
DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def is_file_address(address: str) -> bool:
    """Check whether ``address`` refers to files.

    The check uses its suffix, its existence, or the form of a path or pattern.
    """
    return bool(_suffix(Path(address))) or Path(address).exists() or any(sign in address for sign in "/\\*")


def find_files(address: str) -> list[Path]:
    """Return the files of ``address`` sorted by name, all with the same suffix.

    In a folder, the folders of a Hive partition (``date=2024-05-31``) are searched too.

    Raises:
        ValueError: there are no files, or they have several suffixes.
    """
    location = Path(address).expanduser()
    if location.is_dir():
        paths = list(_walk(location))
    elif location.exists():
        paths = [location]
    else:
        paths = [Path(text) for text in glob.glob(str(location)) if Path(text).is_file()]
    expected = ", ".join(dict.fromkeys((*SUFFIXES, *TEXTS)))
    if not paths:
        raise ValueError(f"{address}: no such file, or no files in it; expected {expected}")
    suffixes = {_suffix(path) or path.suffix.lower() for path in paths}
    if len(suffixes) > 1 or not all(_suffix(path) for path in paths):
        raise ValueError(f"{address}: got files {', '.join(sorted(suffixes))}, expected one suffix of {expected}")
    return sorted(paths)


def _suffix(path: Path) -> str:
    """Return the suffix of the format, without that of a compression.

    It is empty if the format is unknown.
    """
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        inner = path.with_suffix("").suffix.lower()
        return inner if inner in TEXTS else ""
    return suffix if suffix in (*SUFFIXES, *TEXTS) else ""


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith((".", "_")):
            continue  # such as .part-0.csv.crc and _SUCCESS of Spark
        if path.is_dir() and "=" in path.name:
            yield from _walk(path)
        elif path.is_file() and _suffix(path) in SUFFIXES:
            yield path


def _partitions(path: Path) -> dict[str, str | None]:
    """Return the columns of Hive partitions, such as ``date=2024-05-31``.

    They are read from the names of the folders of ``path``.
    """
    pairs = (part.split("=", 1) for part in path.parts[:-1] if "=" in part)
    return {key: None if text == DEFAULT_PARTITION else unquote(text) for key, text in pairs}


def read_files(paths: Sequence[Path], columns: ColumnNames | None = None) -> RawLog:
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
    mixed = [key for key in ("user", "item") if len({part.events[key].dtype for part in parts}) > 1]
    frames = [part.events.select(first.events.columns).with_columns(pl.col(mixed).cast(pl.String)) for part in parts]
    try:
        events = pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{paths[0].parent}: the files have columns of different types: {error}") from None
    locations = [replace(part.location, rows=len(part.events)) for part in parts]
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return replace(first, events=events, location=replace(locations[0], next_files=tuple(locations[1:])), notes=notes)


def _read(path: Path, columns: ColumnNames | None) -> RawLog:
    suffix, name = _suffix(path), str(path)
    if not path.stat().st_size:
        raise ValueError(f"{name}: empty file, expected events")
    data = b""
    try:
        if suffix == ".parquet":
            found = list(pl.scan_parquet(path, glob=False, hive_partitioning=False).collect_schema())
            return _read_binary(path, columns, found, _read_parquet)
        if suffix not in TEXTS:
            frame = _read_arrow(path)
            return _read_binary(path, columns, frame.columns, lambda _, wanted: frame.select(wanted))
        data = _decompress(path)
        if suffix in (".jsonl", ".ndjson"):
            return _read_json_lines(path, data.removeprefix(b"\xef\xbb\xbf"), columns)
        return _read_delimited(path, data, "\t" if suffix == ".tsv" else ",", columns)
    except (pl.exceptions.PolarsError, OSError, ValueError, EOFError, zlib.error) as error:
        check_utf8(data, name)
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{name}: not a readable {path.suffix} file: {str(error).splitlines()[0]}") from None


def _decompress(path: Path) -> bytes:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if suffix == ".zst":
        if not hasattr(pl, "read_lines"):
            raise ValueError(f"{path}: this version of Polars ({pl.__version__}) does not read .zst; update it")
        return "\n".join(pl.read_lines(path)["line"].to_list()).encode()
    return path.read_bytes()


def _read_parquet(path: Path, wanted: list[str]) -> pl.DataFrame:
    return pl.read_parquet(path, columns=wanted, glob=False, hive_partitioning=False)


def _read_arrow(path: Path) -> pl.DataFrame:
    """Read an Arrow file, with or without a footer."""
    data = path.read_bytes()
    return pl.read_ipc(data) if data.startswith(b"ARROW1") else pl.read_ipc_stream(data)


def _read_binary(
    path: Path, columns: ColumnNames | None, found: list[str], read: Callable[[Path, list[str]], pl.DataFrame]
) -> RawLog:
    notes: list[str] = []
    names = _resolve(path, columns, found, notes)
    frame = read(path, [column for column in names.values() if column in found])
    return _to_raw_log(path, frame, found, names, SourceLocation(str(path)), notes)


def _read_delimited(path: Path, data: bytes, default: str, columns: ColumnNames | None) -> RawLog:
    """Read ids as text, and times and values as numbers.

    If any time or value is not a number, all are read as text, so that errors can be located. If columns are given by
    number, the file has no header.
    """
    name, notes, given = str(path), list[str](), normalize_columns(columns)
    data = trim(data)
    if not data.strip():
        raise ValueError(f"{name}: empty file, expected events")
    head = data[: 1 << 16]
    check_utf8(head[: head.rfind(b"\n") + 1] or data, name)
    first_lines = [line.rstrip("\r") for line in head.decode("utf-8", "replace").split("\n")[:20]]
    numbers = [int(text) for text in given.values() if text.isdecimal()]
    has_header = not numbers or len(numbers) < len([text for text in given.values() if text])
    if has_header:
        expected = {key: given.get(key, column) for key, column in COLUMNS.items()}
        separator = choose_separator(first_lines[:1], default, lambda fields: count_columns(fields, expected))
    else:
        separator = choose_separator(
            first_lines[:-1] or first_lines, default, lambda fields: len(fields) if len(fields) >= max(numbers) else 0
        )
    found = split_line(first_lines[0], separator)
    if separator != default:
        notes.append(f"{name}: the separator is {separator!r}")
    if len(separator) > 1:
        data, separator = data.replace(separator.encode(), b"\x1f"), "\x1f"
    first = 2
    if not has_header:
        if named := [column for column in found if count_columns([column, column], dict(COLUMNS))]:
            raise ValueError(
                f"{name}, line 1: got a header ({', '.join(named)}); expected columns by name, not by number"
            )
        notes.append(f"{name}: columns are given by number; the first row is {first_lines[0]!r}, there is no header")
        found, first = [str(number) for number in range(1, len(found) + 1)], 1
        columns = {**dict.fromkeys(("time", "value", "action"), ""), **given}
        data = separator.join(found).encode() + b"\n" + data
    names = _resolve(path, columns, found, notes)
    wanted = [column for column in names.values() if column in found]
    location = SourceLocation(name, first, "line")
    has_quotes = b'"' in data
    positions = {column: found.index(column) for column in wanted}
    quoted = read_quoted(data, name, positions, separator, notes.append) if has_quotes else None
    if quoted is not None:
        frame, has_long_rows = quoted
        location = replace(location, first=1, noun="row") if has_long_rows else location
        return _to_raw_log(path, frame, found, names, location, notes)
    types: dict[str, type[pl.DataType]] = dict.fromkeys(wanted, pl.String)
    typed = types | {
        names[key]: dtype for key, dtype in (("time", pl.Int64), ("value", pl.Float32)) if names.get(key) in types
    }
    quote = '"' if has_quotes else None
    try:
        frame = pl.read_csv(data, separator=separator, columns=wanted, schema_overrides=typed, quote_char=quote)
    except pl.exceptions.PolarsError:
        frame = read_delimited(data, name, types, separator, header=True, has_quotes=has_quotes)
    return _to_raw_log(path, frame, found, names, location, notes)


def _read_json_lines(path: Path, data: bytes, columns: ColumnNames | None) -> RawLog:
    found = pl.read_ndjson(io.BytesIO(data), infer_schema_length=None).columns
    notes: list[str] = []
    names = _resolve(path, columns, found, notes)
    wanted = [column for column in names.values() if column in found]
    frame = pl.read_ndjson(io.BytesIO(data), schema=dict.fromkeys(wanted, pl.String))
    for column in (names["user"], names["item"]):
        quoted = len(re.findall(rb'"%b"\s*:\s*"' % re.escape(column).encode(), data))
        if 0 < quoted < len(frame):
            notes.append(
                f"{path}: {column}: ids of mixed type: {quoted} of {len(frame)} are text, the others numbers; "
                "all are read as text"
            )
    return _to_raw_log(path, frame, found, names, SourceLocation(str(path), 1, "line"), notes)


def _resolve(path: Path, columns: ColumnNames | None, found: Sequence[str], notes: list[str]) -> dict[str, str]:
    partitions = [column for column in _partitions(path) if column not in found]
    return resolve_columns(columns, [*found, *partitions], str(path), notes.append)


def _to_raw_log(
    path: Path,
    frame: pl.DataFrame,
    found: Sequence[str],
    names: Mapping[str, str],
    location: SourceLocation,
    notes: Sequence[str],
) -> RawLog:
    """Add the columns of Hive partitions; unused columns are noted."""
    partitions = {column: text for column, text in _partitions(path).items() if column not in found}
    used = [pl.lit(text, pl.String).alias(column) for column, text in partitions.items() if column in names.values()]
    unused = [column for column in (*found, *partitions) if column not in names.values()]
    if unused:
        notes = (*notes, f"columns not used: {', '.join(unused)}")
    return to_raw_log(frame.with_columns(used).select(names.values()), names, location, notes)


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
