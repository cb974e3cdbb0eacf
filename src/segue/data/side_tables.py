"""Join user-supplied tables of item and user features to a log.

This happens while a dataset is built.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from segue.core.config import suggest
from segue.core.files import check_unique_keys
from segue.core.messages import warn
from segue.core.vocab import id_text
from segue.data.dataframes import is_table, to_frame
from segue.data.delimited import check_utf8, choose_separator, split_line
from segue.data.raw_log import COLUMNS, RawLog

__all__ = ["SideTable", "join_side_tables", "read_side_tables"]

TextColumns: TypeAlias = Mapping[str, type[pl.DataType]]
"""Columns to read as text: those that may hold ids, because the number of ``001`` is another id."""

READERS: dict[str, Callable[[Path, TextColumns], pl.DataFrame]] = {
    ".csv": lambda path, texts: _read_text(path, ",", texts),
    ".tsv": lambda path, texts: _read_text(path, "\t", texts),
    ".jsonl": lambda path, texts: _read_json_lines(path, texts),
    ".ndjson": lambda path, texts: _read_json_lines(path, texts),
    ".parquet": lambda path, texts: pl.read_parquet(path, glob=False),
}


@dataclass(frozen=True, eq=False)
class SideTable:
    """A table of item or user features."""

    name: str
    """Source file, or type of an in-memory table."""
    table: pl.DataFrame
    digest: str
    """SHA-256 of the table; part of the content hash of the dataset, because models read the table."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Entry in the header of the dataset."""
        return {"name": self.name, "columns": self.table.columns, "sha256": self.digest}


def read_side_tables(
    items: Any, users: Any, columns: Mapping[str, str | None] | None = None, *, texts: Sequence[str] = ()
) -> dict[str, SideTable]:
    """Read the given tables of ``items`` and ``users``.

    ``columns`` are the column names of the log by internal name: the id columns may have the same. ``texts`` are
    further columns that delimited files hold as text, such as titles that look like numbers.

    Each is a path or an in-memory table. Columns of lists, such as tags or vectors, need Parquet, JSON lines or an
    in-memory table.

    Raises:
        ValueError: a file is missing or not readable, or the source is not a table.
    """
    sources = {"items": items, "users": users}
    return {
        noun: _read(noun, source, _id_names(noun, columns or {}), texts)
        for noun, source in sources.items()
        if source is not None
    }


def join_side_tables(raw: RawLog, side_tables: Mapping[str, SideTable]) -> RawLog:
    """Join side tables to the items and users of ``raw``.

    Columns of the same name are replaced. Rows that repeat an id with other features cause a warning.

    Raises:
        ValueError: a table has no column of ids, or none of its ids occurs in the log.
    """
    tables = {noun: _with_ids(raw, noun, side_table) for noun, side_table in side_tables.items()}
    changes: dict[str, Any] = {noun: _join(raw, noun, table) for noun, table in tables.items()}
    notes = [
        f"{noun}: joined {len(side_table.table)} rows of {side_table.name}: {', '.join(side_table.table.columns)}"
        for noun, side_table in side_tables.items()
    ]
    listed = tables["items"]["id"] if "items" in tables else None
    return replace(raw, notes=(*raw.notes, *notes), listed_items=listed, **changes)


def _id_names(noun: str, columns: Mapping[str, str | None]) -> list[str]:
    """Return the possible names of the id column, in order of preference."""
    key = noun.removesuffix("s")
    return list(dict.fromkeys([columns.get(key) or COLUMNS[key], COLUMNS[key], "id"]))


def _read(noun: str, source: Any, id_names: list[str], texts_of_file: Sequence[str]) -> SideTable:
    if is_table(source):
        name, table = to_frame(source)
        objects = [column.name for column in table if column.dtype == pl.Object]
        texts = [[None if one is None else id_text(one) for one in table[column]] for column in objects]
        table = table.with_columns(
            pl.Series(column, cells, dtype=pl.String) for column, cells in zip(objects, texts, strict=True)
        )  # such as uuid.UUID
    elif isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        name, table = str(path), _read_file(noun, path, id_names, texts_of_file)
    else:
        raise ValueError(f"{noun}: got {type(source).__name__}, expected a path or a table (__arrow_c_stream__)")
    buffer = io.BytesIO()
    table.rechunk().write_ipc(buffer, compression="uncompressed")
    return SideTable(name, table, hashlib.sha256(buffer.getbuffer()).hexdigest())


def _read_file(noun: str, path: Path, id_names: list[str], texts: Sequence[str]) -> pl.DataFrame:
    suffix = path.suffix.lower()
    names = [*id_names, *texts] if suffix in (".csv", ".tsv") else id_names
    if suffix not in READERS:
        raise ValueError(f"{noun}: got {path}, expected a file with suffix {', '.join(READERS)}")
    if not path.is_file():
        raise ValueError(f"{noun}: {path}: no such file")
    try:
        table = READERS[suffix](path, dict.fromkeys(names, pl.String))
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        if suffix != ".parquet":
            check_utf8(path.read_bytes(), f"{noun}: {path}")
        raise ValueError(f"{noun}: {path}: not a readable {suffix} file: {str(error).splitlines()[0]}") from None
    if suffix in (".jsonl", ".ndjson"):
        check_unique_keys(path.read_bytes(), f"{noun}: {path}", {one.name: one.count() for one in table})
    return table


def _read_text(path: Path, separator: str, texts: TextColumns) -> pl.DataFrame:
    """Read a delimited file; all rows determine the types of its other columns."""
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline().rstrip("\r\n")
    separator = choose_separator([header], separator, lambda fields: sum(name in texts for name in fields))
    if len(separator) > 1:
        raise ValueError(f"the separator is {separator!r}, expected one character")
    found = split_line(header, separator)
    overrides = {name: dtype for name, dtype in texts.items() if name in found}
    return pl.read_csv(path, separator=separator, schema_overrides=overrides, infer_schema_length=None, glob=False)


def _read_json_lines(path: Path, texts: TextColumns) -> pl.DataFrame:
    found = pl.read_ndjson(path, infer_schema_length=None)
    overrides = {name: dtype for name, dtype in texts.items() if name in found.columns and found[name].dtype != dtype}
    return pl.read_ndjson(path, schema_overrides=overrides, infer_schema_length=None) if overrides else found


def _with_ids(raw: RawLog, noun: str, side_table: SideTable) -> pl.DataFrame:
    """Return the table with its ids as text in the column ``id``, one row per id."""
    table, names = side_table.table, _id_names(noun, raw.names)
    id_column = next((name for name in names if name in table.columns), None)
    if id_column is None:
        expected = " or ".join(f"'{name}'" for name in reversed(names))
        raise ValueError(f"{side_table.name}: no id column {expected}{suggest(names[0], table.columns)}")
    ids = table[id_column]
    if ids.dtype.is_float() and (ids.is_finite() & (ids.floor() == ids)).all():
        ids = ids.cast(pl.Int64)  # as in the log
    if ids.dtype.is_decimal() and (ids == ids.cast(pl.Decimal(None, 0))).all():
        ids = ids.cast(pl.Int128)
    if isinstance(ids.dtype, pl.Categorical | pl.Enum):
        ids = ids.cast(pl.String)
    if not (ids.dtype.is_integer() or ids.dtype == pl.String) or ids.null_count():
        raise ValueError(
            f"{side_table.name}, column {id_column}: got {ids.dtype}, expected ids: integers or text, without nulls"
        )
    ids = ids.cast(pl.String).alias("id")
    table = pl.DataFrame([ids, *(column for column in table if column.name not in (id_column, "id"))])
    log_ids = raw.events[noun.removesuffix("s")]
    _check_overlap(noun, side_table.name, ids, log_ids)
    distinct = table.unique("id", keep="first", maintain_order=True)
    if len(distinct) < len(table):
        rows = table.with_row_index("row").filter(~pl.col("id").is_first_distinct())
        warn(
            f"{noun}: {len(rows)} of {len(table)} rows of {side_table.name} repeat an id, the first is "
            f"{rows['id'][0]!r} in row {rows['row'][0] + 1}; the first row of each id is used"
        )
    return distinct


def _check_overlap(noun: str, name: str, ids: pl.Series, log_ids: pl.Series) -> None:
    """Raise an error if no id of a table occurs in the log."""
    if log_ids.dtype.is_float() or log_ids.dtype.is_decimal():
        log_ids = log_ids.cast(pl.Int128, strict=False)
    if log_ids.dtype == pl.Object:
        log_ids = pl.Series([None if one is None else id_text(one) for one in log_ids], dtype=pl.String)
    texts = (log_ids if log_ids.dtype == pl.Binary else log_ids.cast(pl.String)).unique(maintain_order=True)
    if texts.dtype == pl.String and len(ids) and not ids.is_in(texts.implode()).any():
        raise ValueError(
            f"{noun}: none of the {len(ids)} ids of {name} occurs in the log; they are such as {ids[0]!r}, and "
            f"those of the log such as {texts[0]!r}"
        )


def _join(raw: RawLog, noun: str, table: pl.DataFrame) -> pl.DataFrame:
    """Return ``id`` and all known columns of ``noun``."""
    known: pl.DataFrame | None = getattr(raw, noun)
    if known is None:
        return table
    kept = known.drop([name for name in table.columns if name != "id" and name in known.columns])
    return kept.unique("id", keep="first", maintain_order=True).join(
        table, on="id", how="full", coalesce=True, maintain_order="left"
    )
