"""Join user-supplied tables of item and user features to a log.

This happens while a dataset is built.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from segue.core.config import suggest
from segue.data.dataframes import is_table, to_frame
from segue.data.raw_log import COLUMNS, RawLog

__all__ = ["SideTable", "join_side_tables", "read_side_tables"]

READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": pl.read_csv,
    ".tsv": lambda path: pl.read_csv(path, separator="\t"),
    ".jsonl": pl.read_ndjson,
    ".ndjson": pl.read_ndjson,
    ".parquet": pl.read_parquet,
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


def read_side_tables(items: Any, users: Any) -> dict[str, SideTable]:
    """Read the given tables of ``items`` and ``users``.

    Each is a path or an in-memory table. Columns of lists, such as tags or vectors, need Parquet, JSON lines or an
    in-memory table.

    Raises:
        ValueError: a file is missing or not readable, or the source is not a table.
    """
    sources = {"items": items, "users": users}
    return {noun: _read(noun, source) for noun, source in sources.items() if source is not None}


def join_side_tables(raw: RawLog, side_tables: Mapping[str, SideTable]) -> RawLog:
    """Join side tables to the items and users of ``raw``.

    Columns of the same name are replaced.

    Raises:
        ValueError: a table has no column of ids.
    """
    changes: dict[str, Any] = {noun: _join(raw, noun, side_table) for noun, side_table in side_tables.items()}
    notes = [
        f"{noun}: joined {len(side_table.table)} rows of {side_table.name}: {', '.join(side_table.table.columns)}"
        for noun, side_table in side_tables.items()
    ]
    return replace(raw, notes=(*raw.notes, *notes), **changes)


def _read(noun: str, source: Any) -> SideTable:
    if is_table(source):
        name, table = to_frame(source)
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        name, table = str(path), _read_file(noun, path)
    else:
        raise ValueError(f"{noun}: got {type(source).__name__}, expected a path or a table (__arrow_c_stream__)")
    buffer = io.BytesIO()
    table.rechunk().write_ipc(buffer, compression="uncompressed")
    return SideTable(name, table, hashlib.sha256(buffer.getbuffer()).hexdigest())


def _read_file(noun: str, path: Path) -> pl.DataFrame:
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"{noun}: got {path}, expected a file with suffix {', '.join(READERS)}")
    if not path.is_file():
        raise ValueError(f"{noun}: {path}: no such file")
    try:
        return READERS[suffix](path)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise ValueError(f"{noun}: {path}: not a readable {suffix} file: {str(error).splitlines()[0]}") from None


def _join(raw: RawLog, noun: str, side_table: SideTable) -> pl.DataFrame:
    """Return ``id`` as text and all known columns of ``noun``."""
    table, key = side_table.table, noun.removesuffix("s")
    names = ("id", raw.names[key], COLUMNS[key])
    id_column = next((name for name in names if name in table.columns), None)
    if id_column is None:
        expected = " or ".join(f"'{name}'" for name in dict.fromkeys(names))
        raise ValueError(f"{side_table.name}: no id column {expected}{suggest(names[0], table.columns)}")
    dtype = table[id_column].dtype
    if not (dtype.is_integer() or dtype == pl.String) or table[id_column].null_count():
        raise ValueError(
            f"{side_table.name}, column {id_column}: got {dtype}, expected ids: integers or text, without nulls"
        )
    table = table.rename({id_column: "id"}).with_columns(pl.col("id").cast(pl.String))
    known: pl.DataFrame | None = getattr(raw, noun)
    if known is None:
        return table
    kept = known.drop([name for name in table.columns if name != "id" and name in known.columns])
    return kept.unique("id", keep="first", maintain_order=True).join(
        table.unique("id", keep="first", maintain_order=True), on="id", how="full", coalesce=True, maintain_order="left"
    )
