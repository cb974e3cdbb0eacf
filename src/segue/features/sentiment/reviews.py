"""Add sentiment to tables of reviews, and summarize it per item.

A table of reviews has one row per event, with the text and, where known, the user, the item, the rating and the time.
The column with the sentiment can be the value of the events, and the summary of the items is a table of item features.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.messages import warn
from segue.core.run import Run
from segue.features.sentiment.aspects import AspectFinder, Mention
from segue.features.sentiment.scorers import (
    LinearScorer,
    Polarity,
    SentimentScorer,
    VaderScorer,
    cross_score,
    fit_linear,
)
from segue.features.sentiment.settings import SentimentSettings

__all__ = ["add_sentiment", "find_aspects", "summarize_items"]

BATCH = 256
"""Reviews between two updates of the progress bar."""


def add_sentiment(
    reviews: pl.DataFrame,
    text: str = "review",
    rating: str | None = None,
    settings: SentimentSettings | None = None,
    learn_from: pl.Expr | None = None,
    run: Run | None = None,
) -> pl.DataFrame:
    """Add the column ``sentiment``, from -1 (negative) to 1 (positive).

    It is null for texts without known words.

    Args:
        reviews: one row per review.
        text: column of texts; null where there is none.
        rating: column of ratings, some of which may be null. With it, a linear model learns from the reviews that have
            one; without it, VADER is used, for English only.
        learn_from: rows whose ratings the linear model may learn from, such as those before the time of a split; by
            default all.
        run: provides the random stream and progress.

    Raises:
        ValueError: a column is missing or of the wrong type, there is none to learn from, or there are too few
            positive or negative reviews.
    """
    settings, run = settings or SentimentSettings(), run or Run()
    texts = _texts(reviews, text)
    scorer = _create_scorer(reviews, texts, rating, learn_from, settings)
    if isinstance(scorer, LinearScorer) and rating is not None:
        is_learned_N, ratings_N = _find_rated(reviews, texts, rating, learn_from)
        learned, rng = _select(texts, is_learned_N), run.rng("sentiment folds")
        scores_N = np.full(len(texts), np.nan, np.float32)
        scores_N[is_learned_N] = cross_score(learned, ratings_N[is_learned_N], settings, rng)
        scores_N[~is_learned_N] = _score_in_batches(scorer, _select(texts, ~is_learned_N), run)
    else:
        scores_N = _score_in_batches(scorer, texts, run)
    column = pl.Series("sentiment", scores_N).fill_nan(None)
    if missing := column.null_count():
        warn(f"sentiment: {missing:,} of {len(column):,} reviews have no text with known words; their value is null")
    return reviews.with_columns(column)


def find_aspects(
    reviews: pl.DataFrame,
    text: str = "review",
    item: str = "item_id",
    rating: str | None = None,
    settings: SentimentSettings | None = None,
    learn_from: pl.Expr | None = None,
    min_reviews: int = 3,
    run: Run | None = None,
) -> pl.DataFrame:
    """Return the aspects of each item: what its reviews mention, and how.

    Args:
        min_reviews: smallest number of reviews, of any item, that mention an aspect.

    Returns:
        The columns ``item_id``, ``aspect``, ``reviews`` (number of the item's reviews) and ``sentiment`` (mean over
        these reviews, from -1 to 1), sorted by item and then by number of reviews.

    Raises:
        ValueError: as :func:`add_sentiment`.
    """
    settings, run = settings or SentimentSettings(), run or Run()
    _check_column(reviews, item, None, "item")
    texts = _texts(reviews, text)
    finder = AspectFinder(settings.language, _create_scorer(reviews, texts, rating, learn_from, settings))
    rows: list[tuple[int, str, float]] = []
    with run.progress(len(texts), "find aspects", "reviews") as advance:
        for start in range(0, len(texts), BATCH):
            for row, review in enumerate(texts[start : start + BATCH], start):
                rows += [(row, aspect, score) for aspect, score in _mean_by_aspect(finder(review))]
            advance(min(BATCH, len(texts) - start))
    counts = Counter(aspect for _, aspect, _ in rows)
    frequent = [(row, aspect, score) for row, aspect, score in rows if counts[aspect] >= min_reviews]
    columns = {"row": pl.Int64, "aspect": pl.String, "sentiment": pl.Float64}
    mentions = pl.DataFrame(frequent, schema=columns, orient="row")
    return (
        mentions.with_columns(reviews[item].gather(mentions["row"]).alias("item_id"))
        .group_by("item_id", "aspect")
        .agg(pl.len().alias("reviews"), pl.col("sentiment").mean())
        .sort(["item_id", "reviews", "aspect"], descending=[False, True, False])
    )


def summarize_items(
    reviews: pl.DataFrame,
    item: str = "item_id",
    aspects: pl.DataFrame | None = None,
    prior_reviews: float = 5.0,
) -> pl.DataFrame:
    """Return a table of item features from reviews with sentiment.

    Args:
        reviews: what :func:`add_sentiment` returned. To predict later events, give the reviews before them only.
        aspects: what :func:`find_aspects` returned; ``None``: without aspects.
        prior_reviews: number of reviews with the mean sentiment of all that is added to those of each item, so that
            one review does not decide.

    Returns:
        The columns ``item_id``, ``sentiment`` (mean), ``review_count`` and, with ``aspects``, the lists
        ``liked_aspects`` and ``disliked_aspects``, most frequent first. It can be given as ``items=`` when data are
        loaded.

    Raises:
        ValueError: a column is missing, or ``prior_reviews`` is negative.
    """
    _check_column(reviews, item, None, "item")
    _check_column(reviews, "sentiment", pl.Float32, "reviews")
    if not prior_reviews >= 0:
        raise ValueError(f"prior_reviews: got {prior_reviews}, expected 0 or more")
    mean = reviews["sentiment"].mean()
    total = pl.col("sentiment").sum() + prior_reviews * (mean if isinstance(mean, float) else 0.0)
    count = pl.col("sentiment").count()
    table = (
        reviews.group_by(item, maintain_order=True)
        .agg(
            pl.when(count > 0).then(total / (count + prior_reviews)).cast(pl.Float32).alias("sentiment"),
            count.alias("review_count"),
        )
        .rename({item: "item_id"})
    )
    for name, is_listed in (("liked_aspects", pl.col("sentiment") > 0), ("disliked_aspects", pl.col("sentiment") < 0)):
        if aspects is not None:
            lists = aspects.filter(is_listed).group_by("item_id", maintain_order=True).agg(pl.col("aspect").alias(name))
            table = table.join(lists, on="item_id", how="left", maintain_order="left")
    return table


def _texts(reviews: pl.DataFrame, text: str) -> list[str]:
    texts: list[str] = _check_column(reviews, text, pl.String, "text").fill_null("").to_list()
    return texts


def _find_rated(
    reviews: pl.DataFrame, texts: list[str], rating: str, learn_from: pl.Expr | None
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which reviews a model may learn from, and all ratings."""
    ratings_N = _check_column(reviews, rating, pl.Float64, "rating").to_numpy().astype(np.float64)
    is_learned_N = np.isfinite(ratings_N) & np.array([bool(text) for text in texts], np.bool_)
    if learn_from is not None:
        is_learned_N &= reviews.select(learn_from.fill_null(False).cast(pl.Boolean)).to_series().to_numpy()
    return is_learned_N, ratings_N


def _create_scorer(
    reviews: pl.DataFrame,
    texts: list[str],
    rating: str | None,
    learn_from: pl.Expr | None,
    settings: SentimentSettings,
) -> SentimentScorer:
    if settings.choose_method(rating is not None) == "vader" or rating is None:
        return VaderScorer()
    is_learned_N, ratings_N = _find_rated(reviews, texts, rating, learn_from)
    return fit_linear(_select(texts, is_learned_N), ratings_N[is_learned_N], settings)


def _select(texts: list[str], is_selected_N: NDArray[np.bool_]) -> list[str]:
    return [texts[int(row)] for row in np.flatnonzero(is_selected_N)]


def _score_in_batches(scorer: SentimentScorer, texts: list[str], run: Run) -> Polarity:
    parts = [np.zeros(0, np.float32)]
    with run.progress(len(texts), "score sentiment", "reviews") as advance:
        for start in range(0, len(texts), BATCH):
            parts.append(scorer.score(texts[start : start + BATCH]))
            advance(len(parts[-1]))
    return np.concatenate(parts)


def _mean_by_aspect(mentions: list[Mention]) -> list[tuple[str, float]]:
    """Return the mean sentiment of each aspect of one review."""
    scores: dict[str, list[float]] = {}
    for mention in mentions:
        scores.setdefault(mention.aspect, []).append(mention.sentiment)
    return [(aspect, float(np.mean(found))) for aspect, found in scores.items()]


def _check_column(table: pl.DataFrame, name: str, dtype: Any, argument: str) -> pl.Series:
    """Return a column of the given type; numbers may have any numeric type."""
    if name not in table.columns:
        raise ValueError(f"{argument}: the reviews have no column '{name}'{suggest(name, table.columns)}")
    column = table[name]
    is_valid = column.dtype.is_numeric() if dtype in (pl.Float32, pl.Float64) else column.dtype in (pl.String, pl.Null)
    if dtype is not None and not is_valid:
        expected = "texts" if dtype == pl.String else "numbers"
        raise ValueError(f"{argument}: column '{name}' holds {column.dtype}, expected {expected}")
    return column if dtype is None else column.cast(dtype)
