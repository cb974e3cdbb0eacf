"""Last.FM (HetRec 2011) with the music graph of KGCN, and the split of LightKG.

Wang et al. 2019, arXiv:1904.12575. The value of an event is the listening count of the artist. Published runs train on
the training part, choose on the validation part, and remove the items of both when they rank the catalog for the test.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.knowledge.recbole_split import PARTS, read_log_with_graph
from segue.data.raw_log import RawLog

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "Last.FM with KGCN's graph: 1,872 users, 3,846 artists, 21,173 events, 15,518 triples, split lightkg; no times"
FOLDER = "kg-lastfm"
ARCHIVE = ArchiveSpec(members=tuple(f"{FOLDER}/{part}" for part in PARTS))


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read the events, the predefined split ``lightkg`` and the triples."""
    return read_log_with_graph(archive, FOLDER, pl.Int32)
