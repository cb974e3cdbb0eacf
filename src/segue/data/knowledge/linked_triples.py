"""Join a log and triples about its items from another archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from segue.data.archives import Archive
from segue.data.delimited import read_delimited
from segue.data.knowledge.read_triples import parse_triples
from segue.data.raw_log import RawLog, RawTriples

__all__ = ["with_linked_triples"]


def with_linked_triples(raw: RawLog, archive: Archive, triples: str, links: str, header: Mapping[str, str]) -> RawLog:
    """Return a log with the triples of an archive.

    Args:
        triples: member with the triples.
        links: member with an item and its entity per row.
        header: names of these two columns in the first row of the member, to ``item`` and ``entity``; empty: the
            member has no such row.
    """
    found = parse_triples(archive.read(triples), f"{archive.path.name}:{triples}")
    columns = dict.fromkeys(header or ("item", "entity"), pl.String)
    table = read_delimited(archive.read(links), f"{archive.path.name}:{links}", columns, header=bool(header))
    graph = RawTriples(found.table, found.location, table.rename(dict(header)))
    return replace(raw, triples=graph, warnings=(*raw.warnings, *archive.warnings))
