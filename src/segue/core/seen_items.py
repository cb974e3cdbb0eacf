"""Items that a history already has where something is asked for: what nobody recommends is no wrong answer.

Shapes: B sequences, M targets, T events before the ends of the sequences, I items, K items asked about, U of them
distinct.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from segue.core.batches import SequenceBatch, Windows

__all__ = ["Seen"]


@dataclass(frozen=True, eq=False)
class Seen:
    """The whole history of each sequence of a batch, and how much of it lies before each target."""

    items_T: Tensor
    """int64 item codes, sequence by sequence."""
    rows_T: Tensor
    """int64 the sequence of each event, rising."""
    places_T: Tensor
    """int32 events before it in its history."""
    rows_M: Tensor
    """int64 the sequence of each target, rising."""
    until_M: Tensor
    """int32 events of its history that count for each target: those in places below."""

    @classmethod
    def of(cls, windows: Windows, batch: SequenceBatch) -> Self:
        """What stands before each target of a ``batch`` of ``windows``, and before the end of one for a hidden item."""
        positions_M = batch.positions_M.numpy()
        rows_M, place_M = np.divmod(positions_M, batch.items_BL.shape[1])
        hidden_M = batch.items_BL.flatten().numpy()[positions_M] > windows.n_items
        begin_B = windows.histories.offsets[windows.rows]
        until_M = np.where(hidden_M, windows.stop[rows_M], windows.start[rows_M] + place_M) - begin_B[rows_M]
        counts_B = windows.stop - begin_B
        rows_T = np.repeat(np.arange(len(begin_B)), counts_B)
        places_T = np.arange(len(rows_T)) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
        items_T = windows.histories.items[begin_B[rows_T] + places_T].astype(np.int64)
        arrays = items_T, rows_T, places_T.astype(np.int32), rows_M, until_M.astype(np.int32)
        return cls(*(torch.from_numpy(array) for array in arrays))

    def to(self, device: str) -> Self:
        """The same on ``device``."""
        return type(self)(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def in_catalogue(self, start: int, stop: int, n_items: int) -> Tensor:
        """``(stop - start, I)`` whether the targets ``start:stop`` find the items of the catalogue in their history."""
        rows_M = self.rows_M[start:stop]
        first, last = int(rows_M[0]), int(rows_M[-1])
        begin, end = torch.searchsorted(self.rows_T, torch.stack([rows_M[0], rows_M[-1] + 1])).tolist()
        part = slice(begin, end)
        earliest = self._earliest(last - first + 1, n_items, self.rows_T[part] - first, self.items_T[part], part)
        return earliest.index_select(0, rows_M - first) < self.until_M[start:stop, None]

    def among(self, items_K: Tensor) -> Tensor:
        """``(M, K)`` whether each target finds the ``items`` in its history."""
        distinct_U, back_K = torch.unique(items_K, return_inverse=True)
        at_T = torch.searchsorted(distinct_U, self.items_T).clamp_max(len(distinct_U) - 1)
        found = (distinct_U[at_T] == self.items_T).nonzero()[:, 0]
        sequences = int(self.rows_M[-1]) + 1
        earliest = self._earliest(sequences, len(distinct_U), self.rows_T[found], at_T[found], found)
        return (earliest.index_select(0, self.rows_M) < self.until_M[:, None]).index_select(1, back_K)

    def _earliest(self, rows: int, columns: int, row: Tensor, column: Tensor, events: slice | Tensor) -> Tensor:
        """``(rows, columns)`` the place of the first of the ``events`` that falls on each cell, or one beyond all."""
        inside = row < rows
        places = self.places_T[events]
        cells = torch.full((rows * columns,), torch.iinfo(torch.int32).max, dtype=torch.int32, device=places.device)
        cells.scatter_reduce_(0, (row * columns + column)[inside], places[inside], "amin")
        return cells.view(rows, columns)
