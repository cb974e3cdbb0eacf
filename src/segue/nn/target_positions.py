"""Positions that something is asked about, where a last layer need not compute the others.

Shapes: B sequences, L positions, D width, M positions asked about, K the most of them in one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from segue.core.batches import SequenceBatch, Sequences

__all__ = ["Asked"]


@dataclass(frozen=True, eq=False)
class Asked:
    """``M`` positions in any number of sequences, those of a sequence next to each other."""

    rows_M: Tensor
    """int64 sequence of each, rising."""
    places_M: Tensor
    """int64 position in its sequence."""
    ranks_M: Tensor
    """int64 how many positions of the same sequence stand before it here."""
    size: tuple[int, int]
    """B and K."""

    @classmethod
    def of(cls, read: Sequences, last_B: Tensor | None, few: bool) -> Asked | None:
        """What :meth:`SequenceModel.hidden` has to give: the ``last`` positions, or the targets of a batch, or all.

        Args:
            few: whether targets are so few that it pays to compute them alone.
        """
        if last_B is not None:
            return cls.last(last_B)
        if few and isinstance(read, SequenceBatch):
            return cls.flat(read.positions_M, *read.items_BL.shape)
        return None

    @classmethod
    def last(cls, last_B: Tensor) -> Asked:
        """One position of each sequence."""
        rows = last_B.shape[0]  # not its len(), which a graph would take for a constant
        return cls(torch.arange(rows, device=last_B.device), last_B, torch.zeros_like(last_B), (rows, 1))

    @classmethod
    def flat(cls, positions_M: Tensor, batch: int, length: int) -> Asked:
        """The positions ``b * length + l``, rising, of a batch."""
        rows_M = positions_M // length
        counts_B = torch.bincount(rows_M, minlength=batch)
        ranks_M = torch.arange(len(rows_M), device=rows_M.device) - (counts_B.cumsum(0) - counts_B)[rows_M]
        return cls(rows_M, positions_M % length, ranks_M, (batch, int(counts_B.max())))

    def pick(self, x_BLD: Tensor) -> Tensor:
        """``(M, D)`` what stands at the positions."""
        return x_BLD[self.rows_M, self.places_M]

    def spread(self, x_MD: Tensor) -> Tensor:
        """``(B, K, D)`` by sequence, zeros where a sequence has fewer."""
        return x_MD.new_zeros(*self.size, *x_MD.shape[1:]).index_put((self.rows_M, self.ranks_M), x_MD)

    def gather(self, x_BKD: Tensor) -> Tensor:
        """``(M, D)`` what :meth:`spread` has spread."""
        return x_BKD[self.rows_M, self.ranks_M]
