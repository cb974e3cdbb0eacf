"""Items by the words of their titles and ids: case, accents and marks do not matter.

An inverted index (Zobel & Moffat 2006, doi:10.1145/1132956.1132959) whose words are sorted, so that all that begin
with a text stand together, and whose items are numbered from the most popular down, so that the best come first.

Shapes: I items, W distinct words, T words of all items in total.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.events import Codes

__all__ = ["Titles"]

LAST = "\U0010ffff"
"""Behind every text that begins alike."""

Ranks = NDArray[np.int32]


class Titles:
    """Titles and ids, to be searched. Any thread may ask.

    Args:
        titles: ``(I,)`` texts, some may be null; ``None``: there are none.
        order: ``(I,)`` item codes, the most popular first.
    """

    def __init__(self, ids: pl.Series, titles: pl.Series | None, order: Codes) -> None:
        self._order = order
        told = [ids, *([] if titles is None else [titles])]
        rank_I = np.empty(len(order), np.int32)
        rank_I[order] = np.arange(len(order), dtype=np.int32)
        tables = [pl.DataFrame({"rank": rank_I, "words": _words(column)}) for column in told]
        table = pl.concat(tables).drop_nulls().filter(pl.col("words").list.len() > 0)
        names = table.select("rank", name=pl.col("words").list.join(" ")).unique().sort("name", "rank")
        self._names, self._named = names["name"], names["rank"].to_numpy()
        words = table.explode("words").unique().sort("words", "rank")
        self._ranks: Ranks = words["rank"].to_numpy()
        starts = words.select(pl.int_range(pl.len()).filter(pl.col("words").is_first_distinct())).to_series()
        self._words = words["words"].gather(starts)
        self._starts = np.append(starts.to_numpy(), len(words))

    def search(self, text: str, most: int) -> Codes:
        """At most ``most`` items, best first: called so, beginning so, then those that have all the words, each at
        least as the beginning of one of theirs; among equals the most popular first. Without a text, the most popular.
        """
        asked = _words(pl.Series([text.encode("utf-8", "ignore").decode()]))[0].to_list()
        if not asked:
            return self._order[:most] if not text.strip() else self._order[:0]
        name = " ".join(asked)
        found = [self._called(name, name + " "), self._called(name, name + LAST)]
        if sum(len(ranks) for ranks in found) < most:
            found.append(self._having(asked))
        ranks = np.concatenate([_first(ranks, most) for ranks in found])
        places = np.sort(np.unique(ranks, return_index=True)[1])
        codes: Codes = self._order[ranks[places][:most]]
        return codes

    def _called(self, first: str, behind: str) -> Ranks:
        ranks: Ranks = self._named[bisect_left(self._names, first) : bisect_left(self._names, behind)]
        return ranks

    def _having(self, asked: list[str]) -> Ranks:
        """All that have words that begin so, unordered, some perhaps twice."""
        parts = []
        for word in set(asked):
            first, behind = bisect_left(self._words, word), bisect_left(self._words, word + LAST)
            parts.append(self._ranks[self._starts[first] : self._starts[behind]])
        parts.sort(key=len)
        found = parts[0]
        for part in parts[1:]:
            there = np.zeros(len(self._order), np.bool_)
            there[part] = True
            found = found[there[found]]
        return found


def _first(ranks: Ranks, most: int) -> Ranks:
    """The smallest ``most`` of them, in order, each once."""
    if len(ranks) > 8 * most:  # some may be there several times
        few = np.unique(np.partition(ranks, 8 * most)[: 8 * most])
        if len(few) >= most:
            return few[:most]
    return np.unique(ranks)[:most]


def _words(texts: pl.Series) -> pl.Series:
    """The words of each text, without accents and in small letters; an apostrophe is no gap."""
    plain = texts.cast(pl.String).str.normalize("NFKD").str.replace_all(r"[\p{Mn}'’ʼ`]", "").str.to_lowercase()
    return plain.str.extract_all(r"[\p{L}\p{N}\p{Mc}]+")
