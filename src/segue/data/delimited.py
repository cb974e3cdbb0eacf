"""Parse delimited text quickly.

On failure, the first error is located by file, line and column.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from segue.data.raw_log import Log, SourceLocation

__all__ = [
    "check_separator",
    "check_utf8",
    "choose_separator",
    "choose_separator_by_width",
    "encoding_hint",
    "read_delimited",
    "read_quoted",
    "split_line",
    "trim",
]

SEPARATORS = (",", "\t", ";", "|", "::", " ")
"""Separators that are detected, most probable first. Fields between separators of several bytes are never quoted."""

NAMED_SEPARATORS = {"\\t": "\t", "tab": "\t", "space": " "}

EXPECTED = {True: "an integer", False: "a number"}


def check_utf8(data: bytes, name: str, first: int = 1) -> None:
    """Check that ``data`` is UTF-8.

    Raises:
        ValueError: names file, line and column of the first invalid byte.
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + first
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ValueError(
            f"{name}, line {line}, character {column}: byte 0x{data[error.start]:02x} is not UTF-8; "
            f"expected UTF-8 text{encoding_hint(data)}"
        ) from None


def encoding_hint(data: bytes) -> str:
    """Name the probable encoding of other text than UTF-8, and how to convert it."""
    start = data[:1000]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        guess, certainty = "UTF-16", "the file is"
    elif start.count(0) > len(start) // 4:
        guess, certainty = ("UTF-16LE" if start[1::2].count(0) > start[::2].count(0) else "UTF-16BE"), "the file is"
    else:
        guess, certainty = "WINDOWS-1252", "if the file is"
    return f" ({certainty} {guess}, convert it: iconv -f {guess} -t UTF-8 OLD > NEW)"


def check_separator(separator: str) -> str:
    """Return a separator given as text, ``\\t``, ``tab`` or ``space``.

    Raises:
        ValueError: it is empty or has letters, digits, quotes or line ends.
    """
    found = NAMED_SEPARATORS.get(separator, separator)
    if not found or any(sign.isalnum() or sign in '"\r\n' for sign in found):
        raise ValueError(
            f"separator: got {separator!r}, expected the characters between two columns, such as ';', '|' or 'tab'"
        )
    return found


def read_delimited(
    source: bytes | Path,
    name: str,
    schema: Mapping[str, pl.DataType | type[pl.DataType]],
    separator: str = "\t",
    header: bool = False,
    has_quotes: bool | None = None,
    lines_before: int = 0,
) -> pl.DataFrame:
    """Read the columns of ``schema`` from delimited text.

    Without ``header`` the schema names the columns from the left; with it, columns are selected by name. The separator
    is one byte or ``::``. ``has_quotes``: whether fields may be quoted; by default in files with a header.
    ``lines_before``: lines of the file before ``source``, for error messages; -1 if its header is not in the file.

    Raises:
        ValueError: the text is empty or not UTF-8, a column is missing, or a number is invalid; the message names file,
            line and column.
    """
    if separator == "::":
        data = source.read_bytes() if isinstance(source, Path) else source
        source, separator = data.replace(b"::", b"\x1f"), "\x1f"
    quote = '"' if (header if has_quotes is None else has_quotes) else None
    try:
        return pl.read_csv(
            source,
            separator=separator,
            has_header=header,
            columns=list(schema) if header else None,
            schema_overrides=dict(schema) if header else None,
            schema=None if header else dict(schema),
            quote_char=quote,
        )
    except pl.exceptions.PolarsError as error:
        data = source.read_bytes() if isinstance(source, Path) else source
        _explain(data, name, schema, separator, header, lines_before)
        raise ValueError(f"{name}: {str(error).splitlines()[0]}; expected columns {', '.join(schema)}") from None


def trim(data: bytes) -> bytes:
    """Remove the byte order mark and blank lines at the end.

    In the result, lines end with a line feed.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in data and b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    end = data.find(b"\n", len(data.rstrip(b" \t\r\n")))
    return data if end < 0 else data[:end]


def split_line(line: str, separator: str) -> list[str]:
    """Split a line of text into fields."""
    if len(separator.encode()) > 1:
        return line.split(separator)
    return next(csv.reader([line], delimiter=separator), [])


def choose_separator(lines: Sequence[str], default: str, count: Callable[[list[str]], int]) -> str:
    """Return the separator that gives the most expected fields.

    Args:
        lines: first lines of the file; the least number of expected fields in one of them counts.
        default: separator that is preferred to others of equal count.
        count: number of expected fields among the fields of a line; 0 if a required one is missing.
    """
    candidates = list(dict.fromkeys((default, *SEPARATORS)))
    counts = [min(count(split_line(line, separator)) for line in lines) for separator in candidates]
    return candidates[counts.index(max(counts))]


def choose_separator_by_width(lines: Sequence[str], default: str, least: int, name: str) -> str:
    """Return the separator that gives equally many fields in all lines.

    It gives at least ``least`` fields. Spaces are considered only if there is no other. If no separator gives equal
    numbers, the most fields count.

    Raises:
        ValueError: several separators do; the message names them.
    """
    candidates = list(dict.fromkeys((default, *SEPARATORS)))
    widths = {one: {len(split_line(line, one)) for line in lines} for one in candidates}
    regular = [one for one in candidates if len(widths[one]) == 1 and min(widths[one]) >= max(2, least)]
    if len(regular) > 1:
        regular = [one for one in regular if one != " "]
    if len(regular) > 1:
        raise ValueError(
            f"{name}: the separator can be {' or '.join(map(repr, regular))}, because each gives equally many columns "
            f"in every line; give the right one, such as separator={regular[0]!r}"
        )
    if regular:
        return regular[0]
    return choose_separator(lines, default, lambda fields: len(fields) if len(fields) >= least else 0)


def read_quoted(
    data: bytes, name: str, columns: Mapping[str, int], separator: str, log: Log, lines_before: int = 0
) -> tuple[pl.DataFrame, bool] | None:
    """Read columns as text from a file with unusual quotes.

    Fields are quoted as in RFC 4180. Where such quotes are not closed, or would join lines of a TSV file that are
    complete in themselves, they are ordinary characters.

    Args:
        columns: position of each column.
        lines_before: lines of the file before ``data``, for error messages.

    Returns:
        The columns, and whether fields contain line ends. ``None`` if every quote encloses a whole field of one line,
        so that a fast parser reads the same.

    Raises:
        ValueError: the quotes have neither meaning; the message names the line.
    """
    bytes_N = np.frombuffer(b"\n" + data + b"\n", np.uint8)
    quotes = np.flatnonzero(bytes_N == ord('"'))
    at_edge = np.isin(bytes_N, [ord(separator), 10, 13])
    per_line = np.searchsorted(quotes, np.flatnonzero(bytes_N == 10)) % 2
    if not per_line.any() and at_edge[quotes[::2] - 1].all() and at_edge[quotes[1::2] + 1].all():
        return None
    check_utf8(data, name, 1 + lines_before)
    text = data.decode("utf-8")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    positions = list(columns.values())
    rows: list[list[str | None]] = []
    problem: str | None = None
    width = 0
    try:
        for fields in reader:
            width = width or len(fields)
            if len(fields) > width:
                problem = f"more than {width} columns"
                break
            rows.append([fields[at] if at < len(fields) else None for at in positions])
    except csv.Error as error:
        problem = str(error)
    joined = reader.line_num - len(rows)
    lines = text.splitlines() if "\r" in text else text.split("\n")
    is_literal = (problem is not None or (joined > 0 and separator == "\t")) and all(
        line.count(separator) == lines[0].count(separator) for line in lines
    )
    if is_literal:
        log(f"{name}: quotes that are not closed in their line are read as ordinary characters")
        rows = [[_unquote(fields[at]) for at in positions] for fields in (line.split(separator) for line in lines)]
    elif problem is not None:
        raise ValueError(
            f"{name}, line {reader.line_num + lines_before}: {problem}; "
            "expected quoted fields to be closed, with quotes in them doubled"
        )
    elif joined:
        log(f"{name}: {joined} line ends are inside of quoted fields and do not end a row")
    frame = pl.DataFrame(rows[1:], schema=dict.fromkeys(columns, pl.String), orient="row")
    return frame, joined > 0 and not is_literal


def _unquote(field: str) -> str:
    return field[1:-1].replace('""', '"') if len(field) > 1 and field[0] == field[-1] == '"' else field


def _explain(
    data: bytes,
    name: str,
    schema: Mapping[str, pl.DataType | type[pl.DataType]],
    separator: str,
    header: bool,
    lines_before: int,
) -> None:
    """Raise the first error of the file, found by reading it again as text."""
    if not data.strip():
        raise ValueError(f"{name}: empty file, expected columns {', '.join(schema)}")
    check_utf8(data, name, 1 + lines_before)
    location = SourceLocation(name, lines_before + (2 if header else 1), "line")
    shown = separator if separator != "\x1f" else "::"
    text = pl.read_csv(
        data,
        separator=separator,
        has_header=header,
        infer_schema=False,
        truncate_ragged_lines=True,
        new_columns=None if header else list(schema),
        quote_char='"' if header else None,
    )
    missing = [column for column in schema if column not in text.columns]
    if missing:
        raise ValueError(
            f"{name}: no column {', '.join(missing)}; found {', '.join(text.columns)} (separator {shown!r})"
        )
    for column, dtype in schema.items():
        invalid = first_invalid(text[column], dtype)
        if invalid is not None:
            expected = EXPECTED[pl.Series([], dtype=dtype).dtype.is_integer()]
            raise ValueError(
                f"{location.describe_row(invalid)}, column {column}: got {text[column][invalid]!r}, expected {expected}"
            )
    escaped = re.escape(separator.encode())
    wide = re.compile(rb"^([^%b\n]*%b){%d,}" % (escaped, escaped, len(text.columns)), re.MULTILINE)
    if found := wide.search(data):
        line = data.count(b"\n", 0, found.start()) + 1 + lines_before
        raise ValueError(
            f"{name}, line {line}: more than {len(text.columns)} columns, expected {', '.join(text.columns)}"
        )


def first_invalid(text: pl.Series, dtype: pl.DataType | type[pl.DataType]) -> int | None:
    """Return the first row whose text is present but is not of type ``dtype``."""
    if dtype == pl.String:
        return None
    invalid = text.is_not_null() & text.str.strip_chars().cast(dtype, strict=False).is_null()
    return invalid.arg_max() if invalid.any() else None
