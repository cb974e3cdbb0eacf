"""Convert ids and tables at the boundary of the Python API.

Results have the same kind as the input: pandas or Polars.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from segue.core.messages import arg
from segue.core.vocab import Vocab, has_lone_surrogate, id_text

__all__ = ["as_frame", "check_text", "id_texts", "is_frame", "is_pandas", "like_input", "positive_integer", "typed_ids"]


def is_pandas(value: object) -> bool:
    """Check whether ``value`` is a pandas frame, series or index."""
    return type(value).__module__.partition(".")[0] == "pandas"


def is_frame(value: object) -> bool:
    """Check whether ``value`` is a table with named columns.

    Examples are frames of pandas, Polars, pyarrow and DuckDB.
    """
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
        raise ValueError(f"{arg(name)}: {said}; expected columns of one type each") from None


def like_input(table: pl.DataFrame, source: object, index: Any = None) -> Any:
    """Convert ``table`` to pandas if ``source`` is a pandas object.

    Otherwise, return it unchanged.

    Args:
        index: index of the pandas frame; ``None``: numbers from 0.
    """
    if not is_pandas(source):
        return table
    import pandas as pd

    frame = pd.DataFrame({name: _pandas_column(table[name]) for name in table.columns})
    return frame.set_axis(index, axis="index") if index is not None else frame


def _pandas_column(column: pl.Series) -> Any:
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.to_numpy()
    import pandas as pd

    return pd.Series(column.to_list(), dtype=None if column.dtype == pl.String and len(column) else object)


def id_texts(ids: Any, name: str) -> list[str]:
    """Convert one id, or each of several ids, to text.

    Args:
        ids: text or integer; or a list, tuple, set, range, array or series of them; or a frame with a column
            ``item_id``, or with one column.
        name: argument that error messages name.

    Raises:
        ValueError: an id is missing, or something is neither text nor a number.
    """
    if isinstance(ids, Mapping | bytes):
        raise ValueError(f"{arg(name)}: got {type(ids).__name__}, expected an id or a list of ids")
    if is_frame(ids):
        ids = _id_column(as_frame(ids, name), name)
    elif isinstance(ids, str | int | float) or not isinstance(ids, Iterable):
        ids = [ids]
    elif hasattr(ids, "tolist"):  # arrays, and pandas series
        ids = ids.tolist()
    elif hasattr(ids, "to_list"):
        ids = ids.to_list()
    ids = (
        [*ids] if isinstance(ids, Iterable) and not isinstance(ids, str) else [ids]
    )  # an array without dimensions holds one id
    types = set(map(type, ids))
    if types <= {str}:
        return _check_texts([*ids], name)
    if types <= {int}:
        return list(map(str, ids))
    texts = []
    for one in ids:
        if one is None or (isinstance(one, float) and one != one):
            raise ValueError(f"{arg(name)}: got a missing id, expected text or an integer")
        if isinstance(one, bool | np.bool_ | type) or not (isinstance(one, str) or hasattr(one, "__int__")):
            raise ValueError(f"{arg(name)}: got {one!r} of type {type(one).__name__}, expected text or an integer")
        texts.append(one if isinstance(one, str) else id_text(one))
    return _check_texts(texts, name)


def check_text(text: str, name: str) -> None:
    """Check that a text can be encoded.

    Raises:
        ValueError: it has a lone surrogate.
    """
    if has_lone_surrogate(text):
        raise ValueError(f"{arg(name)}: got {text!r}, expected text without lone surrogates")


def _check_texts(texts: list[str], name: str) -> list[str]:
    """Check that texts can be encoded, and return them."""
    if has_lone_surrogate("".join(texts)):
        for text in texts:
            check_text(text, name)
    return texts


def _id_column(table: pl.DataFrame, name: str) -> list[Any]:
    """Return the column ``item_id`` of a frame, or its only column."""
    column = "item_id" if "item_id" in table.columns else table.columns[0] if table.width == 1 else None
    if column is None:
        raise ValueError(
            f"{arg(name)}: got a frame with the columns {', '.join(table.columns) or '(none)'}, expected a column "
            "item_id, or a single column of ids"
        )
    return table[column].to_list()


def positive_integer(value: Any, name: str) -> int:
    """Check that an argument is an integer of at least 1.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{arg(name)}: got {value!r}, expected an integer of at least 1")
    return int(value)


def typed_ids(texts: list[str], vocab: Vocab, name: str) -> pl.Series:
    """Convert ids to the id type of the vocabulary.

    They stay text if one of them cannot be converted.
    """
    column = pl.Series(name, texts, dtype=pl.String)
    if vocab.id_type == "string":
        return column
    dtype = vocab.decode_typed(_NO_CODES).dtype
    typed = column.cast(dtype, strict=False)
    same = typed.null_count() == 0 and bool((typed.cast(pl.String) == column).all())
    return typed if same else column


_NO_CODES = np.zeros(0, np.int64)
