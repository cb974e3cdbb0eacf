"""Find aspects: noun phrases of reviews with the sentiment of their clauses.

Noun phrases are nouns in sequence, according to the part-of-speech tagger of TextBlob for English. There is no tagger
for other languages; there, they are sequences of words between stop words and punctuation (Rose et al. 2010, RAKE).
Words that express sentiment, such as ``love``, are no part of an aspect. As in Hu and Liu (2004), only aspects that
occur in several reviews are used.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from segue.features.sentiment.scorers import SentimentScorer, split_sentences
from segue.features.text import pipeline_steps as steps

__all__ = ["AspectFinder", "Mention"]

MAX_WORDS = 3
"""Longer noun phrases are shortened to their last words."""

MIN_WORD_POLARITY = 0.25
"""A word with at least this polarity, of either sign, expresses sentiment."""

CONTRASTS: Mapping[str, str] = {
    "de": "aber|sondern|jedoch|obwohl|doch|während",
    "en": "but|however|although|though|whereas|while|yet|except",
    "es": "pero|sino|aunque|mientras",
    "fr": "mais|cependant|quoique|tandis",
    "it": "ma|però|sebbene|mentre",
    "nl": "maar|echter|hoewel|terwijl",
    "pt": "mas|porém|embora|enquanto",
}
"""Words that separate clauses, by language."""

CONJUNCTIONS = {"de": "und", "en": "and", "es": "y|e", "fr": "et", "it": "e|ed", "nl": "en", "pt": "e"}
"""Words that separate clauses if both express sentiment."""

NOUN_STARTS = ("DT", "PRP$", "CC", "JJ", "NNP")
"""Tags before a gerund that is a noun: ``the acting``, ``its casting and lighting``, ``Terrible acting``."""


class Mention(NamedTuple):
    """An aspect in a review."""

    aspect: str
    sentiment: float
    """Polarity of the clause, from -1 to 1."""


class _Noun(NamedTuple):
    word: str
    """In folded case."""
    is_inflected: bool
    """Whether it is replaced by its dictionary form: plural nouns, and all words without a tag."""


class AspectFinder:
    """Finds aspects in reviews of one language."""

    def __init__(self, language: str, scorer: SentimentScorer) -> None:
        """Load the tagger, or the stop words of a language without one.

        Raises:
            ValueError: there are no stop words for the language, or a package is not installed.
        """
        self.language = language
        self.scorer = scorer
        self._stop_words = steps.load_stop_words(language)
        has_lemmas = steps.LANGUAGES[language].lemmas is not None
        self._lemmatize = steps.create_lemmatizer(language) if has_lemmas else str
        self._is_sentiment_word = lru_cache(1 << 16)(self._expresses_sentiment)
        contrasts = CONTRASTS.get(language)
        words = rf"|\b(?:{contrasts})\b" if contrasts else ""
        self._clauses = re.compile(rf"[,;:](?=\s|$)|[()\u2013\u2014]|\s-\s{words}", re.IGNORECASE)
        conjunctions = CONJUNCTIONS.get(language)
        self._conjunction = re.compile(rf"\s(?:{conjunctions})\s", re.IGNORECASE) if conjunctions else None
        if language == "en":
            _load_tagger()

    def __call__(self, review: str) -> list[Mention]:
        """Return the mentions of aspects in a review, in order.

        A clause without an aspect of its own, as in ``the plot seems dull, but it is great``, is about the aspects of
        the clause before it.
        """
        return [mention for sentence in split_sentences(review, self.language) for mention in self._mentions(sentence)]

    def _mentions(self, sentence: str) -> list[Mention]:
        parts = [part.strip() for part in self._clauses.split(sentence)]
        clauses = [clause for part in parts if part for clause in self._split_conjunction(part)]
        if not clauses:
            return []
        found: list[tuple[list[str], float]] = []
        for clause, score in zip(clauses, np.nan_to_num(self.scorer.score(clauses)), strict=True):
            aspects = self._noun_phrases(clause)
            if not aspects and score and found:
                aspects, _ = found.pop()
            found.append((aspects, float(score)))
        return [Mention(aspect, score) for aspects, score in found for aspect in aspects]

    def _split_conjunction(self, clause: str) -> list[str]:
        """Split at the first conjunction that has sentiment on both sides."""
        if self._conjunction is None:
            return [clause]
        for found in self._conjunction.finditer(clause):
            sides = [clause[: found.start()], clause[found.end() :]]
            if (np.abs(np.nan_to_num(self.scorer.score(sides))) >= MIN_WORD_POLARITY).all():
                return [sides[0], *self._split_conjunction(sides[1])]
        return [clause]

    def _noun_phrases(self, clause: str) -> list[str]:
        runs = _tagged_nouns(clause) if self.language == "en" else self._content_words(clause)
        phrases = []
        for run in runs:
            nouns = [noun for noun in run if not self._is_dropped(noun.word)][-MAX_WORDS:]
            if nouns:
                last = self._lemmatize(nouns[-1].word) if nouns[-1].is_inflected else nouns[-1].word
                phrases.append(" ".join([*(noun.word for noun in nouns[:-1]), last.casefold()]))
        return phrases

    def _is_dropped(self, word: str) -> bool:
        return len(word) < 2 or word in self._stop_words or self._is_sentiment_word(word)

    def _content_words(self, clause: str) -> list[list[_Noun]]:
        """Return sequences of words that are no stop words."""
        runs: list[list[_Noun]] = [[]]
        for token in steps.tokenize(clause, emoji=False):
            for word in steps.split_clitics(token, self.language):
                folded = steps.fold_case(word, self.language)
                if folded in self._stop_words or self._is_sentiment_word(folded):
                    runs.append([])
                else:
                    runs[-1].append(_Noun(folded, True))
        return runs

    def _expresses_sentiment(self, word: str) -> bool:
        return bool(abs(np.nan_to_num(self.scorer.score([word])[0])) >= MIN_WORD_POLARITY)


def _load_tagger() -> None:
    steps.require("textblob.en")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it does not close its lexicon
        _tagged_nouns("word")


def _tagged_nouns(clause: str) -> list[list[_Noun]]:
    """Return sequences of English nouns."""
    from textblob.en import tag

    tagged: Sequence[tuple[str, str]] = [*tag(clause, tokenize=True), ("", ".")]
    runs: list[list[_Noun]] = [[]]
    for position, (word, kind) in enumerate(tagged[:-1]):
        before = tagged[position - 1][1] if position else ""
        after = tagged[position + 1][1]
        is_gerund_noun = kind == "VBG" and before in NOUN_STARTS and not after.startswith(("DT", "PRP", "NN", "JJ"))
        if (kind.startswith("NN") or is_gerund_noun) and any(map(str.isalpha, word)):
            runs[-1].append(_Noun(word.casefold(), kind == "NNS"))
        else:
            runs.append([])
    return runs
