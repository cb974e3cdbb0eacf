"""Encode item and user features as numeric arrays.

A table becomes one row of ``J`` numbers per item or user. Each feature takes ``size`` adjacent columns: the code of a
category; the codes of tags, in their order; a standardized number; or a scaled vector. NaN marks unknown values and
fills the columns after the last tag.

Shapes: N rows of a table, J columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.types import Feature

__all__ = ["MAX_MAGNITUDE", "clip_numbers", "encode_features", "infer_features", "merge_features"]

MAX_CATEGORIES = 10_000
"""Maximum number of categories per column; the most frequent texts are used."""

MAX_TAGS = 32
"""Maximum number of tags per row; further tags are ignored."""

CLIP_STD = 4.0
"""Standardized numbers are clipped to this many standard deviations."""

MAX_MAGNITUDE = 1e15
"""Largest magnitude of floating-point numbers: models compute in 32 bits, and square vectors."""

TEXTS = (pl.String, pl.Categorical, pl.Enum)


def infer_features(table: pl.LazyFrame | pl.DataFrame | None) -> tuple[tuple[Feature, ...], dict[str, str]]:
    """Return the usable feature columns of ``table``, and why others are not usable.

    Raises:
        ValueError: vectors have unequal lengths, or a numeric column contains something other than finite numbers
            of at most ``MAX_MAGNITUDE``.
    """
    features: list[Feature] = []
    unused: dict[str, str] = {}
    for column in [] if table is None else table.lazy().collect().get_columns():
        if column.name != "id":
            column = _without_nan(column)
            _check_magnitude(column)
            feature = _infer_feature(column)
            if isinstance(feature, Feature):
                features.append(feature)
            else:
                unused[column.name] = feature
    return tuple(features), unused


def encode_features(features: Sequence[Feature], table: pl.DataFrame) -> NDArray[np.float32]:
    """Encode the rows of ``table``, ``(N, J)``; missing columns are unknown.

    Raises:
        ValueError: a cell does not fit its feature.
    """
    parts = [np.zeros((len(table), 0), np.float32)]
    for feature in features:
        column = _without_nan(table[feature.name]) if feature.name in table.columns else None
        if column is None or column.null_count() == len(table):
            parts.append(np.full((len(table), feature.size), np.nan, np.float32))
        else:
            _check_magnitude(column)
            parts.append(_encode_feature(feature, column))
    return np.concatenate(parts, axis=1)


def clip_numbers(features: Sequence[Feature], table: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, NDArray[np.int64]]]:
    """Clip numbers to their range in training.

    Outside of it a model has learned nothing.

    Returns:
        The table, in which clipped dates are seconds; and by feature, the rows whose number is clipped.
    """
    clipped: dict[str, NDArray[np.int64]] = {}
    for feature in features:
        if feature.kind != "number" or feature.low is None or feature.high is None or feature.name not in table.columns:
            continue
        column = _without_nan(table[feature.name])
        known = column.is_not_null().to_numpy()
        numbers_N = np.full(len(table), np.nan)
        numbers_N[known] = _numbers(feature.name, column.drop_nulls())
        inside_N = np.clip(numbers_N, feature.low, feature.high)
        if len(rows := np.flatnonzero(known & (inside_N != numbers_N))):
            clipped[feature.name] = rows
            table = table.with_columns(pl.Series(feature.name, inside_N).fill_nan(None))
    return table, clipped


def _without_nan(column: pl.Series) -> pl.Series:
    """Replace NaN by null: some tables mark missing numbers with NaN."""
    return column.fill_nan(None) if column.dtype.is_float() else column


def _check_magnitude(column: pl.Series) -> None:
    """Check that no finite number is too large."""
    inner: Any = getattr(column.dtype, "inner", None)
    if column.dtype.is_float():
        largest = column.abs()
    elif inner is not None and inner.is_float():
        lists = column.cast(pl.List(inner))
        ends = pl.DataFrame({"high": lists.list.max().abs(), "low": lists.list.min().abs()})
        largest = ends.select(largest=pl.max_horizontal("high", "low")).to_series()
    else:
        return
    rows = (largest.is_finite() & (largest > MAX_MAGNITUDE)).arg_true()
    if len(rows):
        raise ValueError(
            f"features: {column.name}: got {largest[rows[0]]:g} in row {rows[0] + 1}, expected numbers of at most "
            f"{MAX_MAGNITUDE:g} in magnitude"
        )


def _infer_feature(column: pl.Series) -> Feature | str:
    """Return the feature of a column, or the reason why it is not usable."""
    known, kind = column.drop_nulls(), column.dtype
    inner: Any = getattr(kind, "inner", None)
    if not len(known):
        return "empty column"
    if inner is not None and inner.is_float():
        return _vector(known)
    if inner is not None and (inner in TEXTS or inner.is_integer()):
        categories = _frequent(_words(column)["word"])
        size = int(_tags(categories, MAX_TAGS, column)[1].max(initial=-1)) + 1
        return Feature(column.name, "tags", size, categories) if categories else "no tag occurs twice"
    if kind in TEXTS or kind == pl.Boolean:
        texts = known.cast(pl.String)
        if texts.n_unique() > max(2, len(texts) / 2):
            return f"almost all texts are distinct: {texts.n_unique()} in {len(texts)} rows"
        categories = _frequent(texts)
        return Feature(column.name, "category", 1, categories) if len(categories) > 1 else "only one frequent value"
    if kind.is_numeric() or kind.is_temporal():
        numbers = _numbers(column.name, known)
        center, scale = float(numbers.mean()), float(numbers.std())
        bounds = float(numbers.min()), float(numbers.max())
        return Feature(column.name, "number", 1, (), center, scale, *bounds) if scale else "constant column"
    return f"unsupported type {kind}"


def _vector(known: pl.Series) -> Feature:
    rows = _vectors(known.name, known)
    norm = float(np.sqrt(np.square(rows).sum(1).mean()))
    return Feature(known.name, "vector", rows.shape[1], (), 0.0, norm or 1.0)


def _encode_feature(feature: Feature, column: pl.Series) -> NDArray[np.float32]:
    """Encode one column, ``(N, size)``."""
    grid = np.full((len(column), feature.size), np.nan, np.float32)
    known = column.is_not_null().to_numpy()
    if feature.kind == "category":
        codes = column.cast(pl.String).cast(pl.Enum(feature.categories), strict=False).to_physical()
        grid[:, 0] = codes.cast(pl.Float32).to_numpy()
    elif feature.kind == "number":
        numbers = _numbers(feature.name, column.drop_nulls())
        grid[known, 0] = np.clip((numbers - feature.center) / feature.scale, -CLIP_STD, CLIP_STD)
    elif feature.kind == "tags":
        rows, positions, codes_T = _tags(feature.categories, feature.size, column)
        grid[rows, positions] = codes_T
    else:
        vectors = _vectors(feature.name, column.drop_nulls())
        if vectors.shape[1] != feature.size:
            raise ValueError(
                f"features: {feature.name}: got vectors of {vectors.shape[1]} numbers, expected {feature.size}"
            )
        grid[known] = vectors / feature.scale
    return grid


def _frequent(texts: pl.Series) -> tuple[str, ...]:
    """Return the texts that occur more than once, sorted.

    At most the ``MAX_CATEGORIES`` most frequent texts are returned.
    """
    counts = texts.alias("text").value_counts(name="n").filter(pl.col("n") > 1)
    return tuple(counts.sort(["n", "text"], descending=[True, False]).head(MAX_CATEGORIES)["text"].sort())


def _words(column: pl.Series) -> pl.DataFrame:
    """Return ``row`` and ``word`` of all tags in order, without duplicates per row."""
    if column.dtype != pl.List:
        column = pl.Series(column.name, [_as_list(cell) for cell in column], dtype=pl.List(pl.String))
    table = pl.DataFrame({"row": pl.int_range(len(column), eager=True), "word": column}).explode("word")
    return table.with_columns(pl.col("word").cast(pl.String)).drop_nulls().unique(maintain_order=True)


def _as_list(cell: Any) -> list[str] | None:
    """Convert a cell to a list of tags; a single text is one tag."""
    return None if cell is None else [str(part) for part in ([cell] if isinstance(cell, str) else list(cell))]


def _tags(
    categories: tuple[str, ...], size: int, column: pl.Series
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the first ``size`` known tags of each row.

    A tag is given by its row, position within the row, and code.
    """
    codes = pl.col("word").cast(pl.Enum(categories), strict=False).to_physical().cast(pl.Float32)
    table = _words(column).select("row", code=codes).drop_nulls()
    table = table.with_columns(position=pl.int_range(pl.len()).over("row")).filter(pl.col("position") < size)
    return table["row"].to_numpy(), table["position"].to_numpy(), table["code"].to_numpy()


def _numbers(name: str, known: pl.Series) -> NDArray[np.float64]:
    """Convert a column to numbers; dates and times become seconds."""
    if known.dtype in (pl.Date, pl.Datetime):
        return known.cast(pl.Datetime("us")).dt.epoch("us").to_numpy() / 1e6
    numbers = known.cast(pl.Float64, strict=False) if known.dtype == pl.String else known.to_physical().cast(pl.Float64)
    values: NDArray[np.float64] = numbers.to_numpy()
    if len(wrong := np.flatnonzero(~np.isfinite(values.astype(np.float64)))):
        raise ValueError(f"features: {name}: got {known[int(wrong[0])]!r}, expected a finite number")
    return values


def _vectors(name: str, known: pl.Series) -> NDArray[np.float64]:
    """Convert a column of lists to vectors, ``(N, size)``."""
    if known.dtype not in (pl.List, pl.Array):
        raise ValueError(f"features: {name}: got type {known.dtype}, expected lists of numbers")
    lengths = known.cast(pl.List(known.dtype.inner)).list.len()  # type: ignore[attr-defined]
    sizes = lengths.unique().sort().to_list()
    if len(sizes) > 1 or not sizes[0]:
        raise ValueError(f"features: {name}: got lists of {sizes[0]} to {sizes[-1]} numbers, expected equal lengths")
    numbers = known.explode().cast(pl.Float64).to_numpy()
    if not np.isfinite(numbers).all():
        raise ValueError(f"features: {name}: a vector contains something else than finite numbers")
    return np.reshape(numbers, (len(known), -1))


def merge_features(
    features: Sequence[Feature], given_NJ: NDArray[np.float32], stored_NJ: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the given features, ``(N, J)``, and the stored ones where unknown."""
    ends = np.cumsum([feature.size for feature in features])[:-1]
    blocks = zip(np.split(given_NJ, ends, axis=1), np.split(stored_NJ, ends, axis=1), strict=True)
    merged: NDArray[np.float32] = np.concatenate(
        [np.where(np.isnan(given[:, :1]), stored, given) for given, stored in blocks], 1
    )
    return merged
