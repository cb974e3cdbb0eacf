"""The item catalog: ids, titles, features, and filters on them.

Shapes: I items, T feature values of all items in total.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.bundle import TrainedModel
from segue.core.events import Codes, Mask, read_only
from segue.core.knowledge.paths import PathFinder
from segue.serving import schemas
from segue.serving.catalog.feature_column import FeatureColumn, ItemValues
from segue.serving.catalog.lru_cache import LruCache
from segue.serving.catalog.text_words import TextWords
from segue.serving.catalog.title_search import TitleIndex

__all__ = ["Catalog"]

CACHE_BYTES = 64_000_000
"""Size of the cache of filter masks and compiled rules."""

SMALL_GATHER = 64
"""Number of texts up to which single look-ups are faster than a gather."""


class Catalog:
    """The items of one bundle. Thread-safe.

    Args:
        bundle: its item table is read here, once.
        popularity_I: ``(I,)`` popularity of each item, on any scale.

    Raises:
        ValueError: the table or the popularities do not have one row per item of the bundle.
    """

    def __init__(self, bundle: TrainedModel, popularity_I: NDArray[np.float32]) -> None:
        table = bundle.catalog.collect()
        for name, count in {"table of items": len(table), "popularity": len(popularity_I)}.items():
            if count != len(bundle.items):
                raise ValueError(f"catalog: {name} has {count} rows, expected {len(bundle.items)}")
        self.n_items: int = len(bundle.items)
        self.cache: LruCache[Any] = LruCache(CACHE_BYTES)
        """Recently computed masks and compiled rules."""
        self._vocab = bundle.items
        self._vocab.encode([])  # builds the lookup table now, not during the first request
        self._ids = bundle.items.ids
        self._columns = {column.name: FeatureColumn(column) for column in table.get_columns() if column.name != "id"}
        self._titles = table["title"].cast(pl.String) if "title" in table.columns else None
        order = np.argsort(-np.asarray(popularity_I, np.float64), kind="stable").astype(np.int32)
        self._title_index = TitleIndex(self._ids, self._titles, order)
        self.paths = None if bundle.knowledge is None else PathFinder(bundle.knowledge)
        """Paths in the knowledge graph; ``None``: the data has no triples."""

    @property
    def features(self) -> list[str]:
        """The names of the item features."""
        return list(self._columns)

    def encode(self, ids: Sequence[str]) -> tuple[Codes, list[str]]:
        """Return the codes of the known ids, in order, and the unknown ids."""
        codes, known = self._vocab.encode(ids)
        if known.all():
            return codes, []
        return codes[known], [item_id for item_id, is_known in zip(ids, known.tolist(), strict=True) if not is_known]

    def ids(self, codes: NDArray[np.integer[Any]]) -> list[str]:
        """Return the ids of ``codes``."""
        return _gather_texts(self._ids, codes)

    def titles(self, codes: NDArray[np.integer[Any]]) -> list[str | None]:
        """Return the titles of ``codes``; ``None`` where unknown."""
        if self._titles is None:
            return [None] * len(codes)
        return _gather_texts(self._titles, codes)

    def item(self, code: int, similarity: float | None = None) -> schemas.Item:
        """Return an item with its features, without vectors; long texts are truncated."""
        code = int(code)
        title = None if self._titles is None else self._titles[code]
        features = {name: column.value_of(code) for name, column in self._columns.items() if name != "title"}
        return schemas.Item(id=self._ids[code], title=title, features=features, similarity=similarity)

    def search(self, text: str, limit: int) -> Codes:
        """Find at most ``limit`` items by words of their titles and ids.

        See :meth:`segue.serving.catalog.title_search.TitleIndex.search`.
        """
        return self._title_index.search(text, limit)

    def build_indexes(self) -> None:
        """Build the title index and the feature values now instead of on first use."""
        self._title_index.search("a", 1)
        len(self.item_values)

    def mask(self, conditions: Mapping[str, schemas.Condition]) -> tuple[Mask, list[str]]:
        """Return the items ``(I,)`` that match all conditions, and unknown features.

        An unknown feature has no value for any item: a condition that requires a value matches none.

        Raises:
            ValueError: a condition does not fit the type of its feature.
        """
        mask: Mask | None = None
        unknown = []
        for name, condition in conditions.items():
            column = self._columns.get(name)
            if column is None:
                unknown.append(name)
                requires_value = not (condition.any is None and condition.min is None and condition.max is None)
                matches = np.full(self.n_items, not requires_value)
            else:
                matches = self._condition_mask(column, condition)
            mask = matches if mask is None else mask & matches
        return read_only(np.ones(self.n_items, np.bool_) if mask is None else mask), unknown

    def unknown_values(self, conditions: Mapping[str, schemas.Condition]) -> dict[str, list[schemas.Scalar]]:
        """Return the values in ``any`` and ``none`` that no item has, by feature.

        The conditions must have passed :meth:`mask`; unknown features are left out.
        """
        found = {
            name: self._columns[name].unknown_values(one) for name, one in conditions.items() if name in self._columns
        }
        return {name: values for name, values in found.items() if values}

    def feature_values(self, feature: str) -> ItemValues | None:
        """Return the distinct values of each item; ``None``: there is no such feature.

        Raises:
            ValueError: the feature is a vector or another type without distinct values.
        """
        column = self._columns.get(feature)
        return None if column is None else column.item_values

    @cached_property
    def grouping_features(self) -> dict[str, ItemValues]:
        """Features whose values are shared by several items: texts, tags and booleans.

        Numbers and texts that are nearly all different are left out.
        """
        columns = {name: column for name, column in self._columns.items() if name != "title"}
        values = {name: column.item_values for name, column in columns.items() if column.kind in ("text", "boolean")}
        return {name: found for name, found in values.items() if _has_repeated_values(found)}

    @cached_property
    def text_features(self) -> dict[str, TextWords]:
        """Texts that differ between items, such as plots: their words are compared."""
        return {
            name: TextWords(column.texts)
            for name, column in self._columns.items()
            if name != "title" and name not in self.grouping_features and column.texts is not None
        }

    @cached_property
    def item_values(self) -> ItemValues:
        """All values of :attr:`grouping_features` together, for item similarity."""
        parts = list(self.grouping_features.items())
        rows = [values.rows for _, values in parts]
        starts = np.cumsum([0, *(len(values.values) for _, values in parts)])
        codes = [values.codes + start for (_, values), start in zip(parts, starts, strict=False)]
        labels = [f"{name}: {value}" for name, values in parts for value in values.values]
        row_T, code_T = _concatenate(rows, np.int32), _concatenate(codes, np.int32)
        order = np.argsort(row_T, kind="stable")
        offsets = np.searchsorted(row_T[order], np.arange(self.n_items + 1))
        return ItemValues(offsets, code_T[order].astype(np.int32), pl.Series("value", labels, pl.String))

    def _condition_mask(self, column: FeatureColumn, condition: schemas.Condition) -> Mask:
        key = ("mask", column.name, repr(condition))
        mask: Mask = self.cache.get(key, lambda: (read_only(column.filter_mask(condition)), self.n_items))
        return mask


def _gather_texts(texts: pl.Series, codes: NDArray[np.integer[Any]]) -> list[Any]:
    """Return the texts at ``codes``.

    For a few texts, single look-ups are cheaper than a gather.
    """
    if len(codes) <= SMALL_GATHER:
        return [texts[code] for code in codes.tolist()]
    return texts.gather(np.asarray(codes, np.int64)).to_list()


def _has_repeated_values(values: ItemValues) -> bool:
    """Return whether values are shared by several items.

    True for at least two values, with at least two items each on average.
    """
    return 2 <= len(values.values) <= max(2, len(values.codes) // 2)


def _concatenate(parts: Iterable[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])
