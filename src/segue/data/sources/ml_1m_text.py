"""MovieLens 1M with the text of its films.

The text is plots (OMDb) and abstracts (DBpedia), and there are directors, writers and actors.

The ratings, users, titles and genres are those of ``ml-1m``, whose archive is needed too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.delimited import check_utf8, read_delimited
from segue.data.raw_log import RawLog
from segue.data.sources import ml_1m

__all__ = ["ABOUT", "ARCHIVE", "USES", "read", "read_info"]

ABOUT = "MovieLens 1M with plots, abstracts, directors, writers and actors of its films"
INFO = "movies_extrainfos.dat"
ABSTRACTS = "dbpedia_abstracts.json"
MELU = "f70c8ff91471193cd598bc241c6b0f22665f6375"
DBPEDIA = "6d9d1b1bfc37bb9d3d278c823de88a0135daebb7"
"""Commits of the repositories that publish the files."""
ARCHIVE = ArchiveSpec(
    members=(INFO, ABSTRACTS),
    files={
        f"ml-1m-text/{INFO}": (f"https://raw.githubusercontent.com/hoyeoplee/MeLU/{MELU}/movielens/ml-1m/{INFO}", None),
        f"ml-1m-text/{ABSTRACTS}": (
            f"https://raw.githubusercontent.com/asash/ml1m_dbpedia_abstracts/{DBPEDIA}/{ABSTRACTS}",
            None,
        ),
    },
)
USES = ("ml-1m",)
COLUMNS = (
    "id", "name", "year", "rated", "released", "omdb_genres", "directors", "writers", "actors", "plot", "poster"
)  # fmt: skip
CREW = ("directors", "writers", "actors")


def read(archive: Archive, settings: Mapping[str, str], ratings: Archive) -> RawLog:
    """Read the log of ``ml-1m``, and the text of its films.

    Films get ``plot``, ``abstract``, ``directors``, ``writers`` and ``actors`` (lists of names), ``rated`` (the MPAA
    rating), ``released`` (a date) and ``poster`` (an address); all are null where they are not known.
    """
    raw = ml_1m.read(ratings, {})
    assert raw.items is not None
    films = raw.items.join(read_info(archive), on="id", how="left", maintain_order="left")
    films = films.join(_read_abstracts(archive), on="id", how="left", maintain_order="left")
    return replace(raw, items=films, warnings=(*raw.warnings, *archive.warnings))


def read_info(archive: Archive) -> pl.DataFrame:
    """Read ``id`` and the columns of OMDb; ``N/A`` is null."""
    name, data = f"{archive.path.name}:{INFO}", archive.read(INFO)
    check_utf8(data, name)
    table = read_delimited(data, name, dict.fromkeys(COLUMNS, pl.String), "::")
    table = table.with_columns(pl.col(COLUMNS).str.strip_chars().replace(["N/A", ""], None))
    crew = pl.col(CREW).str.replace_all(r"\([^()]*\)", "").str.split(",")
    names = crew.list.eval(pl.element().str.strip_chars()).list.eval(pl.element().filter(pl.element() != ""))
    released = pl.col("released").str.to_date("%d %b %Y", strict=False)
    return table.select("id", "plot", names.list.unique(maintain_order=True), "rated", released, "poster")


def _read_abstracts(archive: Archive) -> pl.DataFrame:
    name, data = f"{archive.path.name}:{ABSTRACTS}", archive.read(ABSTRACTS)
    try:
        found = json.loads(data)
        if not isinstance(found, dict):
            raise TypeError(f"got {type(found).__name__}")
        return pl.DataFrame(
            {"id": list(found), "abstract": list(found.values())}, schema={"id": pl.String, "abstract": pl.String}
        )
    except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{name}: expected a JSON object of texts by film id ({error})") from None
