"""Map external ids to internal codes and back.

Ids are text inside Segue, whatever their type was in the source. A :class:`Vocab` remembers that type, so that results
carry ids as the caller knows them: 64-bit integers in, 64-bit integers out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Mask

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "ID_PATTERN",
    "MAX_ID_LENGTH",
    "Vocab",
    "check_id_table",
    "has_lone_surrogate",
    "id_text",
    "id_type_of",
    "read_ids",
]

MAX_ID_LENGTH = 256
"""Maximum number of characters of an id in the HTTP API."""

ID_PATTERN = r"^[^\x00-\x1f\x7f]+$"
"""Ids in the HTTP API have no control characters, such as tabs."""

SURROGATE = re.compile("[\ud800-\udfff]")

MAX_ROWS_PER_BYTE = 20
"""Maximum number of ids per byte of a table. Sequential numbers take about 0.4 bytes each; a column that repeats one id
takes nearly none, and could need any amount of memory."""

INTEGER_TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def has_lone_surrogate(value: Any) -> bool:
    """Return whether a text, or one of a list, has half of a character.

    JSON and command lines can contain such a half, but no encoding can hold it.
    """
    texts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(text, str) and not text.isascii() and SURROGATE.search(text) for text in texts)


class Vocab:
    """External ids in the order of their codes, with lookup in both directions.

    Args:
        ids: distinct texts; ``ids[code]`` is the external id. A function is called on first use, so that opening a
            dataset does not read its ids.
        size: number of ids; required when ``ids`` is a function.
        id_type: type of the ids in the source: ``string`` or an integer type such as ``int64``.

    Raises:
        ValueError: ``ids`` is a function and ``size`` is missing, or the id type is unknown.
    """

    def __init__(
        self, ids: Iterable[str] | Callable[[], pl.Series], size: int | None = None, id_type: str = "string"
    ) -> None:
        if id_type != "string" and id_type not in INTEGER_TYPES:
            raise ValueError(f"id_type: got '{id_type}', expected string, {', '.join(INTEGER_TYPES)}")
        self.id_type = id_type
        self._load: Callable[[], pl.Series] | None = None
        self._ids: pl.Series | None = None
        self._codes: dict[str, int] | None = None
        if callable(ids):
            if size is None:
                raise ValueError("size: missing, expected the number of ids when they are read on first use")
            self._load, self._size = ids, size
        else:
            import polars as pl

            self._ids = pl.Series("id", ids, dtype=pl.String)
            self._size = len(self._ids)

    def __len__(self) -> int:
        return self._size

    @property
    def ids(self) -> pl.Series:
        """All ids as a text column, row = code."""
        if self._ids is None:
            assert self._load is not None
            self._ids = self._load()
        return self._ids

    def encode(self, ids: Iterable[Any]) -> tuple[Codes, Mask]:
        """Look up the codes of ``ids``, and which ids are known.

        The code of an unknown id is 0 and has no meaning. Integers match the same number written as text, in either
        direction.
        """
        if self._codes is None:
            self._codes = {text: code for code, text in enumerate(self.ids)}
        found = [self._codes.get(one if type(one) is str else id_text(one)) for one in ids]
        known = np.array([code is not None for code in found], dtype=np.bool_)
        return np.array([code or 0 for code in found], dtype=np.int32), known

    def decode(self, codes: NDArray[np.integer[Any]]) -> list[str]:
        """Look up the ids of ``codes`` as text."""
        return self.ids.gather(np.asarray(codes, dtype=np.int64)).to_list()

    def decode_typed(self, codes: NDArray[np.integer[Any]]) -> pl.Series:
        """Look up the ids of ``codes`` in the type that they have in the source."""
        ids = self.ids.gather(np.asarray(codes, dtype=np.int64))
        if self.id_type == "string":
            return ids
        import polars as pl

        types = {name: getattr(pl, name.replace("int", "Int").replace("uI", "UI")) for name in INTEGER_TYPES}
        return ids.cast(types[self.id_type])


def id_type_of(dtype: pl.DataType) -> str:
    """Return the id type of a column.

    It is the integer type of the column, or ``string`` for everything else.
    """
    name = str(dtype).lower()
    return name if name in INTEGER_TYPES else "string"


def id_text(value: Any) -> str:
    """Convert an id to text, as a dataset does.

    A whole number counts as an integer, bytes as UTF-8 text.
    """
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def read_ids(path: Path) -> pl.Series:
    """Read the column ``id`` of a Parquet table.

    Raises:
        ValueError: the table is broken, or an id is missing or occurs twice.
    """
    import polars as pl

    try:
        ids = pl.read_parquet(path, columns=["id"])["id"]
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{path}: broken table: {error}") from None
    if ids.null_count() or ids.n_unique() != len(ids):
        raise ValueError(f"{path}: malformed: an id is missing or occurs twice")
    return ids


def check_id_table(path: Path, size: int) -> None:
    """Check that a Parquet table has ``size`` rows and a text column ``id``.

    Only the metadata of the file is read.

    Raises:
        ValueError: the table is broken, has another number of rows, more than its size permits, or no such column.
    """
    import polars as pl

    try:
        with path.open("rb") as file:
            dtype = pl.read_parquet_schema(file).get("id")
        rows = pl.scan_parquet(path).select(pl.len()).collect().item()
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ValueError(f"{path}: broken table: {error}") from None
    if dtype != pl.String:
        raise ValueError(f"{path}: malformed: column 'id' is {dtype or 'missing'}, expected String")
    if rows != size:
        raise ValueError(f"{path}: malformed: {rows} rows, expected {size}")
    if rows > 1_000 + MAX_ROWS_PER_BYTE * (n_bytes := path.stat().st_size):
        raise ValueError(f"{path}: malformed: {rows} rows in {n_bytes} bytes, which cannot hold as many different ids")
