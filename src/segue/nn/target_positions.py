"""Select the positions whose output is needed.

The last layer then computes only those.

Shapes: B sequences, L positions, D width, M selected positions, K maximum number of them in one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segue.core.batches import SequenceBatch, Sequences

__all__ = ["TargetPositions"]


@dataclass(frozen=True, eq=False)
class TargetPositions:
    """``M`` positions of a batch of sequences, grouped by sequence."""

    rows_M: Tensor
    """int64 sequence of each position, ascending."""
    positions_M: Tensor
    """int64 position in its sequence."""
    slots_M: Tensor
    """int64 index among the selected positions of the same sequence."""
    shape: tuple[int, int]
    """B and K."""

    @classmethod
    def for_batch(cls, batch: Sequences, last_B: Tensor | None, targets_only: bool) -> TargetPositions | None:
        """Return the positions that :meth:`SequenceModel.encode_sequence` has to compute.

        Return ``None`` if it has to compute all.

        Args:
            last_B: the last position of each sequence, where only that is needed.
            targets_only: whether targets are sparse enough that it pays to compute only those.

        """
        if last_B is not None:
            return cls.last(last_B)
        if targets_only and isinstance(batch, SequenceBatch):
            return cls.from_flat(batch.positions_M, *batch.items_BL.shape)
        return None

    @classmethod
    def last(cls, last_B: Tensor) -> TargetPositions:
        """Select one position of each sequence."""
        rows = last_B.shape[0]  # not len(), which would become a constant in an exported graph
        return cls(torch.arange(rows, device=last_B.device), last_B, torch.zeros_like(last_B), (rows, 1))

    @classmethod
    def from_flat(cls, positions_M: Tensor, batch: int, length: int) -> TargetPositions:
        """Select the positions ``b * length + l``, ascending."""
        rows_M = positions_M // length
        counts_B = torch.bincount(rows_M, minlength=batch)
        slots_M = torch.arange(len(rows_M), device=rows_M.device) - (counts_B.cumsum(0) - counts_B)[rows_M]
        return cls(rows_M, positions_M % length, slots_M, (batch, int(counts_B.max())))

    def select(self, x_BLD: Tensor) -> Tensor:
        """Return the selected positions, ``(M, D)``."""
        return x_BLD[self.rows_M, self.positions_M]

    def scatter(self, x_MD: Tensor) -> Tensor:
        """Group the selected positions by sequence, ``(B, K, D)``, padded with zeros."""
        return x_MD.new_zeros(*self.shape, *x_MD.shape[1:]).index_put((self.rows_M, self.slots_M), x_MD)

    def gather(self, x_BKD: Tensor) -> Tensor:
        """Invert :meth:`scatter`, ``(M, D)``."""
        return x_BKD[self.rows_M, self.slots_M]
