"""The nearest items of each item by who had both: shown beside an item, and what answers when the model cannot.

The likeness is the cosine of co-occurrence, drawn towards zero where it rests on few people (Deshpande and Karypis
2004, doi:10.1145/963770.963776; shrinkage after Bell and Koren 2007, doi:10.1109/ICDM.2007.90), as ``item_knn`` has it.

Shapes: I items, m neighbours, N histories.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.events import frozen
from segue.core.types import Codes, Events, Scores
from segue.similarity.nearest import Rows, nearest, spread
from segue.similarity.row_similarity import cosine
from segue.similarity.sparse_rows import Table

__all__ = ["COUNT", "Neighbours"]

COUNT = 50
"""Neighbours of an item that are kept."""

SHRINK = 10.0
"""Added below the line of the cosine; two items that only a few people had are not alike for that."""

NAMES = ("codes", "likeness", "lengths")


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For each item its nearest, the nearest first; of equals, the first in the catalogue."""

    codes: Codes
    """``(I, m)`` items."""
    likeness: Scores
    """``(I, m)`` above 0 and below 1, falling along a row."""
    lengths: NDArray[np.int64]
    """``(I,)`` neighbours there are; what stands beyond is item 0 with likeness 0."""

    def __post_init__(self) -> None:
        kinds: tuple[Any, ...] = (np.int32, np.float32, np.int64)
        for name, kind in zip(NAMES, kinds, strict=True):
            object.__setattr__(self, name, frozen(getattr(self, name), kind))
        if self.codes.shape != self.likeness.shape or self.lengths.shape != self.codes.shape[:1]:
            shapes = ", ".join(f"{name} {getattr(self, name).shape}" for name in NAMES)
            raise ValueError(f"neighbours: {shapes}; expected (I, m), (I, m) and (I,)")

    @classmethod
    def found(cls, histories: Events | None, n_items: int, count: int = COUNT, shrink: float = SHRINK) -> Self:
        """The neighbours of all items among the people of ``histories``; none at all without histories."""
        if histories is None or histories.size == 0:
            return cls(
                np.zeros((n_items, 0), np.int32), np.zeros((n_items, 0), np.float32), np.zeros(n_items, np.int64)
            )
        table = Table.of(csr_array(histories.csr(n_items).T))
        near_II = nearest(table, table, cosine, shrink, count, itself=np.arange(n_items, dtype=np.int32))
        lengths = np.diff(near_II.indptr).astype(np.int64)
        rows = np.repeat(np.arange(n_items), lengths)
        order = np.lexsort((near_II.indices, -near_II.data, rows))
        places = np.arange(len(rows)) - np.repeat(near_II.indptr[:-1], lengths)
        width = int(lengths.max(initial=0))
        codes, likeness = np.zeros((n_items, width), np.int32), np.zeros((n_items, width), np.float32)
        codes[rows, places], likeness[rows, places] = near_II.indices[order], near_II.data[order]
        return cls(codes, likeness, lengths)

    def of(self, code: int, k: int) -> tuple[Codes, Scores]:
        """The ``k`` nearest items of an item, or as many as there are, and how like they are."""
        count = min(k, int(self.lengths[code]))
        return self.codes[code, :count], self.likeness[code, :count]

    def scores(self, history: Events) -> Scores:
        """``(N, I)`` the likeness of every item to those of each history, summed over the distinct items of the
        history that it is a neighbour of; 0 where there is none."""
        n_items = len(self.lengths)
        return spread(history.csr(n_items), self._rows, n_items)

    @cached_property
    def _rows(self) -> Rows:
        # as they lie on disk: what stands beyond the lengths has no likeness and adds nothing
        offsets = np.arange(len(self.lengths) + 1, dtype=np.int64) * self.codes.shape[1]
        return offsets, self.codes.ravel(), self.likeness.ravel()

    def write(self, folder: Path) -> None:
        """Write the arrays to an existing folder."""
        for name in NAMES:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What :meth:`write` wrote, left on disk until it is looked at."""
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in NAMES}
        return cls(**arrays)
