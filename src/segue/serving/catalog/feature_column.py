"""One column of a catalogue: what items are asked for by it, and which values each of them has.

Every column is held as the values that are known, one after the other, and the item of each: an item has one value,
several (a list of tags), or none where nothing is known of it.

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

__all__ = ["Column", "Groups"]

TEXTS = (pl.String, pl.Categorical, pl.Enum)

LONGEST = 1024
"""Characters of a text that are shown; see :data:`segue.serving.schemas.Scalar`."""

HOLDS = {"text": "texts", "boolean": "true or false", "number": "numbers", "time": "times, in seconds since 1970"}


@dataclass(frozen=True, eq=False)
class Groups:
    """The distinct values of each item: those of item i are ``codes[offsets[i]:offsets[i + 1]]``."""

    offsets: NDArray[np.int64]
    """``(I + 1,)``"""
    codes: Codes
    """``(T,)`` row of ``values``."""
    values: pl.Series
    """``(V,)`` distinct, in their order."""

    def __len__(self) -> int:
        """The number of items, I."""
        return len(self.offsets) - 1

    @cached_property
    def rows(self) -> NDArray[np.int32]:
        """``(T,)`` the item of each value."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))

    def of(self, items: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], Codes]:
        """For the values of all of ``items``: the place in ``items`` that each belongs to, and its code."""
        starts = self.offsets[items]
        lengths = self.offsets[items + 1] - starts
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        rows = np.repeat(np.arange(len(items)), lengths)
        return rows, self.codes[np.arange(total) + np.repeat(starts - ends + lengths, lengths)]


class Column:
    """One column, read when it is first asked for anything. Any thread may ask.

    Args:
        series: ``(I,)`` its cells, row = item code.
    """

    def __init__(self, series: pl.Series) -> None:
        inner: Any = getattr(series.dtype, "inner", None)
        self.name = series.name
        self.listed = inner is not None
        self._series = series
        self._type: pl.DataType = series.dtype if inner is None else inner

    @cached_property
    def kind(self) -> Literal["text", "boolean", "number", "time", "vector", "other"]:
        """What it holds, or a list of; an empty column is of texts."""
        held = self._type
        if held in TEXTS or held in (pl.Null, pl.Time):
            return "text"
        if held == pl.Boolean:
            return "boolean"
        if held.is_temporal():
            return "time"
        if self.listed and held.is_float():
            return "vector"
        return "number" if held.is_numeric() else "other"

    @property
    def holds(self) -> str:
        """The same in words."""
        told = HOLDS.get(self.kind, self.kind if self.kind == "vector" else str(self._type))
        return f"lists of {told}" if self.listed and self.kind != "vector" else told

    def cell(self, code: int) -> Any:
        """What the column tells of an item, as it can go into JSON; nothing of vectors and the like."""
        if self.kind in ("vector", "other"):
            return None
        value = self._series[code]
        if isinstance(value, pl.Series):
            return [shown for part in value if (shown := _shown(part)) is not None]
        return _shown(value)

    @cached_property
    def _known(self) -> tuple[NDArray[np.int32], pl.Series]:
        """``(T,)`` the item of each known value, and the values: texts, booleans or numbers."""
        if self.kind in ("vector", "other"):
            raise ValueError(f"{self.name}: nothing can be asked of it: the catalogue holds {self.holds} there")
        cells = self._series.cast(pl.List(self._type)) if isinstance(self._series.dtype, pl.Array) else self._series
        table = pl.DataFrame({"row": pl.int_range(len(cells), dtype=pl.Int32, eager=True), "value": cells})
        if self.listed:
            table = table.explode("value")
        value = pl.col("value")
        if self.kind == "text":
            value = value.cast(pl.String)
        elif self.kind == "time":
            value = _seconds(value, self._type)
        elif self.kind == "number" and not self._type.is_integer():
            value = value.cast(pl.Float64).fill_nan(None)
        table = table.with_columns(value).drop_nulls()
        return table["row"].to_numpy(), table["value"]

    @cached_property
    def _coded(self) -> tuple[Codes, pl.Series]:
        """``(T,)`` the code of each known value, and the distinct values ``(V,)`` in their order."""
        values = self._known[1]
        if self.kind == "text":
            distinct = values.unique().sort()
            return values.cast(pl.Enum(distinct)).to_physical().to_numpy().astype(np.int32), distinct
        numbers, codes = np.unique(values.to_numpy(), return_inverse=True)
        return codes.astype(np.int32), pl.Series(self.name, numbers)

    @cached_property
    def groups(self) -> Groups:
        """The distinct values of each item.

        Raises:
            ValueError: of vectors and the like.
        """
        rows, (codes, distinct) = self._known[0], self._coded
        if self.listed:  # a tag may be told twice
            pairs = np.sort(rows.astype(np.int64) * max(1, len(distinct)) + codes)
            rows, codes = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], max(1, len(distinct)))
        offsets = np.searchsorted(rows, np.arange(len(self._series) + 1))
        return Groups(offsets, codes.astype(np.int32), distinct)

    def meets(self, condition: schemas.Condition) -> Mask:
        """``(I,)`` which items meet it.

        Raises:
            ValueError: it asks for what the column cannot hold.
        """
        rows, values = self._known
        found = np.ones(len(self._series), np.bool_)
        if condition.any is not None:
            found &= self._hit(rows, self._among(values, condition.any))
        if condition.none is not None:
            found &= ~self._hit(rows, self._among(values, condition.none))
        if condition.min is not None or condition.max is not None:
            if self.kind not in ("number", "time"):
                name, bound = ("min", condition.min) if condition.min is not None else ("max", condition.max)
                raise ValueError(
                    f"{self.name}: {name} {bound} asks for numbers, the catalogue holds {self.holds} there"
                )
            numbers = values.to_numpy()
            low = -np.inf if condition.min is None else condition.min
            high = np.inf if condition.max is None else condition.max
            found &= self._hit(rows, (numbers >= low) & (numbers <= high))
        return found

    def _hit(self, rows: NDArray[np.int32], hits_T: Mask) -> Mask:
        found = np.zeros(len(self._series), np.bool_)
        found[rows[hits_T]] = True
        return found

    def _among(self, values: pl.Series, wanted: Sequence[schemas.Scalar]) -> Mask:
        """``(T,)`` which values are among those wanted."""
        told = [self._read(one) for one in wanted]
        if self.kind == "text":
            codes, distinct = self._coded
            asked = pl.Series(told, dtype=pl.String)
            places = asked.to_frame("text").with_columns(place=distinct.search_sorted(asked))
            there = places.filter(pl.col("place") < len(distinct))
            there = there.filter(pl.col("text") == distinct.gather(there["place"]))
            table_V = np.zeros(len(distinct), np.bool_)
            table_V[there["place"].to_numpy()] = True
            return table_V[codes]
        numbers = values.to_numpy()
        if self.kind == "number" and numbers.dtype.kind in "iu":
            bounds = np.iinfo(numbers.dtype)
            told = [int(one) for one in told if bounds.min <= one <= bounds.max and one == int(one)]
        return np.isin(numbers, np.array(told, numbers.dtype))

    def _read(self, value: schemas.Scalar) -> Any:
        """A value as the column holds it."""
        fits = {"text": isinstance(value, str), "boolean": isinstance(value, bool)}.get(
            self.kind, isinstance(value, int | float) and not isinstance(value, bool)
        )
        if self.kind == "time" and isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
                return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
            except ValueError:
                fits = False
        if not fits:
            raise ValueError(f"{self.name}: got {value!r}, the catalogue holds {self.holds} there")
        if self.kind in ("number", "time"):
            try:
                return value if isinstance(value, int) and abs(value) < 2**64 else float(value)
            except OverflowError:  # an integer of hundreds of digits
                return np.inf if isinstance(value, int) and value > 0 else -np.inf
        return value


def _seconds(value: pl.Expr, held: pl.DataType) -> pl.Expr:
    if held == pl.Duration:
        return value.dt.total_microseconds() / 1e6
    return value.cast(pl.Datetime("us")).to_physical() / 1e6


def _shown(value: Any) -> Any:
    """As JSON can have it; ``None`` for what it cannot."""
    if isinstance(value, str):
        return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if np.isfinite(float(value)) else None
    if isinstance(value, date | clock):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else None
