"""What is known of items and of users, as numbers that a model can read.

A table becomes one row of ``J`` numbers per item or user. Each feature has ``size`` neighbouring columns of it: of a
category the code of the text; of tags the codes of the texts, in their order; a number, standardised; or a vector, as
it is but for one scale. NaN stands for what is not known, and fills the columns behind the last tag.

Shapes: N rows of a table, J columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.types import Feature

__all__ = ["coded", "described"]

MOST_CATEGORIES = 10_000
"""Texts of one column, the most frequent, that have a code."""

MOST_TAGS = 32
"""Tags of one row, the first, that are read."""

FURTHEST = 4.0
"""Standard deviations beyond which numbers are not told apart."""

TEXTS = (pl.String, pl.Categorical, pl.Enum)


def described(table: pl.LazyFrame | pl.DataFrame | None) -> tuple[tuple[Feature, ...], dict[str, str]]:
    """The columns of ``table`` that can be read as features, and the others with the reason why not.

    Raises:
        ValueError: vectors of unequal lengths, or something in a column that is not a finite number.
    """
    found: list[Feature] = []
    left: dict[str, str] = {}
    for column in [] if table is None else table.lazy().collect().get_columns():
        if column.name != "id":
            feature = _described(_without_nan(column))
            if isinstance(feature, Feature):
                found.append(feature)
            else:
                left[column.name] = feature
    return tuple(found), left


def coded(features: Sequence[Feature], table: pl.DataFrame) -> NDArray[np.float32]:
    """``(N, J)`` the rows of ``table`` as numbers; nothing is known of a column that it has not.

    Raises:
        ValueError: a cell that cannot be read as the feature it is of.
    """
    parts = [np.zeros((len(table), 0), np.float32)]
    for feature in features:
        column = _without_nan(table[feature.name]) if feature.name in table.columns else None
        if column is None or column.null_count() == len(table):
            parts.append(np.full((len(table), feature.size), np.nan, np.float32))
        else:
            parts.append(_coded(feature, column))
    return np.concatenate(parts, axis=1)


def _without_nan(column: pl.Series) -> pl.Series:
    """NaN is how some tables say that a number is absent."""
    return column.fill_nan(None) if column.dtype.is_float() else column


def _described(column: pl.Series) -> Feature | str:
    """The column as a feature, or why it is none."""
    known, kind = column.drop_nulls(), column.dtype
    inner: Any = getattr(kind, "inner", None)
    if not len(known):
        return "it is empty"
    if inner is not None and inner.is_float():
        return _vector(known)
    if inner is not None and (inner in TEXTS or inner.is_integer()):
        categories = _frequent(_words(column)["word"])
        most = int(_tags(categories, MOST_TAGS, column)[1].max(initial=-1)) + 1
        return Feature(column.name, "tags", most, categories) if categories else "no tag is there twice"
    if kind in TEXTS or kind == pl.Boolean:
        texts = known.cast(pl.String)
        if texts.n_unique() > max(2, len(texts) / 2):
            return f"its texts are nearly all different: {texts.n_unique()} in {len(texts)} rows"
        categories = _frequent(texts)
        return Feature(column.name, "category", 1, categories) if len(categories) > 1 else "it tells nothing apart"
    if kind.is_numeric() or kind.is_temporal():
        numbers = _numbers(column.name, known)
        centre, scale = float(numbers.mean()), float(numbers.std())
        return Feature(column.name, "number", 1, (), centre, scale) if scale else "it tells nothing apart"
    return f"columns of type {kind} are not read"


def _vector(known: pl.Series) -> Feature:
    rows = _vectors(known.name, known)
    norm = float(np.sqrt(np.square(rows).sum(1).mean()))
    return Feature(known.name, "vector", rows.shape[1], (), 0.0, norm or 1.0)


def _coded(feature: Feature, column: pl.Series) -> NDArray[np.float32]:
    """``(N, size)``"""
    grid = np.full((len(column), feature.size), np.nan, np.float32)
    known = column.is_not_null().to_numpy()
    if feature.kind == "category":
        codes = column.cast(pl.String).cast(pl.Enum(feature.categories), strict=False).to_physical()
        grid[:, 0] = codes.cast(pl.Float32).to_numpy()
    elif feature.kind == "number":
        numbers = _numbers(feature.name, column.drop_nulls())
        grid[known, 0] = np.clip((numbers - feature.centre) / feature.scale, -FURTHEST, FURTHEST)
    elif feature.kind == "tags":
        rows, places, codes_T = _tags(feature.categories, feature.size, column)
        grid[rows, places] = codes_T
    else:
        vectors = _vectors(feature.name, column.drop_nulls())
        if vectors.shape[1] != feature.size:
            raise ValueError(
                f"features: {feature.name}: vectors of {vectors.shape[1]}, expected {feature.size} numbers"
            )
        grid[known] = vectors / feature.scale
    return grid


def _frequent(texts: pl.Series) -> tuple[str, ...]:
    """The texts that are there more than once, the most frequent and at most ``MOST_CATEGORIES``, by alphabet."""
    counts = texts.alias("text").value_counts(name="n").filter(pl.col("n") > 1)
    return tuple(counts.sort(["n", "text"], descending=[True, False]).head(MOST_CATEGORIES)["text"].sort())


def _words(column: pl.Series) -> pl.DataFrame:
    """``row`` and ``word`` of all tags, in their order, each once in its row."""
    if column.dtype != pl.List:
        column = pl.Series(column.name, [_listed(cell) for cell in column], dtype=pl.List(pl.String))
    table = pl.DataFrame({"row": pl.int_range(len(column), eager=True), "word": column}).explode("word")
    return table.with_columns(pl.col("word").cast(pl.String)).drop_nulls().unique(maintain_order=True)


def _listed(cell: Any) -> list[str] | None:
    """One tag told alone is a list of one."""
    return None if cell is None else [str(part) for part in ([cell] if isinstance(cell, str) else list(cell))]


def _tags(
    categories: tuple[str, ...], size: int, column: pl.Series
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Row, place within the row and code of the first ``size`` tags of each row that have a code."""
    codes = pl.col("word").cast(pl.Enum(categories), strict=False).to_physical().cast(pl.Float32)
    table = _words(column).select("row", code=codes).drop_nulls()
    table = table.with_columns(place=pl.int_range(pl.len()).over("row")).filter(pl.col("place") < size)
    return table["row"].to_numpy(), table["place"].to_numpy(), table["code"].to_numpy()


def _numbers(name: str, known: pl.Series) -> NDArray[np.float64]:
    """Dates and times as seconds, all else as it is."""
    if known.dtype in (pl.Date, pl.Datetime):
        return known.cast(pl.Datetime("us")).dt.epoch("us").to_numpy() / 1e6
    numbers = known.cast(pl.Float64, strict=False) if known.dtype == pl.String else known.to_physical().cast(pl.Float64)
    found: NDArray[np.float64] = numbers.to_numpy()
    if len(wrong := np.flatnonzero(~np.isfinite(found.astype(np.float64)))):
        raise ValueError(f"features: {name}: got {known[int(wrong[0])]!r}, expected a finite number")
    return found


def _vectors(name: str, known: pl.Series) -> NDArray[np.float64]:
    """``(N, size)``"""
    if known.dtype not in (pl.List, pl.Array):
        raise ValueError(f"features: {name}: got type {known.dtype}, expected lists of numbers")
    sizes = sorted({len(row) for row in known})
    if len(sizes) > 1 or not sizes[0]:
        raise ValueError(f"features: {name}: got lists of {sizes[0]} to {sizes[-1]} numbers, expected one length")
    numbers = known.explode().cast(pl.Float64).to_numpy()
    if not np.isfinite(numbers).all():
        raise ValueError(f"features: {name}: a vector holds what is not a finite number")
    return np.reshape(numbers, (len(known), -1))
