"""MovieLens 25M (GroupLens, 2019): 162,541 users and 62,423 listed films.

It has half stars and tags.
"""

from __future__ import annotations

from collections.abc import Mapping

from segue.data.archives import Archive, ArchiveSpec
from segue.data.movielens import read_csv_layout
from segue.data.raw_log import RawLog

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "MovieLens 25M: 162,541 users, 59,047 rated films, 25,000,095 ratings (1995-2019), tags"
ARCHIVE = ArchiveSpec(
    members=("ml-25m/ratings.csv", "ml-25m/movies.csv"),
    url="https://files.grouplens.org/datasets/movielens/ml-25m.zip",
    checksum="md5:6b51fb2759a8657d3bfcbfc42b592ada",
)


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read ratings, and movies with tags; there are no user features."""
    return read_csv_layout(archive, "ml-25m")
