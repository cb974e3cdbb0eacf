"""The catalogue: titles, genres, series, years, text and popularity.

Shapes: I items, G genres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from segue.data.simulator.settings import SimulatorSettings
from segue.data.simulator.words import ADJECTIVES, GENRES, HEROES, NOUNS, PLACES, PLOTS

__all__ = ["Catalogue"]

PARTS = 5
"""Most parts of a series."""
NUMERALS = ("", " II", " III", " IV", " V")
FADE = 0.8
"""Popularity of a part against the part before."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What there is to choose from, by item code."""

    genres: NDArray[np.bool_]
    """``(I, G)`` which genres an item has; at least one."""
    popularity: NDArray[np.float64]
    """``(I,)`` weights, 1 at most."""
    series: NDArray[np.int32]
    """``(I,)`` the code of the first part; the item itself where it stands alone."""
    part: NDArray[np.int32]
    """``(I,)`` from 0."""
    sequel: NDArray[np.int32]
    """``(I,)`` the code of the next part, or -1."""
    frame: pl.DataFrame
    """``id, title, genres, year, description``, and ``series`` (id of the first part) and ``part`` where in one."""

    @classmethod
    def build(cls, settings: SimulatorSettings, rng: np.random.Generator) -> Catalogue:
        """A catalogue drawn from ``rng``."""
        n = settings.items
        series, part, sequel = _series(n, settings.series, rng)
        shares = 1.0 / np.arange(2, settings.genres + 2)
        shares /= shares.sum()
        genres = np.zeros((n, settings.genres), dtype=np.bool_)
        for _ in range(3):
            more = rng.random(n) < (0.5 if genres.any() else 1.0)
            drawn = rng.choice(settings.genres, size=n, p=shares)
            genres[np.flatnonzero(more), drawn[more]] = True
        genres = genres[series]
        rank = 1.0 + rng.permutation(n)
        popularity = rank[series] ** -settings.popularity * FADE**part
        year = (2020.0 - 90.0 * rng.random(n) ** 2).astype(np.int64)
        year = np.minimum(year[series] + 3 * part, 2020)
        frame = _describe(genres, series, part, sequel, year, rng)
        return cls(genres, popularity / popularity.max(), series, part, sequel, frame)


def _series(
    n: int, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """First part, number of the part and next part of each item; a share of the items is in series."""
    members = rng.permutation(n)[: round(n * share)]
    sizes = rng.integers(2, PARTS + 1, size=len(members))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.searchsorted(starts, np.arange(len(members)), side="right") - 1
    series, part = np.arange(n), np.zeros(n, np.int64)
    series[members] = members[starts[owner]]
    part[members] = np.arange(len(members)) - starts[owner]
    sequel = np.full(n, -1)
    follows = owner[1:] == owner[:-1]
    sequel[members[:-1][follows]] = members[1:][follows]
    return series.astype(np.int32), part.astype(np.int32), sequel.astype(np.int32)


def _pick(words: Sequence[str], places: ArrayLike) -> pl.Series:
    return pl.Series(words, dtype=pl.String).gather(np.asarray(places, dtype=np.int64))


def _describe(
    genres: NDArray[np.bool_],
    series: NDArray[np.int32],
    part: NDArray[np.int32],
    sequel: NDArray[np.int32],
    year: NDArray[np.int64],
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Titles, descriptions and the rest as people read them."""
    n, n_genres = genres.shape
    # places in the list of all titles, as far as the catalogue needs it; 7919 is prime to its length, so none
    # comes twice before all have come
    forms = len(ADJECTIVES) * len(NOUNS)
    number = series.astype(np.int64) * 7919 % (forms * min(2 + 2 * n // forms, len(PLACES) + 2))
    adjective = _pick(ADJECTIVES, number % len(ADJECTIVES))
    noun = _pick(NOUNS, number // len(ADJECTIVES) % len(NOUNS))
    place = _pick(PLACES, number // forms % len(PLACES))
    numeral = _pick(NUMERALS, part)
    main = np.argmax(genres * rng.random((n, n_genres)), axis=1)
    plots = [text for genre in GENRES[:n_genres] for text in PLOTS[genre]]
    per_genre = len(PLOTS[GENRES[0]])
    digits = len(str(n))
    code = pl.int_range(1, n + 1).cast(pl.String).str.zfill(digits)
    row, column = np.nonzero(genres)
    offsets = np.searchsorted(row, np.arange(n + 1))
    words = _pick(GENRES, column)
    return pl.DataFrame(
        {
            "adjective": adjective,
            "noun": noun,
            "place": place,
            "numeral": numeral,
            "form": number // forms,
            "year": year,
            "hero": _pick(HEROES, rng.integers(len(HEROES), size=n)),
            "town": _pick(PLACES, rng.integers(len(PLACES), size=n)),
            "genre": _pick(GENRES, main),
            "plot": _pick(plots, main * per_genre + rng.integers(per_genre, size=n)),
            "first": series.astype(np.int64) + 1,
            "part": part + 1,
            "alone": (series == np.arange(n)) & (sequel < 0),
        }
    ).select(
        ("i" + code).alias("id"),
        (
            pl.when(pl.col("form") == 0)
            .then(pl.format("The {} {}", "adjective", "noun"))
            .when(pl.col("form") == 1)
            .then(pl.format("{} {}", "adjective", "noun"))
            .otherwise(pl.format("The {} {} of {}", "adjective", "noun", "place"))
            + pl.format("{} ({})", "numeral", "year")
        ).alias("title"),
        _lists(words, offsets).alias("genres"),
        pl.col("year").cast(pl.Int32),
        pl.format("{} about {}: {} in {}, {}.", "genre", "hero", "plot", "town", "year").alias("description"),
        pl.when(~pl.col("alone")).then("i" + pl.col("first").cast(pl.String).str.zfill(digits)).alias("series"),
        pl.when(~pl.col("alone")).then(pl.col("part")).alias("part"),
    )


def _lists(words: pl.Series, offsets: NDArray[np.int64]) -> pl.Series:
    """A list of words per item."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    frame = pl.DataFrame({"item": owner, "word": words})
    return frame.group_by("item", maintain_order=True).agg("word")["word"]
