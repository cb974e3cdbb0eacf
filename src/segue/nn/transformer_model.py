"""What models share that read a window with learned positions and blocks of self-attention.

A model says what its block is; see :mod:`segue.models.sequential.sasrec` for all that then remains to be said.

Shapes: B sequences, L positions, D width, M positions asked about.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import Domain
from segue.nn.layers.attention import AttentionBlock
from segue.nn.layers.dropout import dropout
from segue.nn.layers.positional_embedding import places
from segue.nn.sequence_model import SequenceModel, SequenceSettings
from segue.nn.target_positions import Asked

__all__ = ["AttentiveModel", "AttentiveSettings"]


class AttentiveSettings(SequenceSettings):
    """Settings of blocks of self-attention."""

    blocks: Annotated[int, Gt(0)] = 2
    """Attention blocks, one on the other."""
    heads: Annotated[int, Gt(0)] = 2
    """Attention heads; they share the width evenly."""
    expansion: Annotated[float, Gt(0)] = 4.0
    """Inner width of the position-wise network, as a multiple of the width."""


class AttentiveModel(SequenceModel):
    """Learned positions, then blocks of self-attention: in one direction, or, for the cloze objective, in both.

    Positions count from the beginning of the window, or, read in both directions, from the end of each sequence
    (decision 0022).
    """

    recurrent = False
    both_ways = True

    Config = AttentiveSettings
    config: AttentiveSettings

    def __init__(self, config: AttentiveSettings, domain: Domain) -> None:
        super().__init__(config, domain)
        self.positions = nn.Parameter(torch.empty(config.max_length, config.width))
        nn.init.xavier_normal_(self.positions)
        self.blocks = nn.ModuleList(self.block() for _ in range(config.blocks))
        self.norm: nn.Module = nn.LayerNorm(config.width)

    @abstractmethod
    def block(self) -> AttentionBlock:
        """A new block: called with ``(B, L, D)``, the positions asked about, and lengths that open both directions."""

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`; at most ``max_length`` positions."""
        lengths_B = read.lengths_B if self.cloze else None
        x_BLD = x_BLD * self.config.width**0.5 + places(self.positions, x_BLD.shape[1], lengths_B)
        x_BLD = dropout(x_BLD, self.config.dropout, self.training)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, None, lengths_B)
        normed: Tensor = self.norm(self.blocks[-1](x_BLD, Asked.of(read, last_B, self.cloze), lengths_B))
        return normed
