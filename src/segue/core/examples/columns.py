"""Encode one column of a table of examples as codes, numbers or vectors.

What a column needs to be encoded, such as its categories, is learned from the rows of training.

Shapes: T rows, W width of a vector, L values of all lists.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.events import Codes, Events, Scores
from segue.core.examples.fields import MISSING, N_RESERVED, UNKNOWN, Field, FieldKind
from segue.core.examples.settings import ColumnKind, ExampleSettings, Scaling
from segue.core.features import MAX_MAGNITUDE

__all__ = [
    "CellError",
    "Column",
    "parse_times",
    "read_lists",
    "read_numbers",
    "read_texts",
    "read_times",
    "read_vectors",
    "share_codes",
    "signed_log",
]

TEXTS = (pl.String, pl.Categorical, pl.Enum)

TRUTH_VALUES = ("true", "false")

SECONDS = (-62_135_596_800, 253_402_300_799)
"""First and last second of the years 1 to 9999, relative to 1970."""

CALENDAR = {"hour": 24, "weekday": 7, "month": 12}
"""Fields that a time becomes, with their numbers of categories."""


class CellError(ValueError):
    """A cell of a table that cannot be used.

    Args:
        column: name of the column.
        row: index of the row, from 0.
        problem: the value, and what was expected.
    """

    def __init__(self, column: str, row: int, problem: str) -> None:
        super().__init__(f"column '{column}', row {row + 1}: {problem}")
        self.column, self.row, self.problem = column, row, problem


@dataclass(frozen=True, eq=False)
class Column:
    """How one column is encoded."""

    name: str
    kind: ColumnKind
    size: int = 1
    """Number of codes, or width of a vector."""
    values: pl.Series = field(default_factory=lambda: pl.Series(dtype=pl.String))
    """Categories with codes of their own, in the order of their codes from :data:`N_RESERVED`."""
    is_hashed: bool = False
    separator: str | None = None
    max_length: int = 0
    scaling: Scaling = "standard"
    center: float = 0.0
    scale: float = 1.0
    clip: float = 10.0
    knots: tuple[float, ...] = ()
    """Quantiles of the training rows, in ascending order."""
    shares: str | None = None
    """Column of categories with the same codes."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """The inputs that the column becomes."""
        if self.kind == "time":
            return tuple(Field(f"{self.name}:{part}", "category", N_RESERVED + n) for part, n in CALENDAR.items())
        assert self.kind != "ignore"
        kind: FieldKind = "vector" if self.kind == "text" else self.kind
        return (Field(self.name, kind, self.size, self.shares),)

    def codes(self, column: pl.Series) -> Codes:
        """Encode categories, or the parts of a time: ``(T,)``, or ``(T, parts)``."""
        return self._times(column) if self.kind == "time" else self._codes_of(self._in_spelling(column))

    def numbers(self, column: pl.Series) -> Scores:
        """Encode numbers, ``(T,)``; NaN where missing.

        Raises:
            ValueError: a number is infinite or a text is not a number; names the row.
        """
        x_T = read_numbers(column)
        if self.scaling == "quantile":
            scaled_T = np.interp(x_T, self.knots, np.linspace(-1.0, 1.0, len(self.knots)))
        else:
            scaled_T = (signed_log(x_T) if self.scaling == "log" else x_T) - self.center
            scaled_T = np.clip(scaled_T / self.scale, -self.clip, self.clip)
        return np.where(np.isnan(x_T), np.nan, scaled_T).astype(np.float32)

    def lists(self, column: pl.Series) -> Events:
        """Encode tags or a sequence: the last codes of each row, at most ``max_length``."""
        lists = read_lists(column, self.separator).list.tail(self.max_length)
        lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
        flat = lists.filter(lists.list.len().fill_null(0) > 0).explode(empty_as_null=True, keep_nulls=True)
        return Events(np.concatenate([[0], np.cumsum(lengths)]), self._codes_of(flat))

    def vectors(self, column: pl.Series) -> Scores:
        """Encode vectors, ``(T, W)``; rows of NaN where missing.

        Raises:
            ValueError: a vector has another width or a number that is not finite; names the row.
        """
        return read_vectors(column, self.size) / np.float32(self.scale)

    def _codes_of(self, texts: pl.Series) -> Codes:
        is_missing = texts.is_null().to_numpy()
        if self.is_hashed:
            codes = _buckets(texts, self.size - N_RESERVED) + N_RESERVED
        else:
            found = texts.cast(self._enum, strict=False).to_physical().cast(pl.Int32)
            codes = (found + N_RESERVED).fill_null(UNKNOWN).to_numpy()
        encoded: Codes = np.where(is_missing, MISSING, codes).astype(np.int32)
        return encoded

    def _in_spelling(self, column: pl.Series) -> pl.Series:
        """Return categories as text; truth values are written as in training."""
        known = set(self.values.head(len(TRUTH_VALUES) + 1))
        if known and known <= {"true", "false"}:
            texts = read_texts(column).str.to_lowercase()
            return texts.replace({"1": "true", "0": "false"})
        if column.dtype == pl.Boolean and known and known <= {"1", "0"}:
            return column.cast(pl.Int8).cast(pl.String)
        return read_texts(column)

    @cached_property
    def _enum(self) -> pl.Enum:
        return pl.Enum(self.values)

    def _times(self, column: pl.Series) -> Codes:
        times = read_times(column).dt
        parts = [times.hour(), times.weekday() - 1, times.month() - 1]
        return np.stack([(one.cast(pl.Int32) + N_RESERVED).fill_null(MISSING).to_numpy() for one in parts], axis=1)


def share_codes(column: Column | str, other: Column | str, settings: ExampleSettings) -> Column:
    """Return a column of sequences or tags with the codes of a column of categories.

    Args:
        column: what :func:`segue.core.examples.column_fitter.fit_column` returned; ``other`` likewise.

    Raises:
        ValueError: one of them is left out or has another kind.
    """
    for one, kinds in ((column, ("sequence", "tags")), (other, ("category",))):
        if isinstance(one, str) or one.kind not in kinds:
            got = f"which is left out ({one})" if isinstance(one, str) else f"and '{one.name}' is a {one.kind}"
            raise ValueError(f"shares: got {dict(settings.shares)}, {got}; expected a column of kind {kinds[0]}")
    assert isinstance(column, Column)
    assert isinstance(other, Column)
    return replace(column, size=other.size, values=other.values, is_hashed=other.is_hashed, shares=other.name)


def signed_log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sign(x) log(1 + abs(x))."""
    logs: NDArray[np.float64] = np.sign(x) * np.log1p(np.abs(x))
    return logs


def read_texts(column: pl.Series) -> pl.Series:
    """Return categories as text.

    Whole numbers are written as integers, whatever their type, and times as in ``2024-05-31 18:30:00``, or
    ``2024-05-31`` at midnight, as dates are.
    """
    _check_single(column)
    if column.dtype == pl.Datetime:
        return read_times(column).dt.to_string("%Y-%m-%d %H:%M:%S%.f").str.strip_suffix(" 00:00:00")
    if column.dtype.is_float() or column.dtype == pl.Decimal:
        cells = column.cast(pl.Float64).fill_nan(None)
        return cells.to_frame().select(_number_text(pl.col(column.name)).alias(column.name)).to_series()
    return column.cast(pl.String)


def _number_text(cells: pl.Expr) -> pl.Expr:
    """Return numbers as text, whole ones as integers."""
    is_whole = (cells == cells.floor()) & (cells.abs() < 2**53)
    return pl.when(is_whole).then(cells.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(cells.cast(pl.String))


def _check_single(column: pl.Series) -> None:
    """Check that a column holds one value per row."""
    if column.dtype.is_nested():
        raise ValueError(f"column '{column.name}': got the type {column.dtype}, expected a single value per row")


def read_lists(column: pl.Series, separator: str | None) -> pl.Series:
    """Return tags or sequences as lists of text; whole numbers as integers."""
    if column.null_count() == len(column):
        return pl.Series(column.name, [None] * len(column), dtype=pl.List(pl.String))
    if column.dtype == pl.String:
        if separator is None:
            raise ValueError(
                f"column '{column.name}': lists are written as text, such as {column.drop_nulls()[0]!r}; set separator"
            )
        lists = column.str.split(separator)
        return lists.list.eval(pl.element().filter(pl.element() != ""))
    inner: Any = getattr(column.dtype, "inner", None)
    if inner is None or inner.is_nested():
        raise ValueError(f"column '{column.name}': got the type {column.dtype}, expected lists of values or text")
    if inner.is_float() or inner == pl.Decimal:
        numbers = column.cast(pl.List(pl.Float64))
        return numbers.list.eval(_number_text(pl.element().filter(pl.element().is_not_nan()))).list.drop_nulls()
    return column.cast(pl.List(pl.String)).list.drop_nulls()


def _buckets(texts: pl.Series, count: int) -> NDArray[np.int64]:
    """Return the hash bucket of each text, ``(T,)``; the same on every machine."""
    distinct = texts.drop_nulls().unique()
    buckets = pl.Series([zlib.crc32(text.encode()) % count for text in distinct], dtype=pl.Int64)
    found = texts.replace_strict(distinct, buckets, default=None, return_dtype=pl.Int64)
    return found.fill_null(0).to_numpy()


def read_numbers(column: pl.Series) -> NDArray[np.float64]:
    """Return numbers, ``(T,)``; NaN where missing.

    Raises:
        ValueError: a text is not a number, or a number is infinite or too large; names the row.
    """
    _check_single(column)
    numbers = column.cast(pl.Float64, strict=False) if column.dtype in TEXTS else column.cast(pl.Float64)
    x_T: NDArray[np.float64] = numbers.fill_null(np.nan).to_numpy()
    if column.dtype in TEXTS:
        _reject(column, (numbers.is_null() & column.is_not_null()).to_numpy(), "a number")
    _reject(column, np.abs(x_T) > MAX_MAGNITUDE, f"a number of at most {MAX_MAGNITUDE:g} in magnitude")
    return x_T


def read_vectors(column: pl.Series, width: int | None) -> Scores:
    """Return vectors, ``(T, W)``; rows of NaN where missing."""
    if width is not None and column.null_count() == len(column):
        return np.full((len(column), width), np.nan, np.float32)
    inner: Any = getattr(column.dtype, "inner", None)
    if inner is None or not inner.is_numeric():
        raise ValueError(f"column '{column.name}': got the type {column.dtype}, expected lists of numbers")
    column = column.cast(pl.List(pl.Float32))
    lengths = column.list.len()
    width = int(lengths.drop_nulls()[0]) if width is None else width
    if not width:
        _reject(column, (lengths == 0).fill_null(False).to_numpy(), "vectors of at least one number")
    _reject(column, (lengths != width).fill_null(False).to_numpy(), f"vectors of {width} numbers")
    known = column.is_not_null().to_numpy()
    x_TW = np.full((len(column), width), np.nan, np.float32)
    x_TW[known] = column.drop_nulls().explode(empty_as_null=True, keep_nulls=True).to_numpy().reshape(-1, width)
    is_wrong_T = known & ~np.isfinite(x_TW).all(1)
    _reject(column, is_wrong_T, "finite numbers")
    return x_TW


def read_times(column: pl.Series) -> pl.Series:
    """Return times in UTC.

    Raises:
        ValueError: the column is neither a date nor a number of seconds, a text is no date, or seconds are not of the
            years 1 to 9999, as those of milliseconds are not; names the row.
    """
    if column.null_count() == len(column):
        return pl.Series(column.name, [None] * len(column), dtype=pl.Datetime("us"))
    if column.dtype in (pl.Date, pl.Datetime):
        times = column.cast(pl.Datetime("us", getattr(column.dtype, "time_zone", None)))
        return times.dt.convert_time_zone("UTC") if getattr(column.dtype, "time_zone", None) else times
    if column.dtype.is_numeric():
        seconds = pl.Series(column.name, read_numbers(column)).fill_nan(None)
        is_wrong_T = ~seconds.is_between(*SECONDS).fill_null(True).to_numpy()
        _reject(column, is_wrong_T, "seconds since 1970, not milliseconds")
        return (seconds * 1e6).cast(pl.Int64).cast(pl.Datetime("us"))
    if column.dtype in TEXTS:
        times = parse_times(column.cast(pl.String))
        _reject(column, (times.is_null() & column.is_not_null()).to_numpy(), "a date and time such as 2024-05-31 18:30")
        return times
    raise ValueError(f"column '{column.name}': got the type {column.dtype}, expected dates or seconds")


def parse_times(texts: pl.Series) -> pl.Series:
    """Return the times that texts say; null where a text is no date and time.

    Times with a zone are converted to UTC.
    """
    try:
        return texts.str.to_datetime(strict=False)
    except pl.exceptions.ComputeError:  # no text has a known format
        return pl.Series(texts.name, [None] * len(texts), dtype=pl.Datetime("us"))


def _reject(column: pl.Series, is_wrong_T: NDArray[np.bool_], expected: str) -> None:
    """Raise an error that names the first row where a column is wrong."""
    if len(rows := np.flatnonzero(is_wrong_T)):
        got = column[int(rows[0])]
        got = got.to_list() if isinstance(got, pl.Series) else got
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        raise CellError(column.name, int(rows[0]), f"got {str(got)[:80]!r}, expected {expected}{more}")
