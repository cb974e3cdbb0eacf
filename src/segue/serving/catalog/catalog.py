"""What a service knows of its items: ids, titles, features, and which items meet which conditions.

Shapes: I items, T values of all items in total.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.bundle import Bundle
from segue.core.events import Codes, Mask, frozen
from segue.serving import schemas
from segue.serving.catalog.feature_column import Column, Groups
from segue.serving.catalog.lru_cache import Cache
from segue.serving.catalog.title_search import Titles

__all__ = ["Catalogue"]

CACHED_BYTES = 64_000_000
"""Answers to conditions that are kept."""

FEW = 64
"""Texts up to which looking each up by itself is faster."""


class Catalogue:
    """The items of one bundle. Any thread may ask.

    Args:
        trained: the bundle; its table of items is read here, once.
        popularity_I: ``(I,)`` how popular each item is, in any scale.

    Raises:
        ValueError: another number of items in the table, or of popularities, than the bundle has.
    """

    def __init__(self, trained: Bundle, popularity_I: NDArray[np.float32]) -> None:
        table = trained.catalogue.collect()
        for name, found in {"table of items": len(table), "popularity": len(popularity_I)}.items():
            if found != len(trained.items):
                raise ValueError(f"catalogue: {name} has {found} rows, expected {len(trained.items)}")
        self.n_items: int = len(trained.items)
        self.cache: Cache[Any] = Cache(CACHED_BYTES)
        """What was worked out of this catalogue lately."""
        self._vocab = trained.items
        self._vocab.encode([])  # so that no question waits for the table of codes
        self._ids = trained.items.ids
        self._columns = {column.name: Column(column) for column in table.get_columns() if column.name != "id"}
        self._titles = table["title"].cast(pl.String) if "title" in table.columns else None
        order = np.argsort(-np.asarray(popularity_I, np.float64), kind="stable").astype(np.int32)
        self._found = Titles(self._ids, self._titles, order)

    @property
    def features(self) -> list[str]:
        """The names of what is known of items."""
        return list(self._columns)

    def encode(self, ids: Sequence[str]) -> tuple[Codes, list[str]]:
        """Codes of the known ids in ``ids``, in their order, and the ids that are not in the catalogue."""
        codes, known = self._vocab.encode(ids)
        if known.all():
            return codes, []
        return codes[known], [one for one, there in zip(ids, known.tolist(), strict=True) if not there]

    def ids(self, codes: NDArray[np.integer[Any]]) -> list[str]:
        """The ids of ``codes``."""
        return _texts(self._ids, codes)

    def titles(self, codes: NDArray[np.integer[Any]]) -> list[str | None]:
        """The titles of ``codes``, where they are known."""
        if self._titles is None:
            return [None] * len(codes)
        return _texts(self._titles, codes)

    def item(self, code: int, likeness: float | None = None) -> schemas.Item:
        """All that is known of an item, but for vectors; long texts are cut."""
        code = int(code)
        title = None if self._titles is None else self._titles[code]
        features = {name: column.cell(code) for name, column in self._columns.items() if name != "title"}
        return schemas.Item(id=self._ids[code], title=title, features=features, likeness=likeness)

    def search(self, text: str, most: int) -> Codes:
        """At most ``most`` items by words of their titles and ids; see :meth:`segue.serving.catalog.title_search.Titles.search`."""
        return self._found.search(text, most)

    def prepare(self) -> None:
        """Make now what else is made when it is first asked for: the index of titles, and the values of features."""
        self._found.search("a", 1)
        len(self.marks)

    def mask(self, where: Mapping[str, schemas.Condition]) -> tuple[Mask, list[str]]:
        """``(I,)`` items that meet all conditions, and features that the catalogue does not have.

        Of such a feature nothing is known of any item: what asks for a value is met by none.

        Raises:
            ValueError: a condition asks for what its feature cannot hold.
        """
        found: Mask | None = None
        unknown = []
        for name, condition in where.items():
            column = self._columns.get(name)
            if column is None:
                unknown.append(name)
                told = np.full(self.n_items, condition.any is None and condition.min is None and condition.max is None)
            else:
                told = self._met(column, condition)
            found = told if found is None else found & told
        return frozen(np.ones(self.n_items, np.bool_) if found is None else found), unknown

    def groups(self, feature: str) -> Groups | None:
        """The distinct values of each item; ``None``: there is no such feature.

        Raises:
            ValueError: the feature is a vector or the like.
        """
        column = self._columns.get(feature)
        return None if column is None else column.groups

    @cached_property
    def telling(self) -> dict[str, Groups]:
        """The features that tell items apart and bring some together: texts, tags and truths; not numbers, nor texts
        that are nearly all different."""
        columns = {name: column for name, column in self._columns.items() if name != "title"}
        groups = {name: column.groups for name, column in columns.items() if column.kind in ("text", "boolean")}
        return {name: found for name, found in groups.items() if _tells(found)}

    @cached_property
    def marks(self) -> Groups:
        """All values of :attr:`telling` together, for how alike two items are."""
        parts = list(self.telling.items())
        rows = [groups.rows for _, groups in parts]
        starts = np.cumsum([0, *(len(groups.values) for _, groups in parts)])
        codes = [groups.codes + start for (_, groups), start in zip(parts, starts, strict=False)]
        names = [f"{name}: {value}" for name, groups in parts for value in groups.values]
        row_T, code_T = _joined(rows, np.int32), _joined(codes, np.int32)
        order = np.argsort(row_T, kind="stable")
        offsets = np.searchsorted(row_T[order], np.arange(self.n_items + 1))
        return Groups(offsets, code_T[order].astype(np.int32), pl.Series("mark", names, pl.String))

    def _met(self, column: Column, condition: schemas.Condition) -> Mask:
        key = ("mask", column.name, repr(condition))
        found: Mask = self.cache.get(key, lambda: (frozen(column.meets(condition)), self.n_items))
        return found


def _texts(texts: pl.Series, codes: NDArray[np.integer[Any]]) -> list[Any]:
    """The texts at ``codes``; of a few it is cheaper to ask one by one than to plan how to gather them."""
    if len(codes) <= FEW:
        return [texts[code] for code in codes.tolist()]
    return texts.gather(np.asarray(codes, np.int64)).to_list()


def _tells(groups: Groups) -> bool:
    """Whether values come back: two or more, and on average at least two items to each."""
    return 2 <= len(groups.values) <= max(2, len(groups.codes) // 2)


def _joined(parts: Iterable[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *parts])
