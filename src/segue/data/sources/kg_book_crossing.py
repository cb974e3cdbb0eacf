"""Book-Crossing with the graph of KGCN, and the split of LightKG.

Ziegler et al. 2005, doi:10.1145/1060745.1060754. Items are ISBNs; the value of an event is the rating (4 to 10). The
relations are numbers without known names. The protocol is that of ``kg-lastfm``.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.knowledge.recbole_split import PARTS, read_log_with_graph
from segue.data.raw_log import RawLog

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "Book-Crossing with KGCN's graph: 11,017 users, 9,058 books, 24,644 events, 151,500 triples, split lightkg"
FOLDER = "kg-book-crossing"
ARCHIVE = ArchiveSpec(members=tuple(f"{FOLDER}/{part}" for part in PARTS))


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read the events, the predefined split ``lightkg`` and the triples."""
    return read_log_with_graph(archive, FOLDER, pl.String)
