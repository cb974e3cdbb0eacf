"""Training events and features of the items, for metrics beyond accuracy.

Shapes: U training users, I items, C categories, D width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.types import Dataset, Events, Mask

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["ItemFeature", "TrainingData"]

TEXTS = (pl.String, pl.Categorical, pl.Enum, pl.Boolean)


@dataclass(frozen=True, eq=False)
class ItemFeature:
    """One feature of the items: categories, or a vector such as an encoded text."""

    name: str
    table: csr_array | NDArray[np.float64]
    """``(I, C)`` sparse, 1 where an item has a category; or ``(I, D)`` vectors of length 1, 0 where unknown."""
    categories: tuple[str, ...]
    """Names of the C categories; empty for vectors."""

    @cached_property
    def unit_rows(self) -> csr_array | NDArray[np.float64]:
        """The table with rows of length 1; rows of unknown items are 0."""
        if isinstance(self.table, np.ndarray):
            return self.table
        return _scale_rows(self.table, np.sqrt(np.diff(self.table.indptr)))

    @cached_property
    def shares(self) -> csr_array:
        """``(I, C)`` sparse; the categories of an item share a weight of 1.

        Raises:
            ValueError: the feature is a vector.
        """
        if isinstance(self.table, np.ndarray):
            raise ValueError(f"item feature '{self.name}': got vectors, expected a feature with categories or tags")
        return _scale_rows(self.table, np.diff(self.table.indptr))

    @cached_property
    def known(self) -> Mask:
        """``(I,)`` whether an item has a category, or a vector other than 0."""
        if isinstance(self.table, np.ndarray):
            return np.asarray(self.table.any(axis=1), np.bool_)
        return np.asarray(np.diff(self.table.indptr) > 0, np.bool_)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Training events and features of the items, in the codes of the model."""

    histories: Events
    """One row per training user."""
    n_items: int
    item_features: pl.LazyFrame | None = None
    """One row per item code; ``None``: no features."""
    _features: dict[str, ItemFeature] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, train: Dataset) -> TrainingData:
        """Describe the training part of a split."""
        return cls(train.histories, train.n_items, train.item_features)

    @cached_property
    def item_events(self) -> NDArray[np.int64]:
        """``(I,)`` training events per item."""
        return np.bincount(self.histories.items, minlength=self.n_items)

    @cached_property
    def seen(self) -> csr_array:
        """``(U, I)`` sparse, 1 where a user has an item."""
        return self.histories.csr(self.n_items)

    @cached_property
    def item_users(self) -> NDArray[np.int64]:
        """``(I,)`` training users per item."""
        return np.bincount(self.seen.indices, minlength=self.n_items)

    @cached_property
    def n_users(self) -> int:
        """Number of users with a training event."""
        return int(np.count_nonzero(self.histories.lengths))

    def feature(self, name: str) -> ItemFeature:
        """Return an item feature.

        Raises:
            ValueError: no such feature, or one that has neither categories nor vectors.
        """
        if name not in self._features:
            table = pl.LazyFrame({"id": []}) if self.item_features is None else self.item_features
            names = [one for one in table.collect_schema().names() if one != "id"]
            if name not in names:
                known = f"; item features of this data: {', '.join(names)}" if names else "; this data has none"
                raise ValueError(f"unknown item feature '{name}'{suggest(name, names)}{known}")
            self._features[name] = _read_feature(table.select(name).collect()[name])
        return self._features[name]


def _read_feature(column: pl.Series) -> ItemFeature:
    """Read a column of categories, tags or vectors, one row per item."""
    inner: Any = getattr(column.dtype, "inner", None)
    if inner is not None and inner.is_float():
        return ItemFeature(column.name, _read_vectors(column), ())
    if column.dtype not in TEXTS and inner is None:
        raise ValueError(
            f"item feature '{column.name}': got type {column.dtype}, expected categories, tags or vectors; store "
            "numbers that are categories as text"
        )
    tags = pl.DataFrame({"row": np.arange(len(column)), "tag": column})
    if inner is not None:
        tags = tags.with_columns(pl.col("tag").cast(pl.List(inner))).explode("tag")
    tags = tags.with_columns(pl.col("tag").cast(pl.String)).drop_nulls().unique()
    from scipy.sparse import csr_array

    categories = tags["tag"].unique().sort()
    codes = tags["tag"].cast(pl.Enum(categories)).to_physical().to_numpy()
    cells = (np.ones(len(tags)), (tags["row"].to_numpy(), codes))
    return ItemFeature(column.name, csr_array(cells, shape=(len(column), len(categories))), tuple(categories))


def _read_vectors(column: pl.Series) -> NDArray[np.float64]:
    """Return vectors of length 1, ``(I, D)``; 0 where a vector is unknown or 0."""
    known = column.is_not_null().to_numpy()
    rows = column.drop_nulls().cast(pl.List(pl.Float64))
    sizes = rows.list.len().unique().sort().to_list() or [1]
    if len(sizes) > 1:
        raise ValueError(
            f"item feature '{column.name}': got vectors of {sizes[0]} to {sizes[-1]} numbers, expected equal lengths"
        )
    vectors = np.zeros((len(column), max(1, sizes[0])))
    if sizes[0]:
        vectors[known] = rows.explode().fill_null(np.nan).to_numpy().reshape(-1, sizes[0])
    if not np.isfinite(vectors).all():
        raise ValueError(f"item feature '{column.name}': got a number that is not finite, expected finite vectors")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, 1.0)
    return vectors


def _scale_rows(table: csr_array, divisors: NDArray[Any]) -> csr_array:
    """Divide the cells of each row by one number."""
    from scipy.sparse import csr_array

    data = table.data / np.repeat(np.asarray(divisors, np.float64), np.diff(table.indptr))
    return csr_array((data, table.indices, table.indptr), shape=table.shape)
