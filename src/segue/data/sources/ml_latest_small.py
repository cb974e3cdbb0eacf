"""MovieLens latest, small (GroupLens): about 600 users and 9,700 films.

It is updated from time to time.
"""

from __future__ import annotations

from collections.abc import Mapping

from segue.data.archives import Archive, ArchiveSpec
from segue.data.movielens import read_csv_layout
from segue.data.raw_log import RawLog

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "MovieLens latest, small: about 610 users, 9,700 rated films, 100,000 ratings; changes over time, no checksum"
ARCHIVE = ArchiveSpec(
    members=("ml-latest-small/ratings.csv", "ml-latest-small/movies.csv"),
    url="https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
)


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read ratings, and movies with tags; there are no user features."""
    return read_csv_layout(archive, "ml-latest-small")
