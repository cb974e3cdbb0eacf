"""Generate the catalog.

It has titles, genres, series, years, descriptions and popularity.

Shapes: I items, G genres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from segue.data.simulator.settings import SimulatorSettings

__all__ = ["SimulatedCatalog"]

GENRES = (
    "Drama", "Comedy", "Thriller", "Action", "Romance", "Adventure", "Crime", "Sci-Fi", "Horror", "Children's",
    "Animation", "Mystery", "Musical", "Fantasy", "Documentary", "War", "Western", "Film-Noir",
)  # fmt: skip
PLOTS = {
    "Drama": ("a family secret", "a long illness", "an unpaid debt", "a father's last letter"),
    "Comedy": ("a switched suitcase", "a wedding gone wrong", "a very bad disguise", "a talking parrot"),
    "Thriller": ("a stolen file", "a voice on the line", "a locked room", "twelve hours to live"),
    "Action": ("a hijacked train", "a bomb under the bridge", "a chase across the roofs", "one last job"),
    "Romance": ("a summer by the sea", "an old love", "a letter never sent", "a dance at midnight"),
    "Adventure": ("a map with a missing corner", "a sunken ship", "a road over the mountains", "a lost expedition"),
    "Crime": ("a bank robbery", "a corrupt judge", "a war of two gangs", "a witness who vanished"),
    "Sci-Fi": ("a signal from deep space", "a machine that dreams", "a colony on Mars", "a day that repeats"),
    "Horror": ("a house that breathes", "a grave found open", "a mirror with no reflection", "a curse"),
    "Children's": ("a runaway puppy", "a school for wizards", "a tree house", "a birthday without a cake"),
    "Animation": ("a brave little snail", "a city of toys", "a dragon afraid of fire", "a clockwork bird"),
    "Mystery": ("a death at dinner", "a name in the ashes", "a vanished painting", "footprints in the snow"),
    "Musical": ("a band's first tour", "a theater about to close", "a song in two halves", "opening night"),
    "Fantasy": ("a sword in a lake", "a kingdom under glass", "a bargain with a witch", "the last unicorn"),
    "Documentary": ("a year on the ice", "the men who built the dam", "a dying language", "a village school"),
    "War": ("a bridge to be held", "a letter from the front", "a retreat in winter", "a truce at Christmas"),
    "Western": ("a cattle drive", "a sheriff alone", "a silver mine", "a feud over water"),
    "Film-Noir": ("a widow with a gun", "a private eye's last case", "rain on neon", "a double life"),
}
ADJECTIVES = (
    "Silent", "Broken", "Golden", "Last", "Hidden", "Crimson", "Distant", "Burning", "Lonely", "Secret", "Frozen",
    "Restless", "Hollow", "Wild", "Midnight", "Paper", "Electric", "Forgotten", "Bitter", "Velvet", "Second", "Blind",
    "Endless", "Quiet", "Iron", "Scarlet", "Borrowed", "Perfect", "Wandering", "Tender", "Crooked", "Invisible",
    "Ancient", "Reckless", "Faithful", "Silver", "Stolen", "Laughing", "Northern", "Sleeping", "Savage", "Gentle",
    "Shattered", "Painted", "Thirteenth", "Innocent", "Cold", "Bright", "Dark", "Honest",
)  # fmt: skip
NOUNS = (
    "Harbour", "Garden", "Witness", "Promise", "River", "Stranger", "Kingdom", "Letter", "Season", "Mirror", "Empire",
    "Hour", "Station", "Horizon", "Orchard", "Affair", "Voyage", "Shadow", "Summer", "Bridge", "Game", "Soldier",
    "Daughter", "Bargain", "Machine", "Island", "Detective", "Song", "Room", "Highway", "Frontier", "Winter", "Thief",
    "Theatre", "Moon", "Doctor", "Circle", "Signal", "Honeymoon", "Forest", "Tower", "Storm", "Hunter", "Neighbour",
    "Crossing", "Wager", "Ghost", "Dancer", "City", "Heart",
)  # fmt: skip
PLACES = (
    "Lisbon", "Cairo", "Havana", "Oslo", "Kyoto", "Naples", "Dublin", "Tangier", "Prague", "Bombay", "Vienna", "Lima",
    "Boston", "Marseille", "Istanbul", "Warsaw", "Seoul", "Nairobi", "Trieste", "Glasgow", "Odessa", "Quito", "Tunis",
    "Bergen", "Porto", "Riga", "Hanoi", "Memphis", "Galway", "Kiruna", "Salem", "Valparaiso", "Bruges", "Izmir",
    "Tallinn", "Toledo", "Utrecht", "Zanzibar", "Cork", "Hamburg",
)  # fmt: skip
HEROES = (
    "a retired teacher", "two brothers", "a young nurse", "a stubborn clerk", "a travelling salesman", "three sisters",
    "a failed poet", "a night watchman", "an orphan", "a tired policeman", "a famous singer", "a lighthouse keeper",
    "a group of students", "a widowed baker", "a runaway bride", "an old sailor",
)  # fmt: skip

MAX_PARTS = 5
"""Maximum number of parts of a series."""
NUMERALS = ("", " II", " III", " IV", " V")
SEQUEL_POPULARITY = 0.8
"""Popularity of a part relative to the part before it."""


@dataclass(frozen=True, eq=False)
class SimulatedCatalog:
    """Properties of all items, by item code."""

    genres: NDArray[np.bool_]
    """``(I, G)`` genres of each item; at least one."""
    popularity: NDArray[np.float64]
    """``(I,)`` weights, at most 1."""
    series: NDArray[np.int32]
    """``(I,)`` code of the first part of the series; the item itself if it is in no series."""
    part: NDArray[np.int32]
    """``(I,)`` number of the part, from 0."""
    sequel: NDArray[np.int32]
    """``(I,)`` code of the next part, or -1."""
    frame: pl.DataFrame
    """``id, title, genres, year, description``; for items in a series, ``series`` (id of the first part), ``part``."""

    @classmethod
    def build(cls, settings: SimulatorSettings, rng: np.random.Generator) -> SimulatedCatalog:
        """Generate a catalog from ``rng``."""
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
        popularity = rank[series] ** -settings.popularity * SEQUEL_POPULARITY**part
        year = (2020.0 - 90.0 * rng.random(n) ** 2).astype(np.int64)
        year = np.minimum(year[series] + 3 * part, 2020)
        frame = _describe(genres, series, part, sequel, year, rng)
        return cls(genres, popularity / popularity.max(), series, part, sequel, frame)


def _series(
    n: int, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Return first part, part number and next part of each item.

    A ``share`` of the items belongs to series.
    """
    members = rng.permutation(n)[: round(n * share)]
    sizes = rng.integers(2, MAX_PARTS + 1, size=len(members))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.searchsorted(starts, np.arange(len(members)), side="right") - 1
    series, part = np.arange(n), np.zeros(n, np.int64)
    series[members] = members[starts[owner]]
    part[members] = np.arange(len(members)) - starts[owner]
    sequel = np.full(n, -1)
    follows = owner[1:] == owner[:-1]
    sequel[members[:-1][follows]] = members[1:][follows]
    return series.astype(np.int32), part.astype(np.int32), sequel.astype(np.int32)


def _gather(words: Sequence[str], places: ArrayLike) -> pl.Series:
    return pl.Series(words, dtype=pl.String).gather(np.asarray(places, dtype=np.int64))


def _describe(
    genres: NDArray[np.bool_],
    series: NDArray[np.int32],
    part: NDArray[np.int32],
    sequel: NDArray[np.int32],
    year: NDArray[np.int64],
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Generate the table of titles, descriptions and other metadata."""
    n, n_genres = genres.shape
    # indices into the list of all titles, as long as the catalog needs it; 7919 is coprime to its length, so
    # titles repeat only after all have been used
    forms = len(ADJECTIVES) * len(NOUNS)
    number = series.astype(np.int64) * 7919 % (forms * min(2 + 2 * n // forms, len(PLACES) + 2))
    adjective = _gather(ADJECTIVES, number % len(ADJECTIVES))
    noun = _gather(NOUNS, number // len(ADJECTIVES) % len(NOUNS))
    place = _gather(PLACES, number // forms % len(PLACES))
    numeral = _gather(NUMERALS, part)
    main = np.argmax(genres * rng.random((n, n_genres)), axis=1)
    plots = [text for genre in GENRES[:n_genres] for text in PLOTS[genre]]
    per_genre = len(PLOTS[GENRES[0]])
    digits = len(str(n))
    code = pl.int_range(1, n + 1).cast(pl.String).str.zfill(digits)
    row, column = np.nonzero(genres)
    offsets = np.searchsorted(row, np.arange(n + 1))
    words = _gather(GENRES, column)
    return pl.DataFrame(
        {
            "adjective": adjective,
            "noun": noun,
            "place": place,
            "numeral": numeral,
            "form": number // forms,
            "year": year,
            "hero": _gather(HEROES, rng.integers(len(HEROES), size=n)),
            "town": _gather(PLACES, rng.integers(len(PLACES), size=n)),
            "genre": _gather(GENRES, main),
            "plot": _gather(plots, main * per_genre + rng.integers(per_genre, size=n)),
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
    """Return a list of words per item."""
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    frame = pl.DataFrame({"item": owner, "word": words})
    return frame.group_by("item", maintain_order=True).agg("word")["word"]
