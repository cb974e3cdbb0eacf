"""Read ids and pairs from files, and write result tables in one step."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from segue.core.files import atomic_file, check_unique_keys

__all__ = ["TABLE_SUFFIXES", "check_suffix", "read_ids", "read_table", "write_parts", "write_table"]

TABLE_SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")

LIST_SEPARATOR = "|"
"""Between the values of a list, such as genres, in formats without lists."""


def check_suffix(path: Path) -> None:
    """Check that tables can be written to ``path``.

    Raises:
        ValueError: the suffix is not that of a known format.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(f"{path}: unknown format '{path.suffix}', expected {', '.join(TABLE_SUFFIXES)}")


def read_table(path: Path) -> pl.DataFrame:
    """Read a table; in CSV and TSV files ids stay text.

    Raises:
        ValueError: the file is missing, unreadable or of an unknown format.
    """
    check_suffix(path)
    path = path.expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pl.read_parquet(path)
        if suffix in (".jsonl", ".ndjson"):
            table = pl.read_ndjson(path)
            check_unique_keys(path.read_bytes(), str(path), {one.name: one.count() for one in table})
            return table
        separator = "," if suffix == ".csv" else "\t"
        table = pl.read_csv(path, separator=separator, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path}: not a readable {suffix} file: {str(error).splitlines()[0]}") from None
    others = [sign for sign in ",;|\t" if sign != separator and sign in table.columns[0]]
    if table.width == 1 and others:
        raise ValueError(
            f"{path}: its columns appear to be separated by {others[0]!r}, expected {separator!r} in a {suffix} file"
        )
    return table


def read_ids(path: Path, column: str = "user_id") -> pl.Series:
    """Read ids from ``column`` of a table, or from the lines of any other file.

    Blank lines are skipped.

    Raises:
        ValueError: the file is missing, or the table lacks the column.
    """
    path = path.expanduser()
    if path.suffix.lower() in TABLE_SUFFIXES:
        table = read_table(path)
        if column not in table.columns:
            raise ValueError(f"{path}: no column '{column}'; found {', '.join(table.columns)}")
        return table[column]
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return pl.Series(column, [line for line in lines if line], dtype=pl.String)


def write_table(path: Path, table: pl.DataFrame | pl.LazyFrame) -> None:
    """Write a table in the format of the suffix of ``path``, replacing it in one step.

    Lists become text with ``|`` between their values in CSV and TSV files.

    Raises:
        ValueError: the format is unknown, or a value of a list that becomes text contains ``|``.
    """
    check_suffix(path)
    path = path.expanduser()
    frame, suffix = table.lazy(), path.suffix.lower()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        if suffix == ".parquet":
            frame.sink_parquet(temporary)
        elif suffix in (".jsonl", ".ndjson"):
            frame.sink_ndjson(temporary)
        else:
            _join_lists(frame).sink_csv(temporary, separator="," if suffix == ".csv" else "\t")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_parts(path: Path, parts: Iterator[pl.DataFrame]) -> None:
    """Write the rows of several tables as one, as :func:`write_table` does.

    One of them is in memory at a time.

    Raises:
        ValueError: the format is unknown, or a table of several parts is written as Parquet without pyarrow.
    """
    check_suffix(path)
    path, suffix = path.expanduser(), path.suffix.lower()
    first, second = next(parts), next(parts, None)
    if second is None:
        write_table(path, first)
        return
    every = itertools.chain([first, second], parts)
    with atomic_file(path) as fresh:
        if suffix == ".parquet":
            _write_row_groups(fresh, every)
            return
        with fresh.open("wb") as out:
            for number, part in enumerate(every):
                if suffix in (".jsonl", ".ndjson"):
                    part.write_ndjson(out)
                    continue
                separator = "," if suffix == ".csv" else "\t"
                _join_lists(part.lazy()).collect().write_csv(out, include_header=number == 0, separator=separator)


def _write_row_groups(path: Path, parts: Iterator[pl.DataFrame]) -> None:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ValueError("pyarrow is not installed: pip install 'segue[parquet]'") from None
    tables = (part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in parts)
    first = next(tables)
    with pyarrow.parquet.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)


def _join_lists(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Write lists as text, for formats without lists.

    Raises:
        ValueError: a value contains the separator, so that the list could not be read back.
    """
    lists = [name for name, dtype in frame.collect_schema().items() if isinstance(dtype, pl.List)]
    for name in lists:
        values = frame.select(pl.col(name).cast(pl.List(pl.String)).explode()).drop_nulls()
        ambiguous = values.filter(pl.col(name).str.contains(LIST_SEPARATOR, literal=True)).first().collect()
        if len(ambiguous):
            raise ValueError(
                f"column '{name}': got a list with '{ambiguous.item()}', expected values without {LIST_SEPARATOR!r}, "
                "which separates them in CSV and TSV files; write a .parquet or .jsonl file"
            )
    return frame.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(LIST_SEPARATOR) for name in lists)
