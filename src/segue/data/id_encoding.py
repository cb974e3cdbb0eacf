"""Outside ids to codes 0..n-1: in the order of the numbers where all ids are whole numbers, else of the text."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.types import Codes

__all__ = ["encode", "sort_log"]

DENSE = 8
"""Whole numbers spread over at most so many times their count are looked up in a table."""


def encode(ids: pl.Series) -> tuple[pl.Series, Codes]:
    """The distinct ids as text, row = code, and the code of each of ``ids``."""
    if not ids.dtype.is_integer():
        distinct = ids.unique().sort()
        return distinct.alias("id"), ids.cast(pl.Enum(distinct)).to_physical().to_numpy().astype(np.int32)
    numbers = ids.to_numpy()
    low, high = int(numbers.min()), int(numbers.max())
    if high - low < DENSE * len(numbers) + 1000:
        seen = np.zeros(high - low + 1, np.bool_)
        seen[numbers - low] = True
        codes = (np.cumsum(seen, dtype=np.int32) - 1)[numbers - low]
        return pl.Series("id", np.flatnonzero(seen) + low).cast(pl.String), codes
    distinct = ids.unique().sort()
    codes = np.searchsorted(distinct.to_numpy(), numbers).astype(np.int32)
    return distinct.cast(pl.String).alias("id"), codes


def sort_log(users: Codes, times: NDArray[Any] | None) -> NDArray[np.int64] | None:
    """The order by user, then time, then row of the file; ``None`` where the rows already are in it."""
    if times is None:
        key = users
    elif times.dtype.kind == "f":
        return np.lexsort((times, users))
    else:
        low, span = int(times.min()), int(times.max()) - int(times.min()) + 1
        if span * (int(users.max()) + 1) >= 2**63:
            return np.lexsort((times, users))
        key = users * np.int64(span) + (times - low)
    if (key[1:] >= key[:-1]).all():
        return None
    return np.argsort(key, kind="stable")
