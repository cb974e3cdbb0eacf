"""MovieLens 1M with the knowledge graph of MKR.

Wang et al. 2019, arXiv:1901.08907.

The log is that of ``ml-1m``, whose archive is needed too.
"""

from __future__ import annotations

from collections.abc import Mapping

from segue.data.archives import Archive, ArchiveSpec
from segue.data.knowledge.linked_triples import with_linked_triples
from segue.data.raw_log import RawLog
from segue.data.sources import ml_1m

__all__ = ["ABOUT", "ARCHIVE", "USES", "read"]

ABOUT = "MovieLens 1M with MKR's graph: 20,782 triples of 7 relations about 2,347 films"
TRIPLES, LINKS = "ml-1m.mkr.kg.txt", "ml-1m.mkr.item_index2entity_id.txt"
ARCHIVE = ArchiveSpec(members=(TRIPLES, LINKS))
USES = ("ml-1m",)


def read(archive: Archive, settings: Mapping[str, str], ratings: Archive) -> RawLog:
    """Read the log of ``ml-1m`` and the triples about its films."""
    return with_linked_triples(ml_1m.read(ratings, {}), archive, TRIPLES, LINKS, {})
