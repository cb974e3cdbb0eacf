"""Ids and tables at the boundary of the Python API: pandas or Polars in, the same kind out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from segue.core.messages import arg
from segue.core.vocab import Vocab, id_text

__all__ = ["as_frame", "id_texts", "is_frame", "is_pandas", "like_input", "typed_ids"]


def is_pandas(value: object) -> bool:
    """Whether ``value`` is a pandas frame, series or index."""
    return type(value).__module__.partition(".")[0] == "pandas"


def is_frame(value: object) -> bool:
    """Whether ``value`` is a table with named columns: a frame of pandas, Polars, pyarrow, DuckDB, ..."""
    if isinstance(value, pl.DataFrame | pl.LazyFrame):
        return True
    return not isinstance(value, pl.Series) and hasattr(value, "__arrow_c_stream__") and hasattr(value, "columns")


def as_frame(value: Any, name: str) -> pl.DataFrame:
    """Convert an in-memory table to a Polars frame.

    Raises:
        ValueError: a column has mixed types.
    """
    if isinstance(value, pl.LazyFrame):
        return value.collect()
    if isinstance(value, pl.DataFrame):
        return value
    try:
        return pl.DataFrame(value)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        said = " ".join(str(part) for part in error.args)
        raise ValueError(f"{arg(name)} {said}; expected columns of one type each") from None


def like_input(table: pl.DataFrame, source: object) -> Any:
    """Convert ``table`` to pandas where ``source`` is a pandas object; else return it as it is."""
    if not is_pandas(source):
        return table
    import pandas as pd

    return pd.DataFrame({name: _pandas_column(table[name]) for name in table.columns})


def _pandas_column(column: pl.Series) -> Any:
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.to_numpy()
    import pandas as pd

    return pd.Series(column.to_list(), dtype=None if column.dtype == pl.String and len(column) else object)


def id_texts(ids: Any, name: str) -> list[str]:
    """Write one id, or each of several ids, as text.

    Args:
        ids: text or integer; or a list, tuple, set, range, array, series or one-column frame of them.
        name: argument that error messages name.

    Raises:
        ValueError: an id is missing, or something is neither text nor a number.
    """
    if isinstance(ids, str | int | float) or not isinstance(ids, Iterable):
        ids = [ids]
    elif isinstance(ids, Mapping):
        raise ValueError(f"{arg(name)} got a mapping, expected an id or a list of ids")
    elif hasattr(ids, "tolist"):  # arrays, and pandas series
        ids = ids.tolist()
    elif hasattr(ids, "to_list"):
        ids = ids.to_list()
    ids = [*ids]
    types = set(map(type, ids))
    if types <= {str}:
        return [*ids]
    if types <= {int}:
        return list(map(str, ids))
    texts = []
    for one in ids:
        if one is None or one != one:
            raise ValueError(f"{arg(name)} got a missing id, expected text or an integer")
        if not isinstance(one, str) and not hasattr(one, "__int__"):
            raise ValueError(f"{arg(name)} got {one!r} of type {type(one).__name__}, expected text or an integer")
        texts.append(one if isinstance(one, str) else id_text(one))
    return texts


def typed_ids(texts: list[str], vocab: Vocab, name: str) -> pl.Series:
    """Give ids the type that the vocabulary has; they stay text where one of them does not fit."""
    column = pl.Series(name, texts, dtype=pl.String)
    if vocab.id_type == "string":
        return column
    dtype = vocab.decode_typed(_NO_CODES).dtype
    typed = column.cast(dtype, strict=False)
    same = typed.null_count() == 0 and bool((typed.cast(pl.String) == column).all())
    return typed if same else column


def _no_codes() -> Any:
    import numpy as np

    return np.zeros(0, np.int64)


_NO_CODES = _no_codes()
