"""Read a log with a given split and a graph.

The files are ``train``, ``valid``, ``test``, ``kg`` and ``item_entity`` (TSV).
"""

from __future__ import annotations

import polars as pl

from segue.data.archives import Archive
from segue.data.delimited import read_delimited
from segue.data.knowledge.read_triples import parse_triples
from segue.data.raw_log import PREDEFINED_SPLIT_PREFIX, RawLog, RawTriples, SourceLocation

__all__ = ["PARTS", "read_log_with_graph"]

PARTS = ("train.tsv", "valid.tsv", "test.tsv", "kg.tsv", "item_entity.tsv")
SPLIT = "lightkg"
"""Name of the predefined split."""
ROLES = {"train.tsv": 1, "valid.tsv": 3, "test.tsv": 2}


def read_log_with_graph(archive: Archive, folder: str, id_type: type[pl.DataType]) -> RawLog:
    """Read the events of all parts, with the predefined split, and the graph.

    Args:
        id_type: type of the ids of items; text keeps leading zeros.
    """

    def read(part: str, schema: dict[str, type[pl.DataType]]) -> pl.DataFrame:
        return read_delimited(archive.read(f"{folder}/{part}"), f"{archive.path.name}:{part}", schema, header=True)

    event: dict[str, type[pl.DataType]] = {"user": pl.Int32, "item": id_type, "rating": pl.Float32}
    events = pl.concat(
        read(part, event).with_columns(pl.lit(role, pl.UInt8).alias(f"{PREDEFINED_SPLIT_PREFIX}{SPLIT}"))
        for part, role in ROLES.items()
    )
    triples = parse_triples(archive.read(f"{folder}/kg.tsv"), f"{archive.path.name}:kg.tsv")
    links = read("item_entity.tsv", {"item": pl.String, "entity": pl.String})
    return RawLog(
        events.rename({"rating": "value"}),
        SourceLocation(f"{archive.path.name}: {', '.join(ROLES)}", 1, "row"),
        names={"user": "user", "item": "item", "value": "rating", "time": "timestamp", "action": "action"},
        warnings=archive.warnings,
        notes=(f"{archive.path.name}: no times; the order within a user is that of train.tsv, valid.tsv, test.tsv",),
        triples=RawTriples(triples.table, triples.location, links),
    )
