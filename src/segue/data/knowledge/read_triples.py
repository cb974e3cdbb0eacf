"""Read triples of head, relation and tail, and link them to the items of a log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.core.knowledge.knowledge import ITEM_PREFIX, Knowledge
from segue.core.vocab import Vocab
from segue.data.dataframes import is_table, to_frame
from segue.data.delimited import check_utf8, choose_separator, split_line
from segue.data.raw_log import Log, RawTriples, SourceLocation

__all__ = ["link_triples", "parse_triples", "read_triples"]

COLUMNS = ("head", "relation", "tail")
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".kg": "\t"}
SUFFIXES = (*DELIMITERS, ".parquet")


def read_triples(source: Any) -> RawTriples:
    """Read triples from a file or an in-memory table.

    The columns are ``head``, ``relation`` and ``tail``.

    The columns may also be named as in RecBole (``head_id:token``). A delimited file without these names has no header
    and three columns in this order.

    Raises:
        ValueError: the file is missing or malformed; the message names the file, and its line or row.
    """
    try:
        return _read(source)
    except ValueError as error:
        raise ValueError(f"triples: {error}") from None


def _read(source: Any) -> RawTriples:
    if is_table(source):
        name, table = to_frame(source)
        return check_triples(_as_text(table, name), SourceLocation(name))
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"got {type(source).__name__}, expected a path or a table (__arrow_c_stream__)")
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"got {path}, expected a file with suffix {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if suffix != ".parquet":
        return parse_triples(path.read_bytes(), str(path), DELIMITERS[suffix])
    try:
        table = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None
    return check_triples(_as_text(table, str(path)), SourceLocation(str(path), 1, "row"))


def parse_triples(data: bytes, name: str, separator: str = "\t") -> RawTriples:
    """Read triples from delimited text; see :func:`read_triples`.

    Raises:
        ValueError: a line does not have three columns; the message names file and line.
    """
    check_utf8(data, name)
    lines = data.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    if lines == [""]:
        raise ValueError(f"{name}: empty file, expected triples of head, relation and tail")
    separator = choose_separator(lines[:1], separator, lambda fields: len(fields) if len(fields) == len(COLUMNS) else 0)
    header = {
        field.partition(":")[0].removesuffix("_id"): at for at, field in enumerate(split_line(lines[0], separator))
    }
    has_header = set(COLUMNS) <= set(header)
    positions = [header[column] for column in COLUMNS] if has_header else [0, 1, 2]
    width, first = (len(header) if has_header else len(COLUMNS)), 1 + has_header
    is_quoted = '"' in data.decode("utf-8", "replace")
    rows = [split_line(line, separator) if is_quoted else line.split(separator) for line in lines[has_header:]]
    for at, row in enumerate(rows):
        if len(row) != width:
            raise ValueError(
                f"{name}, line {at + first}: got {len(row)} columns in {lines[at + has_header]!r}, expected {width}: "
                f"{', '.join(COLUMNS)}"
            )
    columns = {column: [row[at] for row in rows] for column, at in zip(COLUMNS, positions, strict=True)}
    return check_triples(
        pl.DataFrame(columns, schema=dict.fromkeys(COLUMNS, pl.String)), SourceLocation(name, first, "line")
    )


def _as_text(table: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the columns of the triples as text."""
    found = {column.partition(":")[0].removesuffix("_id"): column for column in table.columns}
    if missing := [column for column in COLUMNS if column not in found]:
        raise ValueError(
            f"{name}: no column {', '.join(map(repr, missing))}; expected {', '.join(COLUMNS)}, got "
            f"{', '.join(table.columns) or 'none'}"
        )
    try:
        return table.select(pl.col(found[column]).cast(pl.String).alias(column) for column in COLUMNS)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{name}: {str(error).splitlines()[0]}; expected ids and names as text or integers") from None


def check_triples(table: pl.DataFrame, location: SourceLocation) -> RawTriples:
    """Check that no cell of a table of texts is empty.

    Raises:
        ValueError: there is no triple, or a cell is empty; the message names file and line.
    """
    if not len(table):
        raise ValueError(f"{location.name}: no triples, expected rows of head, relation and tail")
    for column in COLUMNS:
        is_empty = table[column].is_null() | (table[column].str.strip_chars() == "")
        if is_empty.any():
            row = is_empty.arg_max() or 0
            raise ValueError(f"{location.describe_row(row)}: the {column} is empty, expected an id or a name")
    return RawTriples(table, location)


def link_triples(raw: RawTriples, items: pl.Series, known_items: Sequence[pl.Series], log: Log) -> Knowledge:
    """Link triples to the items of a catalog.

    With ``raw.links`` these say which entity is which item. Without, a head that is the id of an item is this item, and
    so is ``item:ID``, as head or tail; all other heads and tails are entities.

    Args:
        items: ids of the catalog, row = code.
        known_items: ids that the data also knows, such as those of filtered items; their triples are left out.
        log: receives counts of what is linked and left out.

    Raises:
        ValueError: no item is linked, or ``item:ID`` is no known item; the message names file and line.
    """
    table = raw.table
    links = pl.DataFrame({"item": items, "entity": ITEM_PREFIX + items}) if raw.links is None else raw.links
    if raw.links is None:
        known = pl.concat([items.cast(pl.String), *(ids.cast(pl.String) for ids in known_items)]).unique()
        head = pl.when(pl.col("head").is_in(known.implode())).then(ITEM_PREFIX + pl.col("head")).otherwise("head")
        table = table.with_columns(head.alias("head"))
        for column in ("head", "tail"):
            _check_items(raw, table[column], known)
        removed = (ITEM_PREFIX + known.filter(~known.is_in(items.implode()))).implode()
        left_out = table.filter(pl.col("head").is_in(removed) | pl.col("tail").is_in(removed))
        if len(left_out):
            log(f"triples: {len(left_out)} of {len(table)} are about items that are not in the catalog; left out")
            table = table.join(left_out, on=COLUMNS, how="anti", maintain_order="left")
    distinct = table.unique(maintain_order=True)
    if len(distinct) < len(table):
        log(f"triples: {len(table) - len(distinct)} of {len(table)} repeat another one; left out")
    links = links.unique("item", keep="first", maintain_order=True)
    links = pl.DataFrame({"item": items}).join(links, on="item", how="left", maintain_order="left")
    used = pl.concat([distinct["head"], distinct["tail"].alias("head")]).unique()
    linked = links["entity"].is_in(used.implode()) & links["entity"].is_not_null()
    if not linked.any():
        raise ValueError(
            f"triples: {raw.location.name}: none of the {len(items)} items occurs in a triple; heads are such as "
            f"{raw.table['head'][0]!r}, and items such as {items[0]!r}"
        )
    entities = used.sort()
    codes = pl.Enum(entities)
    relations = distinct["relation"].unique().sort()
    log(
        f"triples: {len(distinct)} of {raw.location.name}, {len(relations)} relations, {len(entities)} entities; "
        f"{int(linked.sum())} of {len(items)} items occur in them"
    )
    of_items = links["entity"].cast(codes, strict=False).to_physical().cast(pl.Int32).fill_null(-1)
    heads, tails = (
        distinct[column].cast(codes).to_physical().to_numpy().astype(np.int32) for column in ("head", "tail")
    )
    relation_codes = distinct["relation"].cast(pl.Enum(relations)).to_physical().to_numpy().astype(np.int32)
    return Knowledge(Vocab(entities), tuple(relations), heads, relation_codes, tails, of_items.to_numpy())


def _check_items(raw: RawTriples, column: pl.Series, known: pl.Series) -> None:
    named = column.str.starts_with(ITEM_PREFIX)
    unknown = named & ~column.str.strip_prefix(ITEM_PREFIX).is_in(known.implode())
    if unknown.any():
        row = unknown.arg_max() or 0
        raise ValueError(
            f"triples: {raw.location.describe_row(row)}: unknown item {column[row].removeprefix(ITEM_PREFIX)!r}; an id "
            f"after {ITEM_PREFIX!r} must be that of an item of the data"
        )
