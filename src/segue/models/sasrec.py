"""SASRec: self-attention over the history, one item after another (Kang & McAuley 2018, arXiv:1808.09781).

Trained with full cross-entropy by default, which is what makes it strong (Klenitskiy & Vasilev 2023,
arXiv:2309.07602). With ``objective=cloze`` its blocks read in both directions, and positions count from the end.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import Domain
from segue.models.parts.asked import Asked
from segue.models.parts.attention import CausalBlock
from segue.models.parts.dropout import dropout
from segue.models.parts.positions import places
from segue.models.parts.sequence import SequenceModel, SequenceSettings

__all__ = ["SASRec"]


class SASRec(SequenceModel):
    """Learned positions, then blocks of causal self-attention."""

    recurrent = False
    both_ways = True

    class Config(SequenceSettings):
        """Settings of SASRec."""

        blocks: Annotated[int, Gt(0)] = 2
        """Attention blocks, one on the other."""
        heads: Annotated[int, Gt(0)] = 2
        """Attention heads; they share the width evenly."""
        expansion: Annotated[float, Gt(0)] = 1.0
        """Inner width of the position-wise network, as a multiple of the width."""

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.positions = nn.Parameter(torch.empty(config.max_length, config.width))
        nn.init.xavier_normal_(self.positions)
        self.blocks = nn.ModuleList(
            CausalBlock(config.width, config.heads, config.expansion, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width)

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`; at most ``max_length`` positions."""
        lengths_B = read.lengths_B if self.cloze else None
        x_BLD = x_BLD * self.config.width**0.5 + places(self.positions, x_BLD.shape[1], lengths_B)
        x_BLD = dropout(x_BLD, self.config.dropout, self.training)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, None, lengths_B)
        normed: Tensor = self.norm(self.blocks[-1](x_BLD, Asked.of(read, last_B, self.cloze), lengths_B))
        return normed
