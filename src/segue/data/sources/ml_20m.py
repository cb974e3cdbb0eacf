"""MovieLens 20M (GroupLens, 2015): 138,493 users and 27,278 listed films.

It has half stars and tags.
"""

from __future__ import annotations

from collections.abc import Mapping

from segue.data.archives import Archive, ArchiveSpec
from segue.data.movielens import read_csv_layout
from segue.data.raw_log import RawLog

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "MovieLens 20M: 138,493 users, 26,744 rated films, 20,000,263 ratings (1995-2015), tags"
ARCHIVE = ArchiveSpec(
    members=("ml-20m/ratings.csv", "ml-20m/movies.csv"),
    url="https://files.grouplens.org/datasets/movielens/ml-20m.zip",
    checksum="md5:cd245b17a1ae2cc31bb14903e1204af3",
)


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read ratings, and movies with tags; there are no user features."""
    return read_csv_layout(archive, "ml-20m")
