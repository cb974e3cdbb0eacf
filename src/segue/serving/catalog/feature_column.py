"""One feature column of a catalog: its values per item and conditions on them.

A column is stored as its known values, one after the other, and the item of each: an item has one value, several (a
list of tags), or none if the value is unknown.

Shapes: I items, T values of all items in total, V distinct values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.events import Codes, Mask
from segue.serving import schemas

__all__ = ["FeatureColumn", "ItemValues"]

TEXT_TYPES = (pl.String, pl.Categorical, pl.Enum)

MAX_TEXT_LENGTH = 1024
"""Characters of a text that are shown; see :data:`segue.serving.schemas.Scalar`."""

KIND_NAMES = {
    "text": "texts",
    "boolean": "booleans",
    "number": "numbers",
    "time": "times (seconds since 1970 or ISO 8601)",
    "vector": "vectors",
}


@dataclass(frozen=True, eq=False)
class ItemValues:
    """The distinct values of each item.

    The values of item i are ``codes[offsets[i]:offsets[i + 1]]``.
    """

    offsets: NDArray[np.int64]
    """``(I + 1,)``"""
    codes: Codes
    """``(T,)`` row of ``values``."""
    values: pl.Series
    """``(V,)`` distinct, sorted."""

    def __len__(self) -> int:
        """Return the number of items, I."""
        return len(self.offsets) - 1

    @cached_property
    def rows(self) -> NDArray[np.int32]:
        """``(T,)`` the item of each value."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))

    def codes_of(self, item: int) -> list[int]:
        """Return the codes of the values of one item."""
        codes: list[int] = self.codes[self.offsets[item] : self.offsets[item + 1]].tolist()
        return codes

    def gather(self, items: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], Codes]:
        """Return the values of ``items``.

        Each value is given as the index of its item in ``items`` and its code.
        """
        starts = self.offsets[items]
        lengths = self.offsets[items + 1] - starts
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        rows = np.repeat(np.arange(len(items)), lengths)
        return rows, self.codes[np.arange(total) + np.repeat(starts - ends + lengths, lengths)]


class FeatureColumn:
    """One feature column, read on first use. Thread-safe.

    Args:
        series: ``(I,)`` its cells, row = item code.
    """

    def __init__(self, series: pl.Series) -> None:
        inner: Any = getattr(series.dtype, "inner", None)
        self.name = series.name
        self.is_list = inner is not None
        self._series = series
        self._type: pl.DataType = series.dtype if inner is None else inner

    @cached_property
    def kind(self) -> Literal["text", "boolean", "number", "time", "vector", "other"]:
        """Type of the values, or of the elements of lists; an empty column is text."""
        dtype = self._type
        if dtype in TEXT_TYPES or dtype in (pl.Null, pl.Time):
            return "text"
        if dtype == pl.Boolean:
            return "boolean"
        if dtype.is_temporal():
            return "time"
        if self.is_list and dtype.is_float():
            return "vector"
        return "number" if dtype.is_numeric() else "other"

    @property
    def value_type(self) -> str:
        """Type of the values in words, for error messages."""
        name = KIND_NAMES.get(self.kind, str(self._type))
        return f"lists of {name}" if self.is_list and self.kind != "vector" else name

    @property
    def texts(self) -> pl.Series | None:
        """Return the ``(I,)`` texts; ``None`` unless items have one text each."""
        return self._series.cast(pl.String) if self._type in TEXT_TYPES and not self.is_list else None

    def value_of(self, code: int) -> Any:
        """Return the value of an item for JSON; ``None`` for vectors and the like."""
        if self.kind in ("vector", "other"):
            return None
        value = self._series[code]
        if isinstance(value, pl.Series):
            return [json_value for element in value if (json_value := _to_json(element)) is not None]
        return _to_json(value)

    @cached_property
    def _known_values(self) -> tuple[NDArray[np.int32], pl.Series]:
        """``(T,)`` the item of each known value, and the values.

        Values are texts, booleans or numbers.
        """
        if self.kind in ("vector", "other"):
            raise ValueError(f"{self.name}: cannot be used in rules: the feature holds {self.value_type}")
        cells = self._series.cast(pl.List(self._type)) if isinstance(self._series.dtype, pl.Array) else self._series
        table = pl.DataFrame({"row": pl.int_range(len(cells), dtype=pl.Int32, eager=True), "value": cells})
        if self.is_list:
            table = table.explode("value")
        value = pl.col("value")
        if self.kind == "text":
            value = value.cast(pl.String)
        elif self.kind == "time":
            value = _to_seconds(value, self._type)
        elif self.kind == "number" and not self._type.is_integer():
            value = value.cast(pl.Float64).fill_nan(None)
        table = table.with_columns(value).drop_nulls()
        return table["row"].to_numpy(), table["value"]

    @cached_property
    def _encoded_values(self) -> tuple[Codes, pl.Series]:
        """``(T,)`` the code of each known value, and the sorted distinct values ``(V,)``."""
        values = self._known_values[1]
        if self.kind == "text":
            distinct = values.unique().sort()
            return values.cast(pl.Enum(distinct)).to_physical().to_numpy().astype(np.int32), distinct
        numbers, codes = np.unique(values.to_numpy(), return_inverse=True)
        return codes.astype(np.int32), pl.Series(self.name, numbers)

    @cached_property
    def item_values(self) -> ItemValues:
        """The distinct values of each item.

        Raises:
            ValueError: the column holds vectors or the like.
        """
        rows, (codes, distinct) = self._known_values[0], self._encoded_values
        if self.is_list:  # a list may hold a tag twice
            pairs = np.sort(rows.astype(np.int64) * max(1, len(distinct)) + codes)
            rows, codes = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], max(1, len(distinct)))
        offsets = np.searchsorted(rows, np.arange(len(self._series) + 1))
        return ItemValues(offsets, codes.astype(np.int32), distinct)

    def filter_mask(self, condition: schemas.Condition) -> Mask:
        """Return which items ``(I,)`` match the condition.

        Raises:
            ValueError: the condition does not fit the type of the column.
        """
        rows, values = self._known_values
        mask = np.ones(len(self._series), np.bool_)
        if condition.any is not None:
            mask &= self._items_with(rows, self._is_in(values, condition.any))
        if condition.none is not None:
            mask &= ~self._items_with(rows, self._is_in(values, condition.none))
        if condition.min is not None or condition.max is not None:
            if self.kind not in ("number", "time"):
                name, bound = ("min", condition.min) if condition.min is not None else ("max", condition.max)
                raise ValueError(
                    f"{self.name}: {name} {bound} requires a feature of numbers, but it holds {self.value_type}"
                )
            numbers = values.to_numpy()
            low = -np.inf if condition.min is None else self._round(condition.min)
            high = np.inf if condition.max is None else self._round(condition.max)
            mask &= self._items_with(rows, (numbers >= low) & (numbers <= high))
        return mask

    def unknown_values(self, condition: schemas.Condition) -> list[schemas.Scalar]:
        """Return the values in ``any`` and ``none`` of a valid condition that no item has."""
        wanted = list(dict.fromkeys([*(condition.any or ()), *(condition.none or ())]))
        if not wanted or self.kind == "boolean":
            return []
        distinct = self._encoded_values[1]
        if self.kind == "text":
            places = distinct.search_sorted(pl.Series(wanted, dtype=pl.String)).to_list()
            return [
                value
                for value, place in zip(wanted, places, strict=True)
                if place >= len(distinct) or distinct[place] != value
            ]
        known = set(distinct.filter(pl.Series(self._is_in(distinct, wanted))).to_list())
        return [value for value in wanted if self._coerce(value) not in known]

    def _items_with(self, rows: NDArray[np.int32], hits_T: Mask) -> Mask:
        mask = np.zeros(len(self._series), np.bool_)
        mask[rows[hits_T]] = True
        return mask

    def _is_in(self, values: pl.Series, wanted: Sequence[schemas.Scalar]) -> Mask:
        """Return which values ``(T,)`` are among the wanted ones."""
        values_wanted = [self._coerce(one) for one in wanted]
        if self.kind == "text":
            codes, distinct = self._encoded_values
            texts = pl.Series(values_wanted, dtype=pl.String)
            positions = texts.to_frame("text").with_columns(position=distinct.search_sorted(texts))
            found = positions.filter(pl.col("position") < len(distinct))
            found = found.filter(pl.col("text") == distinct.gather(found["position"]))
            table_V = np.zeros(len(distinct), np.bool_)
            table_V[found["position"].to_numpy()] = True
            return table_V[codes]
        numbers = values.to_numpy()
        if self.kind == "number" and numbers.dtype.kind in "iu":
            bounds = np.iinfo(numbers.dtype)
            values_wanted = [int(one) for one in values_wanted if bounds.min <= one <= bounds.max and one == int(one)]
        return np.isin(numbers, np.array(values_wanted, numbers.dtype))

    def _round(self, number: float) -> float:
        """Round a number as the column does: 19.99 is not a number of 32 bits."""
        with np.errstate(over="ignore"):
            return float(np.float32(number)) if self._type == pl.Float32 else number

    def _coerce(self, value: schemas.Scalar) -> Any:
        """Convert a value to the type of the column."""
        is_valid = {"text": isinstance(value, str), "boolean": isinstance(value, bool)}.get(
            self.kind, isinstance(value, int | float) and not isinstance(value, bool)
        )
        if self.kind == "time" and isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            except ValueError:
                is_valid = False
        if not is_valid:
            raise ValueError(f"{self.name}: got {value!r}, but the feature holds {self.value_type}")
        if self.kind in ("number", "time"):
            try:
                is_exact = isinstance(value, int) and abs(value) < 2**64 and self._type.is_integer()
                return value if is_exact else self._round(float(value))
            except OverflowError:  # an integer of hundreds of digits
                return np.inf if isinstance(value, int) and value > 0 else -np.inf
        return value


def _to_seconds(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if dtype == pl.Duration:
        return value.dt.total_microseconds() / 1e6
    return value.cast(pl.Datetime("us")).to_physical() / 1e6


def _to_json(value: Any) -> Any:
    """Convert a value for JSON; ``None`` if that is impossible."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT_LENGTH else value[: MAX_TEXT_LENGTH - 1] + "…"
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if np.isfinite(float(value)) else None
    if isinstance(value, date | clock):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else None
