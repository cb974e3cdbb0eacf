"""MovieLens latest, small (GroupLens): about 600 users and 9,700 films; changes from time to time."""

from __future__ import annotations

from collections.abc import Mapping

from segue.data.archives import Archive, Archived
from segue.data.movielens import csv_layout
from segue.data.raw_log import Raw

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "MovieLens latest, small: about 610 users, 9,700 rated films, 100,000 ratings; changes over time, no checksum"
ARCHIVE = Archived(
    members=("ml-latest-small/ratings.csv", "ml-latest-small/movies.csv"),
    url="https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
)


def read(archive: Archive, settings: Mapping[str, str]) -> Raw:
    """The ratings and films with their tags; nothing is known of the users."""
    return csv_layout(archive, "ml-latest-small")
