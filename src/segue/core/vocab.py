"""Outside ids and inside codes, two-way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes, Mask

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Vocab"]


class Vocab:
    """Outside ids, in the order of their codes, two-way.

    Args:
        ids: distinct texts; ``ids[code]`` is the outside id. A function is called at the first use, so that
            opening a dataset does not read its ids.
        size: the number of ids; needed when ``ids`` is a function.
    """

    def __init__(self, ids: Iterable[str] | Callable[[], pl.Series], size: int | None = None) -> None:
        self._load: Callable[[], pl.Series] | None = None
        self._ids: pl.Series | None = None
        self._codes: dict[str, int] | None = None
        if callable(ids):
            if size is None:
                raise ValueError("a vocabulary that is read later needs its size now")
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

    def encode(self, ids: Iterable[str]) -> tuple[Codes, Mask]:
        """Codes of ``ids`` and which of them are known; the code of an unknown id is 0 and means nothing."""
        if self._codes is None:
            self._codes = {text: code for code, text in enumerate(self.ids)}
        found = [self._codes.get(text) for text in ids]
        known = np.array([code is not None for code in found], dtype=np.bool_)
        return np.array([code or 0 for code in found], dtype=np.int32), known

    def decode(self, codes: NDArray[np.integer[Any]]) -> list[str]:
        """The ids of ``codes``."""
        return self.ids.gather(np.asarray(codes, dtype=np.int64)).to_list()
