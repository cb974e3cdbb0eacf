"""Nearest neighbors of each item by co-occurrence.

They are shown beside an item, and rank items when the model is unavailable. The similarity is the shrunk cosine of
co-occurrence (Deshpande and Karypis 2004, doi:10.1145/963770.963776; shrinkage after Bell and Koren 2007,
doi:10.1109/ICDM.2007.90), as in ``item_knn``.

Shapes: I items, m neighbors, N histories.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.events import read_only
from segue.core.files import map_array
from segue.core.types import Codes, Events, Scores
from segue.similarity.nearest import CsrArrays, nearest_neighbors, sparse_product
from segue.similarity.row_similarity import cosine
from segue.similarity.sparse_rows import SparseRows

__all__ = ["NUM_NEIGHBORS", "ItemNeighbors"]

NUM_NEIGHBORS = 50
"""Neighbors stored per item."""

SHRINK = 10.0
"""Added to the denominator of the cosine; keeps similarities based on few users low."""

ARRAY_NAMES = ("codes", "similarity", "lengths")

CHECKED_ROWS = 65_536
"""Rows that are checked at once, to save memory."""


@dataclass(frozen=True, eq=False)
class ItemNeighbors:
    """The nearest neighbors of each item, nearest first; ties in catalog order."""

    codes: Codes
    """``(I, m)`` items."""
    similarity: Scores
    """``(I, m)`` above 0 and below 1, descending along each row."""
    lengths: NDArray[np.int64]
    """``(I,)`` number of neighbors; the rest of a row is item 0 with similarity 0."""

    def __post_init__(self) -> None:
        dtypes: tuple[Any, ...] = (np.int32, np.float32, np.int64)
        for name, dtype in zip(ARRAY_NAMES, dtypes, strict=True):
            object.__setattr__(self, name, read_only(getattr(self, name), dtype))
        if self.codes.shape != self.similarity.shape or self.lengths.shape != self.codes.shape[:1]:
            shapes = ", ".join(f"{name} {getattr(self, name).shape}" for name in ARRAY_NAMES)
            raise ValueError(f"neighbors: {shapes}; expected (I, m), (I, m) and (I,)")

    @classmethod
    def from_histories(
        cls, histories: Events | None, n_items: int, count: int = NUM_NEIGHBORS, shrink: float = SHRINK
    ) -> Self:
        """Compute the neighbors of all items; none without histories."""
        if histories is None or histories.size == 0:
            return cls(
                np.zeros((n_items, 0), np.int32), np.zeros((n_items, 0), np.float32), np.zeros(n_items, np.int64)
            )
        table = SparseRows.from_csr(csr_array(histories.csr(n_items).T))
        similarity_II = nearest_neighbors(
            table, table, cosine, shrink, count, self_rows=np.arange(n_items, dtype=np.int32)
        )
        lengths = np.diff(similarity_II.indptr).astype(np.int64)
        rows = np.repeat(np.arange(n_items), lengths)
        order = np.lexsort((similarity_II.indices, -similarity_II.data, rows))
        positions = np.arange(len(rows)) - np.repeat(similarity_II.indptr[:-1], lengths)
        max_neighbors = int(lengths.max(initial=0))
        codes, similarity = np.zeros((n_items, max_neighbors), np.int32), np.zeros((n_items, max_neighbors), np.float32)
        codes[rows, positions], similarity[rows, positions] = similarity_II.indices[order], similarity_II.data[order]
        return cls(codes, similarity, lengths)

    def with_items(self, n_added: int) -> ItemNeighbors:
        """Return the neighbors of a catalog with further items, which have none."""
        return ItemNeighbors(
            np.pad(self.codes, ((0, n_added), (0, 0))),
            np.pad(self.similarity, ((0, n_added), (0, 0))),
            np.pad(self.lengths, (0, n_added)),
        )

    def nearest(self, code: int, k: int) -> tuple[Codes, Scores]:
        """Return at most ``k`` nearest items of an item and their similarities."""
        count = min(k, int(self.lengths[code]))
        return self.codes[code, :count], self.similarity[code, :count]

    def score(self, history: Events) -> Scores:
        """Score every item ``(N, I)`` by its similarity to the items of each history.

        The score is the sum of the similarities to those distinct items of the history that have the item as a
        neighbor; 0 if there are none.
        """
        n_items = len(self.lengths)
        return sparse_product(history.csr(n_items), self._sparse_rows, n_items)

    @cached_property
    def _sparse_rows(self) -> CsrArrays:
        # rows as stored on disk: entries beyond the lengths have similarity 0 and add nothing
        offsets = np.arange(len(self.lengths) + 1, dtype=np.int64) * self.codes.shape[1]
        return offsets, self.codes.ravel(), self.similarity.ravel()

    def write(self, folder: Path) -> None:
        """Write the arrays to an existing folder."""
        for name in ARRAY_NAMES:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def read(cls, folder: Path, n_items: int) -> Self:
        """Open what :meth:`write` wrote, as memory-mapped arrays.

        Raises:
            ValueError: an item or the length of a row is out of range, or the neighbors are those of another catalog.
        """
        paths = {name: folder / f"{name}.npy" for name in ARRAY_NAMES}
        found = cls(
            codes=map_array(paths["codes"], np.int32, 2),
            similarity=map_array(paths["similarity"], np.float32, 2),
            lengths=map_array(paths["lengths"], np.int64),
        )
        limits = {"codes": n_items - 1, "lengths": found.codes.shape[1]}
        for name, limit in limits.items():
            array = getattr(found, name)
            if array.size and not 0 <= int(array.min()) <= int(array.max()) <= limit:
                raise ValueError(f"{paths[name]}: malformed: {array.min()} to {array.max()}, expected 0 to {limit}")
        if len(found.lengths) != n_items or not np.isfinite(found.similarity).all():
            raise ValueError(f"{folder}: malformed: {len(found.lengths)} rows of neighbors for {n_items} items")
        for start in range(0, n_items, CHECKED_ROWS):
            found._check_rows(slice(start, start + CHECKED_ROWS), folder)
        return found

    def _check_rows(self, rows: slice, folder: Path) -> None:
        """Check that the neighbors of items are ordered, and that unused cells are zero.

        Raises:
            ValueError: they are not.
        """
        codes, similarity = self.codes[rows], self.similarity[rows]
        is_used = np.arange(codes.shape[1]) < self.lengths[rows, None]
        own_codes = np.arange(rows.start, rows.start + len(codes))[:, None]
        is_valid = np.where(
            is_used, (similarity > 0) & (similarity <= 1) & (codes != own_codes), (similarity == 0) & (codes == 0)
        )
        is_ordered = (similarity[:, 1:] <= similarity[:, :-1]).all()
        sorted_codes = np.sort(np.where(is_used, codes, -1), axis=1)
        is_repeated = (sorted_codes[:, 1:] == sorted_codes[:, :-1]) & (sorted_codes[:, 1:] >= 0)
        if not is_valid.all() or not is_ordered or is_repeated.any():
            raise ValueError(
                f"{folder}: malformed: the neighbors of an item must be other items, each once, with similarities "
                "from 1 to above 0, descending"
            )
