"""Score the sentiment of texts from -1 (negative) to 1 (positive).

Shapes: N texts, W words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit

from segue.features.sentiment.settings import SentimentSettings
from segue.features.text import pipeline_steps as steps
from segue.features.text.encoders.tfidf import TfidfWeights
from segue.features.text.pipeline import TextPipeline, TextPipelineSettings

__all__ = ["LinearScorer", "SentimentScorer", "VaderScorer", "cross_score", "fit_linear", "split_sentences"]

Polarity = NDArray[np.float32]
"""``(N,)`` from -1 to 1; NaN where a text says nothing."""

MAX_SENTENCE_WORDS = 100
"""Longer sentences are split: VADER takes quadratic time, and its score of a long text is always near -1 or 1."""

MIN_REVIEWS = 5
"""Number of texts of each polarity that a linear model needs."""


class SentimentScorer(ABC):
    """Maps texts to polarities."""

    @abstractmethod
    def score(self, texts: Sequence[str]) -> Polarity:
        """Return the polarity of each text, ``(N,)`` from -1 to 1.

        It is NaN for a text without known words.
        """


class _Analyzer(Protocol):
    def polarity_scores(self, text: str) -> dict[str, float]: ...


class VaderScorer(SentimentScorer):
    """VADER: a lexicon and rules for English (Hutto and Gilbert 2014).

    The rules cover negation, degree adverbs, capital letters, exclamation marks, emoticons, emoji and ``but``.
    The polarity of a text is the mean over its sentences that express sentiment, and 0 if none does.
    """

    def __init__(self) -> None:
        """Load the lexicon.

        Raises:
            ValueError: the package is not installed.
        """
        vader = steps.require("vaderSentiment.vaderSentiment")
        self._analyzer: _Analyzer = vader.SentimentIntensityAnalyzer()

    def score(self, texts: Sequence[str]) -> Polarity:
        """Return the polarity of each text; NaN for an empty text."""
        return np.array([self._score(text) for text in texts], np.float32)

    def _score(self, text: str) -> float:
        sentences = split_sentences(text, "en")
        scores = [self._analyzer.polarity_scores(sentence)["compound"] for sentence in sentences]
        if not sentences:
            return np.nan
        expressed = [score for score in scores if score]
        return float(np.mean(expressed)) if expressed else 0.0


class LinearScorer(SentimentScorer):
    """Logistic regression on TF-IDF of words and pairs of adjacent words.

    Pairs distinguish ``good`` from ``not good``. Both polarities have the same total weight, so that 0 is neutral
    whatever their frequencies.
    """

    def __init__(self, language: str) -> None:
        """Create a model without knowledge; :func:`fit_linear` learns one."""
        stem = "stem" if steps.LANGUAGES[language].stemmer else "surface"
        # stop words contain negations
        settings = TextPipelineSettings(languages=(language,), word_form=stem, stop_words=False)
        self._pipeline = TextPipeline(settings)
        self._weights = TfidfWeights((), np.zeros(0, np.float32), sublinear=True)
        self._coefficients_W: NDArray[np.float64] = np.zeros(0)
        self._intercept = 0.0

    def fit(self, texts: Sequence[str], is_positive: NDArray[np.bool_], l2: float) -> None:
        """Learn from texts of known polarity.

        Minimizes the log loss plus ``l2 / 2`` times the squared coefficients.
        """
        documents = self._documents(texts)
        self._weights = TfidfWeights.learn(documents, min(2, len(texts)), 1.0, 200_000, sublinear=True)
        rows_NW = self._weights.transform(documents).astype(np.float64)
        self._coefficients_W, self._intercept = _fit_logistic(rows_NW, is_positive, l2)

    def score(self, texts: Sequence[str]) -> Polarity:
        """Return the polarity of each text; NaN for a text without known words."""
        rows_NW = self._weights.transform(self._documents(texts))
        scores_N = np.tanh((rows_NW @ self._coefficients_W + self._intercept) / 2)
        scores_N[np.diff(rows_NW.indptr) == 0] = np.nan
        return scores_N.astype(np.float32)

    def _documents(self, texts: Sequence[str]) -> list[list[str]]:
        """Return words and pairs of adjacent words."""
        return [words + [" ".join(pair) for pair in pairwise(words)] for words in self._pipeline(texts)]


def fit_linear(texts: Sequence[str], ratings_N: NDArray[np.float64], settings: SentimentSettings) -> LinearScorer:
    """Learn a linear model from texts with ratings.

    Ratings above the neutral one are positive, those below are negative, and neutral ones are not learned from.

    Args:
        ratings_N: rating of each text.

    Raises:
        ValueError: there are too few positive or negative texts.
    """
    signs_N = _polarity_signs(ratings_N, settings)
    return _fit_rows(texts, signs_N, np.flatnonzero(signs_N), settings)


def cross_score(
    texts: Sequence[str], ratings_N: NDArray[np.float64], settings: SentimentSettings, rng: np.random.Generator
) -> Polarity:
    """Score each text by a linear model that has not learned from it.

    Args:
        ratings_N: rating of each text.
        rng: assigns the texts to parts.

    Raises:
        ValueError: there are too few positive or negative texts.
    """
    signs_N = _polarity_signs(ratings_N, settings)
    order = rng.permutation(len(texts))
    order = order[np.argsort(signs_N[order], kind="stable")]  # the same share of each polarity in each part
    fold_N = np.empty(len(texts), np.int64)
    fold_N[order] = np.arange(len(texts)) % settings.folds
    scores_N = np.full(len(texts), np.nan, np.float32)
    for fold in range(settings.folds):
        model = _fit_rows(texts, signs_N, np.flatnonzero((signs_N != 0) & (fold_N != fold)), settings)
        scored = np.flatnonzero(fold_N == fold)
        scores_N[scored] = model.score([texts[int(row)] for row in scored])
    return scores_N


def _fit_rows(
    texts: Sequence[str], signs_N: NDArray[np.float64], rows: NDArray[np.int64], settings: SentimentSettings
) -> LinearScorer:
    model = LinearScorer(settings.language)
    model.fit([texts[int(row)] for row in rows], signs_N[rows] > 0, settings.l2)
    return model


def _polarity_signs(ratings_N: NDArray[np.float64], settings: SentimentSettings) -> NDArray[np.float64]:
    """Return 1 for positive, -1 for negative and 0 for neutral ratings."""
    neutral = settings.neutral
    if neutral is None:
        neutral = float(ratings_N.min() + ratings_N.max()) / 2 if len(ratings_N) else 0.0
    signs_N = np.sign(ratings_N - neutral)
    positive, negative = int((signs_N > 0).sum()), int((signs_N < 0).sum())
    needed = max(MIN_REVIEWS, settings.folds)
    if min(positive, negative) < needed:
        raise ValueError(
            f"sentiment: {positive:,} texts have a rating above neutral={neutral:g} and {negative:,} below it, "
            f"expected at least {needed} of each; give more reviews with ratings, or set neutral"
        )
    return signs_N


def split_sentences(text: str, language: str) -> list[str]:
    """Split text without HTML into sentences of at most 100 words."""
    text = steps.normalize_unicode(steps.remove_html(text))
    found = []
    for sentence in steps.require("simplemma").split_sentences(text, lang=steps.LANGUAGES[language].lemmas):
        words = sentence.split()
        starts = range(0, len(words), MAX_SENTENCE_WORDS)
        found += [" ".join(words[start : start + MAX_SENTENCE_WORDS]) for start in starts]
    return found


def _fit_logistic(rows_NW: csr_array, is_positive_N: NDArray[np.bool_], l2: float) -> tuple[NDArray[np.float64], float]:
    """Minimize the weighted logistic loss; returns coefficients and intercept."""
    signs_N = np.where(is_positive_N, 1.0, -1.0)
    share = is_positive_N.mean()
    weights_N = np.where(is_positive_N, 0.5 / share, 0.5 / (1 - share))

    def loss(parameters: NDArray[np.float64]) -> tuple[float, Any]:
        coefficients_W, intercept = parameters[:-1], parameters[-1]
        margins_N = signs_N * (rows_NW @ coefficients_W + intercept)
        errors_N = -weights_N * signs_N * expit(-margins_N)
        value = weights_N @ np.logaddexp(0, -margins_N) + l2 / 2 * coefficients_W @ coefficients_W
        return float(value), np.append(rows_NW.T @ errors_N + l2 * coefficients_W, errors_N.sum())

    found = minimize(loss, np.zeros(rows_NW.shape[1] + 1), jac=True, method="L-BFGS-B")
    return found.x[:-1], float(found.x[-1])
