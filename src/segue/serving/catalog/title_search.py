"""Items by the words of their titles and ids: case, accents and marks do not matter.

An inverted index in memory by FTS5 of SQLite, whose words are found by their beginnings too. Items are numbered in it
from the most popular down, and it answers in the order of its numbers, so that the best come first and no more than are
asked for are looked at.

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

__all__ = ["LONGEST", "Titles"]

LONGEST = 200
"""Characters of a text that are searched for."""

END = "\ue000"
"""A letter of nobody's alphabet behind the last word: what is called exactly so ends with it."""

GONE = re.compile(f"['’ʼ`{END}]")

UNSAID = re.compile(r'["\x00-\x1f]')
"""What has a meaning of its own in a query."""

TABLE = """create virtual table texts using fts5(
    title, id, content='', columnsize=0, prefix='1 2 3', tokenize='unicode61 remove_diacritics 2')"""


class Titles:
    """Titles and ids, to be searched. Any thread may ask; the first one waits until the index is made.

    Args:
        titles: ``(I,)`` texts, some may be null; ``None``: there are none.
        order: ``(I,)`` item codes, the most popular first.
    """

    def __init__(self, ids: pl.Series, titles: pl.Series | None, order: Codes) -> None:
        self._ids, self._titles, self._order = ids, titles, order
        self._lock = threading.Lock()
        self._index: sqlite3.Connection | None = None

    def search(self, text: str, most: int) -> Codes:
        """At most ``most`` items, best first: called so; beginning with these words; beginning so; and those that have
        all the words, each at least as the beginning of one of theirs. Among equals the most popular come first.
        Without a text, the most popular.
        """
        told = UNSAID.sub(" ", text[:LONGEST]).encode("utf-8", "ignore").decode()
        words = [word for part in told.split() if (word := _plain(part))]
        if not words or most < 1:
            return self._order[: max(0, most) if not text.strip() else 0]
        name = " ".join(words)
        found: dict[int, None] = {}
        with self._lock:
            if self._index is None:
                self._index = self._made()
            asked = (f'^ "{name}{END}"', f'^ "{name}"', f'^ "{name}" *', " ".join(f'"{word}" *' for word in words))
            for query in asked:
                rows = self._index.execute(
                    "select rowid from texts where texts match ? order by rowid limit ?", (query, most)
                )
                found |= dict.fromkeys(row[0] for row in rows)
                if len(found) >= most:
                    break
        codes: Codes = self._order[np.array(list(found), np.int64)[:most]]
        return codes

    def _made(self) -> sqlite3.Connection:
        index = sqlite3.connect(":memory:", check_same_thread=False)
        places = self._order.astype(np.int64)
        ids = _ended(self._ids.gather(places))
        titles = iter([""] * len(places)) if self._titles is None else _ended(self._titles.gather(places))
        index.execute(TABLE)
        index.executemany(
            "insert into texts (rowid, title, id) values (?, ?, ?)", zip(range(len(places)), titles, ids, strict=True)
        )
        index.execute("insert into texts (texts) values ('optimize')")
        index.commit()
        return index


def _ended(texts: Iterable[str | None]) -> Iterator[str]:
    """Each text with its last word marked."""
    for text in texts:
        plain = _plain(text or "")
        yield plain and plain + END


def _plain(text: str) -> str:
    """``text`` up to its last letter or digit; an apostrophe is no gap: ``Schindler's`` is ``schindlers`` too."""
    text = GONE.sub("", text)
    end = len(text)
    while end and not text[end - 1].isalnum():
        end -= 1
    return text[:end]
