"""Words that texts of items share, such as words of descriptions or plots.

Texts are divided into words by SQLite's FTS5, which folds case and accents. Only words that few items have say
something about an item: the share of items with a word is estimated from a sample.

Shapes: I items.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
import polars as pl

from segue.core.events import Codes

__all__ = ["TextWords"]

SAMPLE = 2_000
"""Texts that the frequencies of words are estimated from."""

MAX_SHARE = 0.1
"""Words of more than this share of the texts are not reported, unless only two texts have them."""

MAX_TEXTS, MAX_LENGTH = 200, 10_000
"""Texts that are compared with that of an item, and characters that are read of each."""

MAX_WORDS, MIN_WORD_LENGTH = 10, 3
"""Words that are reported, and their minimum number of characters."""

CREATE_TABLES = (
    "create virtual table texts using fts5(text, tokenize='unicode61 remove_diacritics 2')",
    "create virtual table words using fts5vocab('texts', 'instance')",
)


class TextWords:
    """The words of one text column. Thread-safe.

    Args:
        texts: ``(I,)`` texts, some may be null.
    """

    def __init__(self, texts: pl.Series) -> None:
        self._texts = texts

    @cached_property
    def _counts(self) -> tuple[Mapping[str, int], int]:
        """Count the texts of a sample with each word, and all texts of the sample."""
        known = self._texts.drop_nulls()
        sample = known.gather(np.linspace(0, len(known) - 1, min(SAMPLE, len(known))).astype(np.int64))
        counts: dict[str, int] = {}
        for words in _split(sample):
            for word in words:
                counts[word] = counts.get(word, 0) + 1
        return counts, len(sample)

    def shared(self, item: int, others: Codes) -> dict[str, int]:
        """Return the words of ``item`` that texts of ``others`` have too.

        The value is the number of these texts. Words come by this number times their inverse document frequency, the
        highest first.
        """
        codes = np.append(item, others[-MAX_TEXTS:]).astype(np.int64)
        own, *rest = _split(self._texts.gather(codes))
        counts, size = self._counts
        limit = max(2.0, MAX_SHARE * size)
        found: dict[str, int] = {}
        for word in sorted(own):
            number = sum(word in words for words in rest)
            if number and len(word) >= MIN_WORD_LENGTH and counts.get(word, 0) <= limit:
                found[word] = number
        weights = {word: number * math.log(1 + size / (1 + counts.get(word, 0))) for word, number in found.items()}
        best = sorted(found, key=lambda word: -weights[word])[:MAX_WORDS]
        return {word: found[word] for word in best}


def _split(texts: Iterable[str | None]) -> list[set[str]]:
    """Return the words of each text."""
    connection = sqlite3.connect(":memory:")
    try:
        for statement in CREATE_TABLES:
            connection.execute(statement)
        rows = [(number, (text or "")[:MAX_LENGTH]) for number, text in enumerate(texts, 1)]
        cleaned = [(number, text.encode("utf-8", "ignore").decode()) for number, text in rows]
        connection.executemany("insert into texts (rowid, text) values (?, ?)", cleaned)
        found: list[set[str]] = [set() for _ in rows]
        for word, number in connection.execute("select distinct term, doc from words"):
            found[number - 1].add(word)
        return found
    finally:
        connection.close()
