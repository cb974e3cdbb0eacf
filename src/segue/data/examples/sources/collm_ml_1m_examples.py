"""Likes and dislikes of MovieLens 1M by month, as labeled examples.

Zhang et al. 2023, arXiv:2310.19488. ``collm-ml-1m`` is the same data as an interaction log.
"""

from __future__ import annotations

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.examples.read import read_delimited_examples
from segue.data.examples.table import ExampleTable, Part, join_parts

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "Likes and dislikes of CoLLM's ML-1M: 51,623 labeled examples with histories and times, given parts"
FOLDER = "ctr-collm-ml-1m"
MEMBERS: dict[Part, str] = {"train": "train.csv", "valid": "valid.csv", "test": "test.csv"}
ARCHIVE = ArchiveSpec(members=(*(f"{FOLDER}/{name}" for name in MEMBERS.values()), f"{FOLDER}/items.csv"))


def read(archive: Archive) -> ExampleTable:
    """Read ``label``, ``user``, ``item``, ``history`` and ``time``.

    A history has the liked items, oldest first. The titles are left out, because there is one per item.
    """
    tables: dict[Part, ExampleTable] = {}
    for part, member in MEMBERS.items():
        table = read_delimited_examples(archive.read(f"{FOLDER}/{member}"), f"{archive.path.name}:{member}", ",")
        history = pl.col("history").cast(pl.String).fill_null("").str.split(" ")
        frame = table.frame.select(
            "label",
            "user",
            "item",
            history.list.eval(pl.element().filter(pl.element() != "").cast(pl.Int64)),
            pl.from_epoch("timestamp").alias("time"),
        )
        tables[part] = ExampleTable(frame, table.location, (*table.notes, *archive.warnings))
    return join_parts(tables)
