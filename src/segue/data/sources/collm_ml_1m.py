"""Likes and dislikes of MovieLens 1M by month, as used by CoLLM.

Zhang et al. 2023, arXiv:2310.19488.

The log has the ratings of June 2001 to January 2003; the value is 1 for ratings of 4 and 5, and 0 for others. CoLLM,
BinLLM and others train on the events before April 2002, validate on those before September 2002, and test on the rest:

    segue.split(data, "global_temporal", valid_cutoff=VALID_FROM, cutoff=TEST_FROM, use_query_time=True)

The archive has the three parts as CSV files, converted from the pickled tables of the repository zyang1580/CoLLM, and
the MovieLens id of each film. Genres come from the archive of ``ml-1m``, the crew from that of ``ml-1m-text``.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.delimited import read_delimited
from segue.data.movielens import read_movies_double_colon
from segue.data.raw_log import RawLog, SourceLocation
from segue.data.sources.ml_1m_text import read_info

__all__ = ["ABOUT", "ARCHIVE", "TEST_FROM", "USES", "VALID_FROM", "read"]

ABOUT = "Likes and dislikes of CoLLM's ML-1M: 838 users, 3,255 films, 51,623 events (2001-03), real times"
FOLDER = "ctr-collm-ml-1m"
PARTS = ("train.csv", "valid.csv", "test.csv")
ARCHIVE = ArchiveSpec(members=(*(f"{FOLDER}/{part}" for part in PARTS), f"{FOLDER}/items.csv"))
USES = ("ml-1m", "ml-1m-text")
VALID_FROM, TEST_FROM = "2002-04-01", "2002-09-01"
"""First days (UTC) of the validation and of the test."""
EVENT = {"user": pl.Int32, "item": pl.Int32, "label": pl.Float32, "timestamp": pl.Int64}
FILM = {"item": pl.Int32, "title": pl.String, "movielens_id": pl.String}
CREW = ("directors", "writers", "actors", "rated")


def read(archive: Archive, settings: Mapping[str, str], movielens: Archive, text: Archive) -> RawLog:
    """Read the events of all parts and the films.

    Films have ``title``, ``year``, ``decade``, ``genres``, ``directors``, ``writers``, ``actors``, ``rated`` (the MPAA
    rating) and ``movielens_id``; null where they are not known. Plots are left out.
    """
    tables = []
    for part in PARTS:
        data = archive.read(f"{FOLDER}/{part}")
        tables.append(read_delimited(data, f"{archive.path.name}:{part}", EVENT, ",", header=True))
    events = pl.concat(tables).rename({"label": "value", "timestamp": "time"})
    location = SourceLocation(f"{archive.path.name}: {', '.join(PARTS)}", 1, "row")
    names = {"user": "user", "item": "item", "value": "label", "time": "timestamp", "action": "action"}
    return RawLog(events, location, _read_films(archive, movielens, text), names=names, warnings=archive.warnings)


def _read_films(archive: Archive, movielens: Archive, text: Archive) -> pl.DataFrame:
    name = f"{archive.path.name}:items.csv"
    films = read_delimited(archive.read(f"{FOLDER}/items.csv"), name, FILM, ",", header=True)
    movies = read_movies_double_colon(movielens, "ml-1m/movies.dat", "latin-1").select("id", "genres", "year")
    crew = read_info(text).select("id", *CREW)
    for table in (movies, crew):
        films = films.join(table, left_on="movielens_id", right_on="id", how="left", maintain_order="left")
    decade = (pl.col("year") // 10 * 10).cast(pl.String).alias("decade")
    item = pl.col("item").cast(pl.String).alias("id")
    return films.select(item, "title", "genres", "year", decade, *CREW, "movielens_id")
