"""Delimited text to columns, fast where all is well and exact about the first fault where it is not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from segue.data.raw_log import Place

__all__ = ["check_text", "read_delimited"]

EXPECTED = {True: "a whole number", False: "a number"}


def check_text(data: bytes, name: str, first: int = 1) -> None:
    """Raise a ``ValueError`` naming file, line and column of the first byte that is not UTF-8."""
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
    """The columns of ``schema`` from text with one separator byte.

    Without ``header`` the schema names the columns from the left; with it, they are looked up by name and all other
    columns are left out. ``::`` may be given as separator.

    Raises:
        ValueError: empty, not UTF-8, a missing column or an unparsable number: with file, line and column.
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
    """Raise the fault of the file, found by reading it again as text."""
    if not data.strip():
        raise ValueError(f"{name}: empty file, expected columns {', '.join(schema)}")
    check_text(data, name)
    place = Place(name, 2 if header else 1, "line")
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
        bad = unparsable(text[column], dtype)
        if bad is not None:
            kind = pl.Series([], dtype=dtype).dtype
            raise ValueError(
                f"{place.of(bad)}, column {column}: got {text[column][bad]!r}, expected {EXPECTED[kind.is_integer()]}"
            )
    sign = re.escape(separator.encode())
    wide = re.compile(rb"^([^%b\n]*%b){%d,}" % (sign, sign, len(text.columns)), re.MULTILINE)
    if found := wide.search(data):
        line = data.count(b"\n", 0, found.start()) + 1
        raise ValueError(
            f"{name}, line {line}: more than {len(text.columns)} columns, expected {', '.join(text.columns)}"
        )


def unparsable(text: pl.Series, dtype: pl.DataType | type[pl.DataType]) -> int | None:
    """The first row whose text is there but is no ``dtype``."""
    if dtype == pl.String:
        return None
    bad = text.is_not_null() & text.str.strip_chars().cast(dtype, strict=False).is_null()
    return bad.arg_max() if bad.any() else None
