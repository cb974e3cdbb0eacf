"""Parse delimited text quickly.

On failure, the first error is located by file, line and column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from segue.data.raw_log import SourceLocation

__all__ = ["check_utf8", "read_delimited"]

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
            f"{name}, line {line}, character {column}: byte 0x{data[error.start]:02x} is not UTF-8; expected UTF-8 text"
        ) from None


def read_delimited(
    source: bytes | Path,
    name: str,
    schema: Mapping[str, pl.DataType | type[pl.DataType]],
    separator: str = "\t",
    header: bool = False,
) -> pl.DataFrame:
    """Read the columns of ``schema`` from delimited text.

    Without ``header`` the schema names the columns from the left; with it, columns are selected by name. The separator
    is one byte or ``::``.

    Raises:
        ValueError: the text is empty or not UTF-8, a column is missing, or a number is invalid; the message names file,
            line and column.
    """
    if separator == "::":
        data = source.read_bytes() if isinstance(source, Path) else source
        source, separator = data.replace(b"::", b"\x1f"), "\x1f"
    quote = '"' if header else None
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
        _explain(data, name, schema, separator, header)
        raise ValueError(f"{name}: {str(error).splitlines()[0]}; expected columns {', '.join(schema)}") from None


def _explain(
    data: bytes,
    name: str,
    schema: Mapping[str, pl.DataType | type[pl.DataType]],
    separator: str,
    header: bool,
) -> None:
    """Raise the first error of the file, found by reading it again as text."""
    if not data.strip():
        raise ValueError(f"{name}: empty file, expected columns {', '.join(schema)}")
    check_utf8(data, name)
    location = SourceLocation(name, 2 if header else 1, "line")
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
        line = data.count(b"\n", 0, found.start()) + 1
        raise ValueError(
            f"{name}, line {line}: more than {len(text.columns)} columns, expected {', '.join(text.columns)}"
        )


def first_invalid(text: pl.Series, dtype: pl.DataType | type[pl.DataType]) -> int | None:
    """Return the first row whose text is present but is not of type ``dtype``."""
    if dtype == pl.String:
        return None
    invalid = text.is_not_null() & text.str.strip_chars().cast(dtype, strict=False).is_null()
    return invalid.arg_max() if invalid.any() else None
