"""MovieLens 1M (GroupLens, 2003): 6,040 users, 3,706 rated films of 3,883 listed."""

from __future__ import annotations

import re
from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.delimited import read_delimited
from segue.data.movielens import read_double_colon, read_movies_double_colon
from segue.data.raw_log import TIME_KNOWN, RawLog

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "MovieLens 1M: 6,040 users, 3,706 rated films, 1,000,209 ratings (2000-03)"
ARCHIVE = ArchiveSpec(
    members=("ml-1m/ratings.dat", "ml-1m/movies.dat"),
    url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    checksum="md5:c4d9eecfca2ab87c1945afe126590906",
)
OCCUPATIONS = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)

REAL = re.compile(r"\bthe Timestamp of rows (\d+)\.\.(\d+)")
REAL_LAST = re.compile(r"\bthe Timestamp of each later user's last interaction")


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read ratings, movies and users.

    ``age`` is the lower end of the age group (1: under 18).
    """
    events, location = read_double_colon(archive, "ml-1m/ratings.dat")
    events = _mark_real_times(archive, events)
    schema = {"id": pl.String, "gender": pl.String, "age": pl.Int32, "occupation": pl.Int32, "zip_code": pl.String}
    users = read_delimited(archive.read("ml-1m/users.dat"), f"{archive.path.name}:ml-1m/users.dat", schema, "::")
    users = users.with_columns(
        pl.col("occupation").replace_strict(dict(enumerate(OCCUPATIONS)), default=None, return_dtype=pl.String)
    ).select("id", "age", "gender", "occupation", "zip_code")
    films = read_movies_double_colon(archive, "ml-1m/movies.dat", "latin-1")
    return RawLog(events, location, films, users, warnings=archive.warnings)


def _mark_real_times(archive: Archive, events: pl.DataFrame) -> pl.DataFrame:
    """Add the column ``time_known`` if some times are not the original ones.

    ``REBUILT.txt`` states whether that is so. The times of the rows that it names are real and, if it says so, so is
    each user's last time. Times that it does not mention are not real.
    """
    if archive.name("REBUILT.txt") is None:
        return events
    text = " ".join(archive.read("REBUILT.txt").decode("utf-8", "replace").split())
    known = pl.lit(False)
    for first, last in REAL.findall(text):
        known |= pl.int_range(1, pl.len() + 1).is_between(int(first), int(last))
    if REAL_LAST.search(text):
        known |= pl.col("time") == pl.col("time").max().over("user")
    return events.with_columns(known.alias(TIME_KNOWN))
