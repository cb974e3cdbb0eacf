"""Mark items already seen before each target, so that the loss can exclude them.

Shapes: B sequences, M targets, T events before the ends of the sequences, I items, K given items, U of them distinct.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

__all__ = ["SeenItems"]


@dataclass(frozen=True, eq=False)
class SeenItems:
    """Complete histories of the sequences of a batch.

    They come with the number of events before each target.
    """

    items_T: Tensor
    """int64 item codes, concatenated by sequence."""
    rows_T: Tensor
    """int64 sequence of each event, ascending."""
    positions_T: Tensor
    """int32 position of each event in its history."""
    rows_M: Tensor
    """int64 sequence of each target, ascending."""
    n_before_M: Tensor
    """int32 number of history events before each target: those at lower positions count as seen."""

    def to(self, device: str) -> Self:
        """Return a copy on ``device``."""
        return type(self)(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def catalog_mask(self, start: int, stop: int, n_items: int) -> Tensor:
        """Return which catalog items are seen before the targets ``start:stop``.

        The shape is ``(stop - start, I)``.
        """
        rows_M = self.rows_M[start:stop]
        first, last = int(rows_M[0]), int(rows_M[-1])
        begin, end = torch.searchsorted(self.rows_T, torch.stack([rows_M[0], rows_M[-1] + 1])).tolist()
        part = slice(begin, end)
        earliest = self._earliest(last - first + 1, n_items, self.rows_T[part] - first, self.items_T[part], part)
        return earliest.index_select(0, rows_M - first) < self.n_before_M[start:stop, None]

    def mask_for_items(self, items_K: Tensor) -> Tensor:
        """Return which of the ``items_K`` are seen before each target, ``(M, K)``."""
        distinct_U, inverse_K = torch.unique(items_K, return_inverse=True)
        at_T = torch.searchsorted(distinct_U, self.items_T).clamp_max(len(distinct_U) - 1)
        found = (distinct_U[at_T] == self.items_T).nonzero()[:, 0]
        sequences = int(self.rows_M[-1]) + 1
        earliest = self._earliest(sequences, len(distinct_U), self.rows_T[found], at_T[found], found)
        return (earliest.index_select(0, self.rows_M) < self.n_before_M[:, None]).index_select(1, inverse_K)

    def _earliest(self, rows: int, columns: int, row: Tensor, column: Tensor, events: slice | Tensor) -> Tensor:
        """Return the lowest position of the ``events`` in each cell.

        The shape is ``(rows, columns)``; cells without events have the int32 maximum.
        """
        inside = row < rows
        positions = self.positions_T[events]
        cells = torch.full((rows * columns,), torch.iinfo(torch.int32).max, dtype=torch.int32, device=positions.device)
        cells.scatter_reduce_(0, (row * columns + column)[inside], positions[inside], "amin")
        return cells.view(rows, columns)
