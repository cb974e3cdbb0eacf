"""MovieLens 100K with the Freebase triples of RecBole.

Zhao et al. 2019, KB4Rec, arXiv:1807.11141.

The log is that of ``ml-100k``, whose archive is needed too.
"""

from __future__ import annotations

from collections.abc import Mapping

from segue.data.archives import Archive, ArchiveSpec
from segue.data.knowledge.linked_triples import with_linked_triples
from segue.data.raw_log import RawLog
from segue.data.sources import ml_100k

__all__ = ["ABOUT", "ARCHIVE", "USES", "read"]

ABOUT = "MovieLens 100K with Freebase triples: 91,631 triples of 24 relations about 1,598 films"
TRIPLES, LINKS = "ml-100k.kg", "ml-100k.link"
ARCHIVE = ArchiveSpec(members=(TRIPLES, LINKS))
USES = ("ml-100k",)


def read(archive: Archive, settings: Mapping[str, str], ratings: Archive) -> RawLog:
    """Read the log of ``ml-100k`` and the triples about its films."""
    return with_linked_triples(
        ml_100k.read(ratings, {}), archive, TRIPLES, LINKS, {"item_id:token": "item", "entity_id:token": "entity"}
    )
