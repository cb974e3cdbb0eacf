"""What is known of items and of users from tables of one's own, laid beside a log while it is prepared."""

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
from segue.data.dataframes import frame_of, is_table
from segue.data.raw_log import COLUMNS, Raw

__all__ = ["Attachment", "attach", "attachments"]

KINDS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": pl.read_csv,
    ".tsv": lambda path: pl.read_csv(path, separator="\t"),
    ".jsonl": pl.read_ndjson,
    ".ndjson": pl.read_ndjson,
    ".parquet": pl.read_parquet,
}


@dataclass(frozen=True, eq=False)
class Attachment:
    """A table of items or of users."""

    name: str
    """The file it came from, or the kind of table."""
    table: pl.DataFrame
    digest: str
    """SHA-256 of the table: models read it, so it counts in the hash of the dataset."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the header of the dataset tells of it."""
        return {"name": self.name, "columns": self.table.columns, "sha256": self.digest}


def attachments(items: Any, users: Any) -> dict[str, Attachment]:
    """By ``items`` and ``users``, those that are given: a path (.csv, .tsv, .jsonl, .parquet) or an in-memory table.

    Lists, such as tags or vectors, need Parquet, JSON lines or a table in memory.

    Raises:
        ValueError: no such file, not readable, or no table.
    """
    given = {"items": items, "users": users}
    return {noun: _read(noun, source) for noun, source in given.items() if source is not None}


def attach(raw: Raw, more: Mapping[str, Attachment]) -> Raw:
    """``raw`` with what the attachments know of its items and users; a column of the same name is replaced.

    Raises:
        ValueError: a table has no column of ids.
    """
    changes: dict[str, Any] = {noun: _joined(raw, noun, attachment) for noun, attachment in more.items()}
    notes = [
        f"{noun}: {len(found.table)} rows of {found.name} laid beside: {', '.join(found.table.columns)}"
        for noun, found in more.items()
    ]
    return replace(raw, notes=(*raw.notes, *notes), **changes)


def _read(noun: str, source: Any) -> Attachment:
    if is_table(source):
        name, table = frame_of(source)
    elif isinstance(source, str | os.PathLike):
        path = Path(source)
        name, table = str(path), _file(noun, path)
    else:
        raise ValueError(f"{noun}: got {type(source).__name__}, expected a path or a table (__arrow_c_stream__)")
    bytes_ = io.BytesIO()
    table.rechunk().write_ipc(bytes_, compression="uncompressed")
    return Attachment(name, table, hashlib.sha256(bytes_.getbuffer()).hexdigest())


def _file(noun: str, path: Path) -> pl.DataFrame:
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"{noun}: {path}: expected a file of kind {', '.join(KINDS)}")
    if not path.is_file():
        raise ValueError(f"{noun}: {path}: no such file")
    try:
        return KINDS[kind](path)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise ValueError(f"{noun}: {path}: not a readable {kind} file: {str(error).splitlines()[0]}") from None


def _joined(raw: Raw, noun: str, attachment: Attachment) -> pl.DataFrame:
    """``id`` as text and all that is known of each."""
    table, key = attachment.table, noun.removesuffix("s")
    names = ("id", raw.names[key], COLUMNS[key])
    of = next((name for name in names if name in table.columns), None)
    if of is None:
        wanted = " or ".join(f"'{name}'" for name in dict.fromkeys(names))
        raise ValueError(f"{attachment.name}: no column {wanted} of ids{suggest(names[0], table.columns)}")
    kind = table[of].dtype
    if not (kind.is_integer() or kind == pl.String) or table[of].null_count():
        raise ValueError(
            f"{attachment.name}, column {of}: got {kind}, expected ids: whole numbers or texts, none empty"
        )
    table = table.rename({of: "id"}).with_columns(pl.col("id").cast(pl.String))
    known: pl.DataFrame | None = getattr(raw, noun)
    if known is None:
        return table
    kept = known.drop([name for name in table.columns if name != "id" and name in known.columns])
    return kept.unique("id", keep="first", maintain_order=True).join(
        table.unique("id", keep="first", maintain_order=True), on="id", how="full", coalesce=True, maintain_order="left"
    )
