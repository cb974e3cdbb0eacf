"""Parse the file layouts of MovieLens.

The files contain ratings, movies with years and genres, and tags.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from segue.data.archives import Archive
from segue.data.delimited import check_utf8, read_delimited
from segue.data.raw_log import RawLog, SourceLocation

__all__ = ["aggregate_tags", "build_movies", "read_csv_layout", "read_double_colon", "read_movies_double_colon"]

RATING = {"user": pl.Int32, "item": pl.Int32, "value": pl.Float32, "time": pl.Int64}
NO_GENRES = "(no genres listed)"


def build_movies(ids: pl.Series, titles: pl.Series, genres: pl.Series) -> pl.DataFrame:
    """Return the table of movies: ``id``, ``title``, ``genres`` (list) and ``year``.

    Titles have the form ``Alien (1979)`` and genres the form ``A|B``.
    """
    return pl.DataFrame({"id": ids.cast(pl.String), "title": titles, "genres": genres}).with_columns(
        pl.when(pl.col("genres").is_in([NO_GENRES, ""]))
        .then(pl.lit([], dtype=pl.List(pl.String)))
        .otherwise(pl.col("genres").str.split("|"))
        .alias("genres"),
        pl.col("title").str.strip_chars().str.extract(r"\((\d{4})[^)]*\)$").cast(pl.Int32).alias("year"),
    )


def read_double_colon(archive: Archive, member: str) -> tuple[pl.DataFrame, SourceLocation]:
    """Read rows ``user::item::value::time``."""
    location = SourceLocation(f"{archive.path.name}:{member}", 1, "line")
    return read_delimited(archive.read(member), location.name, RATING, "::"), location


def read_movies_double_colon(archive: Archive, member: str, encoding: str) -> pl.DataFrame:
    """Read rows ``id::title::genres``; titles may contain colons."""
    text = archive.read(member).decode(encoding)
    lines = pl.DataFrame({"line": [line for line in text.split("\n") if line.strip()]})
    parts = lines.select(pl.col("line").str.strip_chars_end("\r").str.extract_groups(r"^(\d+)::(.*)::([^:]*)$"))
    parts = parts.unnest("line")
    parts.columns = ["id", "title", "genres"]
    if parts["id"].null_count():
        row = parts["id"].is_null().arg_max() or 0
        raise ValueError(
            f"{archive.path.name}:{member}, line {row + 1}: got {lines['line'][row]!r}, expected id::title::genres"
        )
    return build_movies(parts["id"], parts["title"], parts["genres"])


def aggregate_tags(tags: pl.DataFrame) -> pl.DataFrame:
    """Return ``id`` and ``tags``.

    Tags are the distinct tags of each item in lower case, most frequent first.
    """
    return (
        tags.drop_nulls()
        .select(pl.col("item").cast(pl.String).alias("id"), pl.col("tag").str.strip_chars().str.to_lowercase())
        .group_by("id", "tag")
        .len()
        .sort(["id", "len", "tag"], descending=[False, True, False])
        .group_by("id", maintain_order=True)
        .agg(pl.col("tag").alias("tags"))
    )


def read_csv_layout(archive: Archive, folder: str) -> RawLog:
    """Read the CSV layout of 20M, 25M and latest.

    It contains ratings and movies, and in some datasets tags and links.
    """

    def read(member: str, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
        name = f"{archive.path.name}:{folder}/{member}"
        data = archive.read(f"{folder}/{member}")
        if "title" in schema or "tag" in schema:
            check_utf8(data, name)
        return read_delimited(data, name, schema, ",", header=True)

    ratings = read(
        "ratings.csv", {"userId": pl.Int32, "movieId": pl.Int32, "rating": pl.Float32, "timestamp": pl.Int64}
    ).rename({"userId": "user", "movieId": "item", "rating": "value", "timestamp": "time"})
    movies = read("movies.csv", {"movieId": pl.Int32, "title": pl.String, "genres": pl.String})
    items = build_movies(movies["movieId"], movies["title"], movies["genres"].fill_null(""))
    if archive.name(f"{folder}/tags.csv"):
        tags = read("tags.csv", {"movieId": pl.Int32, "tag": pl.String}).rename({"movieId": "item"})
        items = items.join(aggregate_tags(tags), on="id", how="left", maintain_order="left")
    if archive.name(f"{folder}/links.csv"):
        links = read("links.csv", {"movieId": pl.Int32, "imdbId": pl.String, "tmdbId": pl.String})
        links = links.select(pl.col("movieId").cast(pl.String).alias("id"), imdb="imdbId", tmdb="tmdbId")
        items = items.join(links, on="id", how="left", maintain_order="left")
    return RawLog(
        ratings,
        SourceLocation(f"{archive.path.name}:{folder}/ratings.csv", 2, "line"),
        items,
        names={"user": "userId", "item": "movieId", "value": "rating", "time": "timestamp", "action": "action"},
        warnings=archive.warnings,
    )
