"""Read tables of labeled examples: memory, files, databases, public datasets.

Files are delimited text with a header, JSON Lines, Parquet, Arrow or libfm; an address is one file, a folder or a
pattern. Columns keep the types that they have in the source; delimited text is read as numbers, truth values or dates
where all cells of a column are, and text of JSON and SQLite, which have no dates, as dates. Where all other cells of a
column of delimited text are, those of :data:`MISSING_TEXTS` are missing, which is noted.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.examples.columns import parse_times
from segue.core.files import check_unique_keys
from segue.core.registry import keys, load_module
from segue.data import event_files
from segue.data.archives import Archive, find_archive
from segue.data.dataframes import is_table, to_frame
from segue.data.delimited import check_separator, check_utf8, choose_separator, read_quoted, split_line, trim
from segue.data.download import download
from segue.data.examples.database import is_database, read_database
from segue.data.examples.libfm import is_libfm, read_libfm
from segue.data.examples.streamed import StreamedTable, join_streamed, open_streamed
from segue.data.examples.table import ExampleRows, ExampleTable, Part, concatenate, join_parts
from segue.data.load import data_home
from segue.data.raw_log import Log, SourceLocation, no_log

__all__ = ["MemoryMode", "list_example_sources", "read_delimited_examples", "read_examples", "read_parts"]

MemoryMode: TypeAlias = Literal["auto", "all", "streamed"]
"""Whether rows are read into memory."""

MAX_BYTES = 2 * 2**30
"""Size of Parquet files above which ``auto`` does not read them into memory."""

PACKAGE = "segue.data.examples.sources"

BOOLEANS = {"true": True, "false": False}

DATE = r"\d{4}-\d{2}-\d{2}"

MISSING_TEXTS = ("na", "n/a", "#n/a", "<na>", "nan", "null", "none", "\\n")
"""Cells that mean that a number, a date or a truth value is missing, in lower or upper case; in a column of text they
are text, such as the country code of Namibia."""

MIN_NUMBERS = 0.9
"""Share of numbers from which a column of text is noted."""

IDENTIFIER = r"^[+-]?(0\d|\d{19,}$)"
"""Numbers that are text: as numbers, leading zeros and digits beyond the 18th would be lost."""


def list_example_sources() -> list[tuple[str, str]]:
    """List the public datasets of labeled examples: key, and a line of description."""
    names = keys(PACKAGE)
    return [(name.replace("_", "-"), load_module(PACKAGE, name, "examples").ABOUT) for name in names]


def read_examples(
    source: Any,
    query: str | None = None,
    separator: str | None = None,
    log: Log = no_log,
    memory: MemoryMode = "all",
) -> ExampleRows:
    """Read a table of labeled examples.

    Args:
        source: an in-memory table (pandas, Polars, pyarrow, ..., or a mapping from columns to values); a key such as
            ``frappe-x1``; a file, a folder or a pattern of files (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``,
            ``.libfm``, ...); or the address of a database (``sqlite:///FILE``, ``postgresql://...``).
        query: SQL query whose result is the table; required with a database, and for nothing else.
        separator: what separates the columns of delimited text; by default it is detected.
        log: receives messages about downloads.
        memory: ``all`` reads the rows; ``streamed`` leaves them in Parquet files; ``auto`` does so if these have more
            than :data:`MAX_BYTES`.

    Raises:
        ValueError: the source is unknown, or a row is malformed; the message names file and line.
    """
    if isinstance(source, ExampleRows):
        if memory == "streamed" and isinstance(source, ExampleTable):
            raise ValueError(f"memory: got 'streamed', but {source.name} is in memory already, expected Parquet files")
        return source
    is_address = isinstance(source, str | os.PathLike)
    address = os.fspath(source) if is_address else ""
    if is_address and not address:
        raise ValueError("data: got an empty text, expected a name, a path, the address of a database or a table")
    if memory == "streamed" and (not is_address or is_database(address)):
        kind = "a database" if is_address else type(source).__name__
        raise ValueError(f"memory: got 'streamed', but the data is {kind}, expected Parquet files")
    if is_database(address):
        table = read_database(address, query)
        return _with_dates(table) if address.startswith("sqlite:") else table
    if query is not None:
        raise ValueError(
            f"query: got {query[:60]!r}, but the data is not the address of a database, such as sqlite:///FILE or "
            "postgresql://..."
        )
    if is_address:
        if memory != "all" and (paths := _streamed_files(address, memory)):
            return open_streamed(paths, address)
        return _read_address(address, None if separator is None else check_separator(separator), log)
    if separator is not None:
        raise ValueError(f"separator: got {separator!r}, but the data is not a file of delimited text")
    if is_table(source):
        name, frame = to_frame(source)
    elif isinstance(source, Mapping):
        name, frame = to_frame(_from_mapping(source))
    else:
        expected = "a name, a path, the address of a database or a table (pandas, Polars, pyarrow, DuckDB)"
        raise ValueError(f"data: got {type(source).__name__}, expected {expected}")
    if not frame.columns:
        raise ValueError(f"data: the {name} has no columns, expected a label and at least one other column")
    return ExampleTable(frame, SourceLocation(name))


def read_parts(
    source: Any,
    valid: Any = None,
    test: Any = None,
    query: str | None = None,
    separator: str | None = None,
    log: Log = no_log,
    memory: MemoryMode = "all",
) -> ExampleRows:
    """Read a table whose validation and test may be separate.

    If they are, the result has a column of parts.


    Args:
        source: as in :func:`read_examples`, like ``query``, ``separator``, ``log`` and ``memory``.
        valid: the validation part, likewise; ``None``: not separate.
        test: the test part, likewise.

    Raises:
        ValueError: as in :func:`read_examples`; the message names the part.
    """
    table = read_examples(source, query, separator, log, memory=memory)
    if valid is None and test is None:
        return table
    parts: dict[Part, ExampleRows] = {"train": table}
    others: dict[Part, Any] = {"valid": valid, "test": test}
    used: MemoryMode = "streamed" if isinstance(table, StreamedTable) else "all"
    for part, other in others.items():
        if other is not None:
            try:
                own = separator if isinstance(other, str) else None
                parts[part] = read_examples(other, None, own, log, memory=used)
            except ValueError as error:
                raise ValueError(f"{part}: {error}") from None
    if used == "streamed":
        return join_streamed({part: one for part, one in parts.items() if isinstance(one, StreamedTable)})
    return join_parts({part: one for part, one in parts.items() if isinstance(one, ExampleTable)})


def _streamed_files(address: str, memory: MemoryMode) -> list[Path]:
    """Return the Parquet files of an address if they are not read into memory.

    Raises:
        ValueError: ``memory`` is ``streamed``, and there are other files or none.
    """
    is_file = event_files.is_file_address(address) and address.replace("-", "_") not in keys(PACKAGE)
    if not is_file or is_libfm(Path(address)):
        if memory == "streamed":
            raise ValueError(f"memory: got 'streamed', but {address} is not Parquet, which alone is read by row groups")
        return []
    paths = event_files.find_files(address)
    if memory == "streamed":
        return paths
    is_parquet = all(event_files.format_of(path) == ".parquet" for path in paths)
    return paths if is_parquet and sum(path.stat().st_size for path in paths) > MAX_BYTES else []


def _from_mapping(source: Mapping[Any, Any]) -> pl.DataFrame:
    try:
        return pl.DataFrame(dict(source), strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"data: the mapping is no table: {error}; expected columns of one type each") from None


def _read_address(address: str, separator: str | None, log: Log) -> ExampleTable:
    key = address.replace("-", "_")
    if key in keys(PACKAGE):
        return _read_source(load_module(PACKAGE, key, "examples"), address, log)
    if is_libfm(Path(address)):
        return read_libfm(Path(address).expanduser())
    if not event_files.is_file_address(address):
        known = [name.replace("_", "-") for name in keys(PACKAGE)]
        raise ValueError(f"data: unknown source '{address}'{suggest(address, known)}; no such file or folder either")
    paths = event_files.find_files(address)
    if separator is not None and event_files.format_of(paths[0]) not in event_files.DELIMITED:
        raise ValueError(f"separator: got {separator!r}, but {paths[0]} is not delimited text")
    table = concatenate([_read_file(path, separator) for path in paths])
    if not len(table):
        raise ValueError(f"{address}: got no rows, expected examples")
    return table


def _read_source(source: ModuleType, key: str, log: Log) -> ExampleTable:
    archive = find_archive(source.ARCHIVE.members, key)
    archive = archive or Archive(download(source.ARCHIVE, key, data_home() / "downloads", log))
    table: ExampleTable = source.read(archive)
    return table


def _read_file(path: Path, separator: str | None) -> ExampleTable:
    kind, name = event_files.format_of(path), str(path)
    if not path.stat().st_size:
        raise ValueError(f"{name}: empty file, expected examples")
    try:
        if kind in (".parquet", ".arrow", ".feather", ".ipc"):
            return _read_binary(path, kind)
        data = event_files.decompress(path)
        event_files.check_is_text(data, name)
        if kind in event_files.DELIMITED:
            default = "\t" if kind in (".tsv", ".inter") else ","
            return read_delimited_examples(data, name, default, separator)
        return _read_json_lines(data.removeprefix(b"\xef\xbb\xbf"), name)
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name}: not a readable {path.suffix} file: {str(error).splitlines()[0]}") from None


def _read_binary(path: Path, kind: str) -> ExampleTable:
    """Read Parquet or Arrow, with the columns of Hive partitions."""
    if kind == ".parquet":
        frame = pl.read_parquet(path, glob=False, hive_partitioning=False)
    else:
        frame = pl.read_ipc(path.read_bytes())
    partitions = event_files.read_partitions(path)
    added = [pl.lit(text, pl.String).alias(name) for name, text in partitions.items() if name not in frame.columns]
    return ExampleTable(frame.with_columns(added), SourceLocation(str(path), 1, "row"))


def _read_json_lines(data: bytes, name: str) -> ExampleTable:
    check_utf8(data, name)
    try:
        frame = pl.read_ndjson(io.BytesIO(data), infer_schema_length=None)
    except pl.exceptions.PolarsError:
        event_files.check_json_lines(data, name)
        raise
    if _has_other_lines(data):
        event_files.check_json_lines(data, name)
    check_unique_keys(data, name, {one.name: one.count() for one in frame})
    has_blank_lines = data.strip().count(b"\n") >= len(frame)
    return _with_dates(ExampleTable(frame, SourceLocation(name, 1, "row" if has_blank_lines else "line")))


def _has_other_lines(data: bytes) -> bool:
    """Check whether a line does not begin with a brace, as that of an object does."""
    return any(line and not line.startswith(b"{") for line in map(bytes.strip, data.split(b"\n")))


def read_delimited_examples(data: bytes, name: str, default: str, separator: str | None = None) -> ExampleTable:
    """Read delimited text with a header.

    Args:
        name: name of the file, for messages.
        default: separator that is preferred to others if it is not given.

    Raises:
        ValueError: there is no header, the text is not UTF-8, or a row has another number of fields than the header.
    """
    whole = trim(data)
    data = whole.lstrip(b"\r\n")
    if not data.strip():
        raise ValueError(f"{name}: empty file, expected a header and examples")
    first = 1 + whole.count(b"\n", 0, len(whole) - len(data))
    check_utf8(data, name, first)
    lines = event_files.first_lines(data, name)
    separator = separator or choose_separator(lines[:1], default, len)
    header = split_line(lines[0], separator)
    _check_header(header, name, first, separator)
    notes = () if separator == default else (f"{name}: the separator is {separator!r}",)
    if len(separator.encode()) > 1:
        data, separator = data.replace(separator.encode(), b"\x1f"), "\x1f"
    has_quotes = b'"' in data
    location = SourceLocation(name, first + 1, "line")
    quote_notes: list[str] = []
    if has_quotes:
        positions = {column: at for at, column in enumerate(header)}
        quoted = read_quoted(data, name, positions, separator, quote_notes.append, first - 1)
        if quoted is not None:
            frame, has_long_rows = quoted
            location = SourceLocation(name, 1, "row") if has_long_rows else location
            _check_complete(frame, location)
            frame, more = _parse_columns(frame.select(one.replace("", None) for one in frame), name)
            return ExampleTable(frame, location, (*notes, *quote_notes, *more))
    _check_widths(data, separator, len(header), location, has_quotes)
    quote = '"' if has_quotes else None
    frame = pl.read_csv(data, separator=separator, infer_schema=False, quote_char=quote)
    frame, more = _parse_columns(frame, name)
    return ExampleTable(frame, location, (*notes, *more))


def _check_header(header: list[str], name: str, line: int, separator: str) -> None:
    where = f"{name}, line {line}"
    if twice := [column for at, column in enumerate(header) if column in header[:at]]:
        raise ValueError(f"{where}: two columns have the name {twice[0]!r}, expected different names")
    if "" in header:
        raise ValueError(f"{where}: column {header.index('') + 1} has no name, expected a name for each column")
    if all(_is_number(column) for column in header):
        raise ValueError(f"{where}: got only numbers, such as {header[0]!r}, expected a header with names of columns")
    if len(header) == 1:
        raise ValueError(
            f"{where}: one column with the separator {separator!r}, expected a label and at least one other column"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_widths(data: bytes, separator: str, width: int, location: SourceLocation, has_quotes: bool) -> None:
    """Check that every row has as many fields as the header.

    Quoted separators do not count. Polars would fill up short rows with nulls.

    Raises:
        ValueError: names the first other line.
    """
    signs = np.frombuffer(data, np.uint8)
    is_separator: NDArray[np.bool_] = signs == ord(separator)
    if has_quotes:  # every quote encloses a whole field of one line
        is_separator &= ~np.logical_xor.accumulate(signs == ord('"'))
    ends = np.flatnonzero(signs == ord("\n"))
    ends = ends if len(ends) and ends[-1] == len(signs) - 1 else np.append(ends, len(signs))
    counts = np.diff(np.searchsorted(np.flatnonzero(is_separator), ends), prepend=0) + 1
    wrong = np.flatnonzero(counts != width)
    if len(wrong):
        row = int(wrong[0])
        start = int(ends[row - 1]) + 1 if row else 0
        is_empty = not data[start : int(ends[row])].strip()
        more = f" ({len(wrong):,} such lines)" if len(wrong) > 1 else ""
        got = "an empty line" if is_empty else f"{counts[row]} fields"
        raise ValueError(f"{location.describe_row(row - 1)}: got {got}, expected {width} fields as in the header{more}")


def _check_complete(frame: pl.DataFrame, location: SourceLocation) -> None:
    """Check that no row of text is shorter than the header, so that fields are null.

    Raises:
        ValueError: names the first such row.
    """
    is_short = frame.select(pl.any_horizontal(pl.all().is_null())).to_series()
    if is_short.any():
        row = int(is_short.arg_max() or 0)
        found = frame.width - sum(value is None for value in frame.row(row))
        raise ValueError(f"{location.describe_row(row)}: got {found} fields, expected {frame.width} as in the header")


def _with_dates(table: ExampleTable) -> ExampleTable:
    """Convert texts that are all dates; note columns that are nearly all numbers."""
    columns = [_parse_dates(one) for one in table.frame if one.dtype == pl.String]
    notes = [f"{table.name}: {note}" for one in columns for note in _note_numbers(one)]
    return replace(table, frame=table.frame.with_columns(columns), notes=(*table.notes, *notes))


def _parse_dates(texts: pl.Series) -> pl.Series:
    """Convert a column of text to times if all of its cells are."""
    known = texts.drop_nulls()
    if not len(known) or not re.match(DATE, known[0]):
        return texts
    found = parse_times(texts)
    return found if found.null_count() == texts.null_count() else texts


def _parse_columns(frame: pl.DataFrame, name: str) -> tuple[pl.DataFrame, list[str]]:
    """Convert columns of text to the types that their cells have.

    Returns:
        The columns, and notes on those with missing texts, or with few cells that are no numbers.
    """
    columns, notes = [], list[str]()
    for texts in frame:
        found = _parse_texts(texts)
        is_missing = texts.str.to_lowercase().is_in(MISSING_TEXTS).fill_null(False)
        if found.dtype in (pl.String, pl.Float64) and is_missing.any():  # "nan" is a number, too
            known = texts.to_frame().select(pl.when(~is_missing).then(pl.col(texts.name))).to_series()
            without = _parse_texts(known)
            if without.dtype != pl.String:
                found = without
                notes.append(
                    f"{name}: column '{texts.name}': {is_missing.sum():,} of {len(texts):,} cells are read as missing, "
                    f"such as {texts[is_missing.arg_max() or 0]!r}; the others are "
                    f"{'numbers' if found.dtype.is_numeric() else 'dates or truth values'}"
                )
        notes += [f"{name}: {note}" for note in _note_numbers(found)]
        columns.append(found)
    return pl.DataFrame(columns), notes


def _note_numbers(column: pl.Series) -> list[str]:
    """Return a note if nearly all cells of a column of text are numbers."""
    if column.dtype != pl.String:
        return []
    known = column.drop_nulls()
    is_number = known.cast(pl.Float64, strict=False).is_not_null()
    if is_number.all() or not is_number.sum() >= MIN_NUMBERS * len(known) or known.str.contains(IDENTIFIER).any():
        return []
    others = known.filter(~is_number)
    return [
        f"column '{column.name}' is read as text: {len(others):,} of {len(known):,} cells are no numbers, such as "
        f"{others[0][:60]!r}"
    ]


def _parse_texts(texts: pl.Series) -> pl.Series:
    """Convert a column of text to the type that all of its cells have.

    The inference of Polars takes minutes for a hundred thousand rows if it is to read all of them.
    """
    known = texts.drop_nulls()
    if not len(known):
        return texts
    first = known[0].lower()
    if first in BOOLEANS:
        found = texts.str.to_lowercase().replace_strict(BOOLEANS, default=None, return_dtype=pl.Boolean)
    elif re.match(DATE, first):
        return _parse_dates(texts)
    elif not _is_number(first) or known.str.contains(IDENTIFIER).any():
        return texts
    else:
        found = texts.cast(pl.Int64, strict=False)
        if found.null_count() > texts.null_count():
            found = texts.cast(pl.Float64, strict=False)
    return found if found.null_count() == texts.null_count() else texts
