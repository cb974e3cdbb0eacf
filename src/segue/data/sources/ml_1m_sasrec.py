"""MovieLens 1M as used by the SASRec and BERT4Rec papers; no times.

It is 5-core with 3,416 films; events are ordered and ids are renumbered.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.delimited import read_delimited
from segue.data.raw_log import RawLog, SourceLocation

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "MovieLens 1M as preprocessed by SASRec (5-core): 6,040 users, 3,416 films, 999,611 events, no times"
ARCHIVE = ArchiveSpec(
    members=("ml-1m-sasrec/ml-1m.txt",),
    files={
        "ml-1m-sasrec/ml-1m.txt": (
            "https://raw.githubusercontent.com/kang205/SASRec/master/data/ml-1m.txt",
            "sha256:b725f3acb3986fe3130bffd1e77a74d182a1f51799567a236dbd60270f95b0a2",
        )
    },
)
PAIR = {"id": pl.String, "movielens_id": pl.String}


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read events in the order of the file.

    ``movielens_id`` maps its ids to those of MovieLens 1M.
    """
    location = SourceLocation(f"{archive.path.name}:ml-1m.txt", 1, "line")
    events = read_delimited(
        archive.read("ml-1m-sasrec/ml-1m.txt"), location.name, {"user": pl.Int32, "item": pl.Int32}, " "
    )
    return RawLog(events, location, _map(archive, "items"), _map(archive, "users"), warnings=archive.warnings)


def _map(archive: Archive, noun: str) -> pl.DataFrame | None:
    member = f"ml-1m-sasrec/sas_to_original_{noun}.txt"
    if archive.name(member) is None:
        return None
    return read_delimited(archive.read(member), f"{archive.path.name}:{member}", PAIR, " ")
