"""Diginetica: clicks of anonymous sessions in a shop, as users; no times.

The preprocessing is that of SR-GNN (Wu et al. 2019, arXiv:1811.00855). A session of the published test part is its
longest prefix and the target after it. Its id is ``test-`` and the number of the session, because both parts number
their sessions from 1. The items of a session are in order and repeat.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.delimited import read_delimited
from segue.data.raw_log import RawLog, SourceLocation

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "Diginetica, sessions as users: 202,633 sessions, 43,097 items, 982,961 clicks, no times"
FOLDER = "sessions-diginetica"
TRAIN, TEST = (f"{FOLDER}/{part}.tsv" for part in ("train", "test"))
ARCHIVE = ArchiveSpec(members=(TRAIN, TEST))


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read the sessions of the training part, then of the test part.

    Raises:
        ValueError: a malformed line, or an item that is not an integer; the message names file and line.
    """
    train = _read(archive, TRAIN, {"session": pl.String, "items": pl.String})
    cases = _read(archive, TEST, {"session": pl.String, "prefix": pl.String, "target": pl.String})
    test = (
        cases.group_by("session", maintain_order=True)
        .first()
        .select(
            session=pl.concat_str(pl.lit("test-"), "session"), items=pl.concat_str("prefix", "target", separator=" ")
        )
    )
    clicks = pl.concat([train, test]).select(user="session", item=pl.col("items").str.split(" ")).explode("item")
    return RawLog(clicks, SourceLocation(f"{archive.path.name}:{FOLDER}", noun="click"), warnings=archive.warnings)


def _read(archive: Archive, member: str, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    """Read a table and check its lists of items."""
    name = f"{archive.path.name}:{member}"
    table = read_delimited(archive.read(member), name, schema, header=True)
    for column in schema.keys() - {"session"}:
        wrong = table.with_row_index("line", 2).filter(~pl.col(column).str.contains(r"^\d+( \d+)*$").fill_null(False))
        if wrong.height:
            line, text = wrong.select("line", column).row(0)
            shown = "nothing" if text is None else f"'{text}'"
            raise ValueError(f"{name}, line {line}, {column}: got {shown}, expected item numbers separated by spaces")
    return table
