"""MovieLens 100K with the Freebase triples of RecBole.

Zhao et al. 2019, KB4Rec, arXiv:1807.11141.

The log is that of ``ml-100k``, whose archive is needed too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.delimited import read_delimited
from segue.data.knowledge.read_triples import parse_triples
from segue.data.raw_log import RawLog, RawTriples
from segue.data.sources import ml_100k

__all__ = ["ABOUT", "ARCHIVE", "USES", "read"]

ABOUT = "MovieLens 100K with Freebase triples: 91,631 triples of 24 relations about 1,598 films"
TRIPLES, LINKS = "ml-100k.kg", "ml-100k.link"
ARCHIVE = ArchiveSpec(members=(TRIPLES, LINKS))
USES = ("ml-100k",)


def read(archive: Archive, settings: Mapping[str, str], ratings: Archive) -> RawLog:
    """Read the log of ``ml-100k`` and the triples about its films."""
    triples = parse_triples(archive.read(TRIPLES), f"{archive.path.name}:{TRIPLES}")
    link = {"item_id:token": pl.String, "entity_id:token": pl.String}
    links = read_delimited(archive.read(LINKS), f"{archive.path.name}:{LINKS}", link, header=True)
    links.columns = ["item", "entity"]
    raw = ml_100k.read(ratings, {})
    graph = RawTriples(triples.table, triples.location, links)
    return replace(raw, triples=graph, warnings=(*raw.warnings, *archive.warnings))
