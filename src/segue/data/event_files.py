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
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from segue.core.files import check_json_line, check_unique_keys
from segue.core.types import Dataset
from segue.data.dataframes import ColumnNames, count_columns, normalize_columns, resolve_columns, to_raw_log
from segue.data.delimited import (
    check_utf8,
    choose_separator,
    choose_separator_by_width,
    encoding_hint,
    read_delimited,
    read_quoted,
    split_line,
    trim,
)
from segue.data.raw_log import COLUMNS, RawLog, SourceLocation

__all__ = [
    "DELIMITED",
    "check_is_text",
    "check_json_lines",
    "decompress",
    "describe_unread",
    "find_files",
    "first_lines",
    "format_of",
    "is_file_address",
    "read_files",
    "read_partitions",
    "read_prepared",
    "split_address",
]

SUFFIXES = (".csv", ".tsv", ".inter", ".jsonl", ".ndjson", ".parquet", ".arrow", ".feather", ".ipc")
DELIMITED = (".csv", ".tsv", ".inter", ".txt", ".dat")
"""Delimited text. ``.inter`` is that of RecBole; ``.txt`` and ``.dat`` are not looked for in folders."""
TEXTS = (*DELIMITED, ".jsonl", ".ndjson")
"""Formats that may be compressed."""
COMPRESSIONS = (".gz", ".zst")
CONTENTS = {
    b"\x1f\x8b": "gzip, expected the suffix .gz",
    b"\x28\xb5\x2f\xfd": "Zstandard, expected the suffix .zst",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"BZh": "bzip2; decompress it",
    b"\xfd7zXZ": "xz; decompress it",
    b"PAR1": "Parquet, expected the suffix .parquet",
    b"ARROW1": "Arrow, expected the suffix .arrow",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
}
"""First bytes of files that are no text, and what they are."""
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Last bytes of a complete Arrow stream."""
DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def is_file_address(address: str) -> bool:
    """Check by suffix, existence or form whether ``address`` refers to files."""
    return bool(format_of(Path(address))) or Path(address).exists() or any(sign in address for sign in "/\\*")


def split_address(address: str) -> tuple[str, str | None]:
    """Split ``log.csv?separator=;`` into the address of files and the separator.

    Raises:
        ValueError: the setting is not ``separator``.
    """
    match = re.fullmatch(r"(.+?)\?(\w+)=(.*)", address)
    if match is None or Path(address).exists() or not (format_of(Path(match[1])) or Path(match[1]).exists()):
        return address, None
    if match[2] != "separator":
        raise ValueError(f"{address}: unknown setting '{match[2]}', expected {match[1]}?separator=CHARACTER")
    return match[1], unquote(match[3])


def find_files(address: str) -> list[Path]:
    """Return the files of ``address``, all with the same suffix.

    They are sorted by name, ``part-2`` before ``part-10``. In a folder, the folders of a Hive partition
    (``date=2024-05-31``) are searched too.

    Raises:
        ValueError: there are no files, they have several suffixes, or one is there with and without compression.
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
    suffixes = {format_of(path) or path.suffix.lower() for path in paths}
    if len(suffixes) > 1 or not all(format_of(path) for path in paths):
        raise ValueError(f"{address}: got files {', '.join(sorted(suffixes))}, expected one suffix of {expected}")
    paths = sorted(paths, key=_sort_key)
    originals: dict[Path, Path] = {}
    for path in paths:
        original = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
        if original in originals:
            raise ValueError(f"{address}: got both {originals[original].name} and {path.name}, expected one of them")
        originals[original] = path
    return paths


def _sort_key(path: Path) -> list[tuple[int, str]]:
    """Order the numbers in names by value."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(part), "") if at % 2 else (0, part) for at, part in enumerate(parts)]


def describe_unread(address: str) -> list[str]:
    """Return a note on the entries of the folder ``address`` that are not read."""
    folder = Path(address).expanduser()
    if not folder.is_dir():
        return []
    unread = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in sorted(folder.iterdir())
        if not path.name.startswith((".", "_"))
        and not ("=" in path.name if path.is_dir() else format_of(path) in SUFFIXES)
    ]
    more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
    return [f"{address}: not read: {', '.join(unread[:5])}{more}"] if unread else []


def format_of(path: Path) -> str:
    """Return the suffix of the format without compression; empty if unknown."""
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
        elif path.is_file() and format_of(path) in SUFFIXES:
            yield path


def read_partitions(path: Path) -> dict[str, str | None]:
    """Return the columns of Hive partitions, such as ``date=2024-05-31``.

    They are read from the names of the folders of ``path``.
    """
    pairs = (part.split("=", 1) for part in path.parts[:-1] if "=" in part)
    return {key: None if text == DEFAULT_PARTITION else unquote(text) for key, text in pairs}


def read_files(paths: Sequence[Path], columns: ColumnNames | None = None, separator: str | None = None) -> RawLog:
    """Read and concatenate the events of all files.

    Args:
        separator: what separates the columns of delimited text; detected if it is not given.

    Raises:
        ValueError: a file is empty, unreadable or wrongly encoded, or lacks a column; the message names the file.
    """
    if separator is not None and format_of(paths[0]) not in DELIMITED:
        raise ValueError(f"separator: got {separator!r}, but {paths[0]} is not delimited text ({', '.join(DELIMITED)})")
    parts = [_read(path, columns, separator) for path in paths]
    first = parts[0]
    for path, part in zip(paths, parts, strict=True):
        if set(part.events.columns) != set(first.events.columns):
            got, expected = (", ".join(p.names[c] for c in p.events.columns) for p in (part, first))
            raise ValueError(f"{path}: got columns {got}, expected {expected} as in {paths[0]}")
    mixed = [key for key in ("user", "item") if len({part.events[key].dtype for part in parts}) > 1]
    has_moments = [part.events["time"].dtype.is_temporal() for part in parts] if "time" in first.events else []
    if len(set(has_moments)) > 1:
        other = has_moments.index(not has_moments[0])
        raise ValueError(
            f"{paths[other]}: column {parts[other].names['time']} is {parts[other].events['time'].dtype}, expected "
            f"{first.events['time'].dtype} as in {paths[0]}"
        )
    try:
        frames = [
            part.events.select(first.events.columns).with_columns(pl.col(mixed).cast(pl.String)) for part in parts
        ]
        if len({part.events["time"].dtype for part in parts} if any(has_moments) else ()) > 1:
            parts = [_with_utc(part) for part in parts]
            frames = [frame.with_columns(part.events["time"]) for frame, part in zip(frames, parts, strict=True)]
        events = pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{paths[0].parent}: the files have columns of different types: {error}") from None
    locations = [replace(part.location, rows=len(part.events)) for part in parts]
    empty = [str(path) for path, part in zip(paths, parts, strict=True) if not len(part.events)]
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    if empty and len(events):
        notes = (*notes, f"{len(empty)} of {len(parts)} files have no rows, such as {empty[0]}")
    return replace(first, events=events, location=replace(locations[0], next_files=tuple(locations[1:])), notes=notes)


def _with_utc(part: RawLog) -> RawLog:
    """Convert dates and times of any zone to UTC."""
    times, notes = part.events["time"], part.notes
    if isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is not None:
        times = times.dt.cast_time_unit("us").dt.convert_time_zone("UTC")
    else:
        if times.dtype != pl.Date:
            notes = (*notes, f"{part.location.name}: {part.names['time']} has no time zone; read as UTC")
        times = times.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return replace(part, events=part.events.with_columns(times), notes=notes)


def _read(path: Path, columns: ColumnNames | None, separator: str | None) -> RawLog:
    suffix, name = format_of(path), str(path)
    if not path.stat().st_size:
        raise ValueError(f"{name}: empty file, expected events")
    data = b""
    try:
        if suffix == ".parquet":
            found = list(pl.scan_parquet(path, glob=False, hive_partitioning=False).collect_schema())
            return _read_binary(path, columns, found, _read_parquet)
        if suffix not in TEXTS:
            return _read_arrow(path, columns)
        data = decompress(path)
        check_is_text(data, name)
        if suffix not in DELIMITED:
            return _read_json_lines(path, data.removeprefix(b"\xef\xbb\xbf"), columns)
        return _read_delimited(path, data, "\t" if suffix in (".tsv", ".inter") else ",", columns, separator)
    except (pl.exceptions.PolarsError, OSError, ValueError, EOFError, zlib.error) as error:
        check_is_text(data, name)
        check_utf8(data, name)
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{name}: not a readable {path.suffix} file: {str(error).splitlines()[0]}") from None


def decompress(path: Path) -> bytes:
    """Return the content of a file that may be compressed."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    return _decompress_zstandard(path) if suffix == ".zst" else path.read_bytes()


def _decompress_zstandard(path: Path) -> bytes:
    """Read the lines of a file; Polars decompresses Zstandard only for tables."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[1:] not in (b"\xb5\x2f\xfd", b"\x2a\x4d\x18"):
        raise ValueError(f"{path}: not a readable .zst file: its first bytes are {start!r}")
    read = partial(
        pl.read_csv, path, has_header=False, separator="\0", quote_char=None, schema={"line": pl.String}, glob=False
    )
    try:
        lines = read()["line"]
    except pl.exceptions.PolarsError:
        lines = read(encoding="utf8-lossy")["line"]
        row = lines.str.contains("\ufffd").arg_max() or 0
        hint = encoding_hint(b"")
        raise ValueError(f"{path}, line {row + 1}: got {lines[row]!r}, expected UTF-8 text{hint}") from None
    return "\n".join(lines.fill_null("").to_list()).encode()


def check_is_text(data: bytes, name: str) -> None:
    """Raise an error that says what a file contains if it is no UTF-8 text."""
    for start, content in CONTENTS.items():
        if data.startswith(start):
            raise ValueError(f"{name}: the content is {content}")
    if data[:100].count(0) * 4 > len(data[:100]):
        raise ValueError(f"{name}: the text is not UTF-8{encoding_hint(data)}")


def first_lines(data: bytes, name: str) -> list[str]:
    """Return up to 20 complete lines that are not blank."""
    head = data[: 1 << 16]
    if len(head) < len(data):
        head = head[: head.rfind(b"\n")] if b"\n" in head else data
    check_utf8(head, name)
    return [line.rstrip("\r") for line in head.decode("utf-8").split("\n") if line.strip()][:20]


def _read_parquet(path: Path, wanted: list[str]) -> pl.DataFrame:
    return pl.read_parquet(path, columns=wanted, glob=False, hive_partitioning=False)


def _read_arrow(path: Path, columns: ColumnNames | None) -> RawLog:
    """Read an Arrow file with a footer, or a stream without one."""
    data = path.read_bytes()
    is_file = data.startswith(b"ARROW1")
    frame = pl.read_ipc(data) if is_file else pl.read_ipc_stream(data)
    raw = _read_binary(path, columns, frame.columns, lambda _, wanted: frame.select(wanted))
    if is_file or data.endswith(END_OF_STREAM):
        return raw
    return replace(raw, notes=(*raw.notes, f"{path}: the stream has no end marker; rows may be missing at its end"))


def _read_binary(
    path: Path, columns: ColumnNames | None, found: list[str], read: Callable[[Path, list[str]], pl.DataFrame]
) -> RawLog:
    notes: list[str] = []
    names = _resolve(path, columns, found, notes)
    frame = read(path, [column for column in names.values() if column in found])
    return _to_raw_log(path, frame, found, names, SourceLocation(str(path)), notes)


def _read_delimited(
    path: Path, data: bytes, default: str, columns: ColumnNames | None, separator: str | None
) -> RawLog:
    """Read ids as text, and times and values as numbers.

    If any time or value is not a number, all are read as text, so that errors can be located. If columns are given by
    number, the file has no header.
    """
    name, notes, given = str(path), list[str](), normalize_columns(columns)
    whole = trim(data)
    data = whole.lstrip(b"\r\n")
    if not data.strip():
        raise ValueError(f"{name}: empty file, expected events")
    first = 1 + whole.count(b"\n", 0, len(whole) - len(data))
    head = first_lines(data, name)
    if len(head) > 1 and (match := re.fullmatch(r'"?sep=(.)"?', head[0])):  # a line that Excel reads
        separator, head, first = separator or match[1], head[1:], first + 1
        data = data.partition(b"\n")[2]
    numbers = [int(text) for text in given.values() if text.isdecimal()]
    has_header = not numbers or len(numbers) < len([text for text in given.values() if text])
    if separator is None and has_header:
        expected = {key: given.get(key, column) for key, column in COLUMNS.items()}
        separator = choose_separator(head[:1], default, lambda fields: count_columns(fields, expected))
    elif separator is None:
        separator = choose_separator_by_width(head, default, max(numbers), name)
    found = split_line(head[0], separator)
    if separator != default:
        notes.append(f"{name}: the separator is {separator!r}")
    if len(separator.encode()) > 1:
        data, separator = data.replace(separator.encode(), b"\x1f"), "\x1f"
    if has_header:
        first += 1
    else:
        if named := [column for column in found if count_columns([column, column], dict(COLUMNS))]:
            raise ValueError(
                f"{name}, line {first}: got a header ({', '.join(named)}); expected columns by name, not by number"
            )
        notes.append(f"{name}: columns are given by number; the first row is {head[0]!r}, there is no header")
        if "time" not in given:
            notes.append("no column for the time; the order of the rows is the order of events")
        found = [str(number) for number in range(1, len(found) + 1)]
        columns = {**dict.fromkeys(("time", "value", "action"), ""), **given}
        data = separator.join(found).encode() + b"\n" + data
    try:
        names = _resolve(path, columns, found, notes)
    except ValueError as error:
        if has_header and any(re.fullmatch(r"-?\d+(\.\d+)?", column) for column in found):
            hint = f"the first line is {head[0]!r}; if it is no header, number the columns: user=1,item=2"
        elif len(found) == 1:
            hint = f"one column with the separator {separator!r}; give another one: separator=';', --separator ';'"
        else:
            raise
        raise ValueError(f"{error}\n{name}: {hint}") from None
    wanted = [column for column in names.values() if column in found]
    location, lines_before = SourceLocation(name, first, "line"), first - 2
    has_quotes = b'"' in data
    positions = {column: found.index(column) for column in wanted}
    quoted = read_quoted(data, name, positions, separator, notes.append, lines_before) if has_quotes else None
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
        frame = read_delimited(data, name, types, separator, True, has_quotes, lines_before)
    return _to_raw_log(path, frame, found, names, location, notes)


def _read_json_lines(path: Path, data: bytes, columns: ColumnNames | None) -> RawLog:
    name, notes = str(path), list[str]()
    try:
        types = pl.read_ndjson(io.BytesIO(data), infer_schema_length=None).schema
    except pl.exceptions.PolarsError:
        check_utf8(data, name)
        check_json_lines(data, name)
        raise
    names = _resolve(path, columns, list(types), notes)
    wanted = [column for column in names.values() if column in types]
    frame = pl.read_ndjson(io.BytesIO(data), schema=dict.fromkeys(wanted, pl.String))
    check_unique_keys(data, name, {column: frame[column].count() for column in wanted})
    has_blank_lines = len(frame) and data.strip().count(b"\n") >= len(frame)
    location = SourceLocation(name, 1, "row" if has_blank_lines else "line")
    for column in (one for one in (names["user"], names["item"]) if one in types):
        if types[column].is_nested():
            got = f"{location.describe_row(0)}, column {column}: got {frame[column][0]}"
            raise ValueError(f"{got}, expected an id: an integer or text")
        quoted = len(re.findall(rb'"%b"\s*:\s*"' % re.escape(column).encode(), data))
        if 0 < quoted < len(frame):
            notes.append(
                f"{path}: {column}: ids of mixed type: {quoted} of {len(frame)} are text, the others are not; "
                "all are read as text"
            )
    return _to_raw_log(path, frame, list(types), names, location, notes)


def check_json_lines(data: bytes, name: str) -> None:
    """Check that every line is a JSON object without a repeated key.

    Raises:
        ValueError: names the first other line.
    """
    if data.lstrip().startswith(b"["):
        raise ValueError(
            f"{name}: got a JSON array, expected one JSON object per line; convert it: jq -c '.[]' OLD > NEW"
        )
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        check_json_line(line, f"{name}, line {number}")


def _resolve(path: Path, columns: ColumnNames | None, found: Sequence[str], notes: list[str]) -> dict[str, str]:
    partitions = [column for column in read_partitions(path) if column not in found]
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
    in_both = [column for column in read_partitions(path) if column in found and column in names.values()]
    if in_both:
        both = ", ".join(in_both)
        notes = (*notes, f"{both}: in the files and in the names of their folders; that of the files is used")
    partitions = {column: text for column, text in read_partitions(path).items() if column not in found}
    used = [pl.lit(text, pl.String).alias(column) for column, text in partitions.items() if column in names.values()]
    unused = [column for column in (*found, *partitions) if column not in names.values()]
    if unused:
        notes = (*notes, f"columns not used: {', '.join(column or '(without a name)' for column in unused)}")
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
