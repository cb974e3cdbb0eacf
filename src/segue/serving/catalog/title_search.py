"""Search items by words of titles and ids, ignoring case, accents and punctuation.

An in-memory inverted index by SQLite's FTS5, with prefix search. Rows are numbered from the most popular item down and
returned in that order, so that no more rows are read than requested.

Shapes: I items.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl

from segue.core.events import Codes

__all__ = ["MAX_QUERY_LENGTH", "TitleIndex"]

MAX_QUERY_LENGTH = 200
"""Characters of a text that are searched for."""

END_MARK = "\ue000"
"""A private-use character behind the last word: an exact title ends with it."""

REMOVED_CHARACTERS = re.compile(f"['’ʼ`{END_MARK}]")

QUERY_SYNTAX = re.compile(r'["\x00-\x1f]')
"""Characters with a special meaning in an FTS5 query."""

CREATE_TABLE = """create virtual table texts using fts5(
    title, id, content='', columnsize=0, prefix='1 2 3', tokenize='unicode61 remove_diacritics 2')"""


class TitleIndex:
    """Searches titles and ids. Thread-safe; the index is built on first use.

    Args:
        titles: ``(I,)`` texts, some may be null; ``None``: there are none.
        order: ``(I,)`` item codes, the most popular first.
    """

    def __init__(self, ids: pl.Series, titles: pl.Series | None, order: Codes) -> None:
        self._ids, self._titles, self._order = ids, titles, order
        self._lock = threading.Lock()
        self._index: sqlite3.Connection | None = None

    def search(self, text: str, limit: int) -> Codes:
        """Find at most ``limit`` items, best first.

        Exact titles come first, then titles that start with these words, titles that start with this text, and titles
        that contain all words, each at least as a prefix. Ties are ordered by popularity. An empty text returns the
        most popular items.
        """
        cleaned = QUERY_SYNTAX.sub(" ", text[:MAX_QUERY_LENGTH]).encode("utf-8", "ignore").decode()
        words = [word for part in cleaned.split() if (word := _normalize(part))]
        if not words or limit < 1:
            return self._order[: max(0, limit) if not text.strip() else 0]
        name = " ".join(words)
        rows_found: dict[int, None] = {}
        with self._lock:
            if self._index is None:
                self._index = self._build()
            prefixes = " ".join(f'"{word}" *' for word in words)
            fts_queries = (f'^ "{name}{END_MARK}"', f'^ "{name}"', f'^ "{name}" *', prefixes)
            for fts_query in fts_queries:
                rows = self._index.execute(
                    "select rowid from texts where texts match ? order by rowid limit ?", (fts_query, limit)
                )
                rows_found |= dict.fromkeys(row[0] for row in rows)
                if len(rows_found) >= limit:
                    break
        codes: Codes = self._order[np.array(list(rows_found), np.int64)[:limit]]
        return codes

    def _build(self) -> sqlite3.Connection:
        index = sqlite3.connect(":memory:", check_same_thread=False)
        order = self._order.astype(np.int64)
        ids = _mark_ends(self._ids.gather(order))
        titles = iter([""] * len(order)) if self._titles is None else _mark_ends(self._titles.gather(order))
        index.execute(CREATE_TABLE)
        index.executemany(
            "insert into texts (rowid, title, id) values (?, ?, ?)", zip(range(len(order)), titles, ids, strict=True)
        )
        index.execute("insert into texts (texts) values ('optimize')")
        index.commit()
        return index


def _mark_ends(texts: Iterable[str | None]) -> Iterator[str]:
    """Append the end mark to each text."""
    for text in texts:
        normalized = _normalize(text or "")
        yield normalized and normalized + END_MARK


def _normalize(text: str) -> str:
    """Cut ``text`` after its last letter or digit and drop apostrophes.

    ``Schindler's`` thus also matches ``schindlers``.
    """
    text = REMOVED_CHARACTERS.sub("", text)
    end = len(text)
    while end and not text[end - 1].isalnum():
        end -= 1
    return text[:end]
