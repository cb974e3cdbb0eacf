"""MovieLens 100K (GroupLens, 1998): 943 users, 1,682 films, real times.

Predefined splits: u1 to u5, ua and ub.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive, ArchiveSpec
from segue.data.delimited import read_delimited
from segue.data.raw_log import PREDEFINED_SPLIT_PREFIX, RawLog, SourceLocation

__all__ = ["ABOUT", "ARCHIVE", "read"]

ABOUT = "MovieLens 100K: 943 users, 1,682 films, 100,000 ratings (1997-98), with the predefined splits u1..u5, ua, ub"
ARCHIVE = ArchiveSpec(
    members=("ml-100k/u.data", "ml-100k/u.item"),
    url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
    checksum="md5:0e33842e24a9c977be4e0107933c0723",
)
SPLITS = ("u1", "u2", "u3", "u4", "u5", "ua", "ub")
RATING = {"user": pl.Int32, "item": pl.Int32, "value": pl.Float32, "time": pl.Int64}
FIXED = ("id", "title", "released", "video", "url")


def read(archive: Archive, settings: Mapping[str, str]) -> RawLog:
    """Read ratings with the predefined splits, movies and users."""
    events = _table(archive, "u.data", RATING)
    for split in SPLITS:
        if archive.name(f"ml-100k/{split}.test"):
            events = _add_split(archive, events, split)
    return RawLog(
        events,
        SourceLocation(f"{archive.path.name}:u.data", 1, "line"),
        _films(archive),
        _users(archive),
        warnings=archive.warnings,
    )


def _table(
    archive: Archive, member: str, schema: Mapping[str, type[pl.DataType]], separator: str = "\t"
) -> pl.DataFrame:
    data = archive.read(f"ml-100k/{member}")
    if separator == "|":
        data = data.decode("latin-1").encode()
    return read_delimited(data, f"{archive.path.name}:{member}", schema, separator)


def _add_split(archive: Archive, events: pl.DataFrame, split: str) -> pl.DataFrame:
    """Add a column with the role of each event in ``split``.

    The role is that of the file that contains the event: 1 train, 2 test, 0 neither.
    """
    parts = [
        _table(archive, f"{split}.{ending}", RATING).select(
            "user", "item", pl.lit(code, pl.UInt8).alias(PREDEFINED_SPLIT_PREFIX + split)
        )
        for ending, code in (("base", 1), ("test", 2))
    ]
    both = pl.concat(parts)
    joined = events.join(both, on=["user", "item"], how="left", maintain_order="left", validate="1:1")
    if joined[PREDEFINED_SPLIT_PREFIX + split].count() != len(both):
        raise ValueError(f"{archive.path.name}: {split}.base and {split}.test contain ratings that are not in u.data")
    return joined.with_columns(pl.col(PREDEFINED_SPLIT_PREFIX + split).fill_null(0))


def _films(archive: Archive) -> pl.DataFrame:
    genres = [line.split("|")[0] for line in archive.read("ml-100k/u.genre").decode("latin-1").split() if "|" in line]
    schema: dict[str, type[pl.DataType]] = dict.fromkeys((*FIXED, *genres), pl.String)
    films = _table(archive, "u.item", schema, "|")
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in genres if genre != "unknown"]
    return films.select(
        "id",
        "title",
        pl.concat_list(flags).list.drop_nulls().alias("genres"),
        pl.coalesce(
            pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int32),
            pl.col("released").str.to_date("%d-%b-%Y").dt.year(),
        ).alias("year"),
        pl.col("released").str.to_date("%d-%b-%Y"),
        "url",
    )


def _users(archive: Archive) -> pl.DataFrame:
    schema = {"id": pl.String, "age": pl.Int32, "gender": pl.String, "occupation": pl.String, "zip_code": pl.String}
    return _table(archive, "u.user", schema, "|")
