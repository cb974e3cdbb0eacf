"""MovieLens 10M (GroupLens, 2009): 71,567 user ids and 10,681 films.

It has half stars and tags.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.movielens import aggregate_tags, read_double_colon, read_movies_double_colon
from segue.data.raw_log import RawLog

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "MovieLens 10M: 69,878 users, 10,677 rated films, 10,000,054 ratings (1995-2009), tags"
ARCHIVE = ArchiveSpec(
    members=("ml-10M100K/ratings.dat", "ml-10M100K/movies.dat"),
    url="https://files.grouplens.org/datasets/movielens/ml-10m.zip",
    checksum="md5:ce571fd55effeba0271552578f2648bd",
)


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read ratings, and movies with tags; there are no user features."""
    events, location = read_double_colon(archive, "ml-10M100K/ratings.dat")
    films = read_movies_double_colon(archive, "ml-10M100K/movies.dat", "utf-8")
    if archive.name("ml-10M100K/tags.dat"):
        lines = pl.Series("line", archive.read("ml-10M100K/tags.dat").decode("utf-8").splitlines())
        parts = lines.str.extract_groups(r"^\d+::(?<item>\d+)::(?<tag>.*)::\d+$").struct.unnest()
        films = films.join(aggregate_tags(parts), on="id", how="left", maintain_order="left")
    return RawLog(events, location, films, warnings=archive.warnings)
