"""Simulated reviews of known polarity, in English and German.

A review is made of sentences about aspects, each positive or negative, and of a sentence without sentiment. The words
were chosen without looking at a sentiment lexicon. Ratings come from a world of users and items with factors; the
review of an event follows its rating.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["KINDS", "LANGUAGES", "simulate_log", "simulate_reviews"]


@dataclass(frozen=True)
class Phrases:
    """Words, separated by spaces, and sentence patterns of a language."""

    aspects: str
    positive: str
    negative: str
    patterns: dict[str, tuple[str, ...]]
    """By kind; ``{same}`` has the polarity of the sentence, ``{other}`` the opposite one, ``{a}`` is an aspect."""
    neutral: tuple[str, ...]


KINDS = ("plain", "negated", "contrast")
"""Kinds of sentences with sentiment."""

LANGUAGES = {
    "en": Phrases(
        "acting plot soundtrack dialogue photography ending cast pacing script humor",
        "great brilliant gripping superb touching mesmerizing charming memorable excellent clever",
        "boring terrible dull tedious predictable awful shallow clumsy weak forgettable",
        {
            "plain": ("The {a} is {same}.", "What {same} {a}!", "I found the {a} really {same}."),
            "negated": ("The {a} is not {other}.", "The {a} isn't {other} at all.", "I never found the {a} {other}."),
            "contrast": (
                "I expected the {a} to be {other}, but it is {same}.",
                "The {a} may seem {other}, but it is very {same}.",
            ),
        },
        (
            "It runs for two hours.",
            "I watched it on a Sunday.",
            "It is set in Chicago.",
            "My brother was there as well.",
        ),
    ),
    "de": Phrases(
        "Handlung Musik Kamera Regie Besetzung Sprache Ausstattung Botschaft",
        "großartig brillant packend hervorragend berührend bezaubernd unvergesslich klug witzig schön",
        "langweilig furchtbar öde zäh vorhersehbar schlimm flach plump schwach belanglos",
        {
            "plain": ("Die {a} ist {same}.", "Ich fand die {a} wirklich {same}.", "So eine {a}, einfach {same}!"),
            "negated": ("Die {a} ist nicht {other}.", "Die {a} ist überhaupt nicht {other}."),
            "contrast": ("Ich dachte, die {a} wäre {other}, aber sie ist {same}.",),
        },
        ("Er dauert zwei Stunden.", "Ich sah ihn am Sonntag.", "Er spielt in Hamburg.", "Mein Bruder war auch dabei."),
    ),
}


def simulate_reviews(
    is_positive_NS: NDArray[np.bool_], language: str, rng: np.random.Generator, kinds: tuple[str, ...] = KINDS
) -> tuple[list[str], list[dict[str, bool]]]:
    """Write one review per row, with one sentence per column of the polarity given, and one without sentiment.

    Returns:
        The reviews, and the polarity of each aspect that a review mentions.
    """
    words = LANGUAGES[language]
    positive, negative = words.positive.split(), words.negative.split()
    texts, mentions = [], []
    for row in is_positive_NS:
        aspects = rng.permutation(words.aspects.split())[: len(row)]
        sentences = [str(rng.choice(words.neutral))]
        for aspect, is_positive in zip(aspects, row, strict=True):
            same, other = (positive, negative) if is_positive else (negative, positive)
            pattern = rng.choice(words.patterns[str(rng.choice(kinds))])
            sentences.append(str(pattern).format(a=aspect, same=rng.choice(same), other=rng.choice(other)))
        texts.append(" ".join(rng.permutation(sentences)))
        mentions.append({str(aspect).lower(): bool(sign) for aspect, sign in zip(aspects, row, strict=True)})
    return texts, mentions


def simulate_log(users: int, items: int, events: int, seed: int) -> pl.DataFrame:
    """Simulate a log in which users rate and review random popular items.

    What a user consumes says nothing about their taste, so that only ratings and reviews do.

    Returns:
        ``user_id``, ``item_id``, ``rating`` (1 to 5) and ``review``; ``events`` rows per user.
    """
    rng = np.random.default_rng(seed)
    popularity_I = rng.dirichlet(np.full(items, 0.5))
    quality_I, factors_UK, factors_IK = rng.normal(size=items), rng.normal(size=(users, 3)), rng.normal(size=(items, 3))
    columns = np.concatenate([rng.choice(items, events, replace=False, p=_smooth(popularity_I)) for _ in range(users)])
    rows = np.repeat(np.arange(users), events)
    taste_T = 0.5 * quality_I[columns] + 0.5 * (factors_UK[rows] * factors_IK[columns]).sum(1)
    ratings_T = np.clip(np.round(3 + taste_T + 0.5 * rng.normal(size=len(rows))), 1, 5)
    share_T = (ratings_T - 0.5) / 5  # the probability that a sentence is positive: 0.1 to 0.9
    texts, _ = simulate_reviews(rng.random((len(rows), 3)) < share_T[:, None], "en", rng)
    return pl.DataFrame(
        {
            "user_id": [f"u{row}" for row in rows],
            "item_id": [f"i{column}" for column in columns],
            "rating": ratings_T,
            "review": texts,
        }
    )


def _smooth(shares_I: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mix popularity with the uniform distribution, so that enough items have a positive share."""
    return 0.5 * shares_I + 0.5 / len(shares_I)
