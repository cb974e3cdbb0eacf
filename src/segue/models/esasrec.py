"""eSASRec: SASRec with LiGR layers and sampled softmax (Tikhonovich et al. 2025, arXiv:2508.06450).

The layers are those of Borisyuk et al. 2025 (arXiv:2502.03417). The loss belongs to the training, not to the model: the
authors train with ``loss=sampled_softmax`` and ``negatives=256``. Positions count from the beginning of the window, as
in SASRec here, where the authors count from its end.

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
from segue.models.parts.dropout import dropout
from segue.models.parts.ligr import LiGRBlock
from segue.models.parts.sequence import SequenceModel, SequenceSettings

__all__ = ["ESASRec"]


class ESASRec(SequenceModel):
    """Learned positions, then LiGR blocks of causal self-attention."""

    recurrent = False

    class Config(SequenceSettings):
        """Settings of eSASRec."""

        blocks: Annotated[int, Gt(0)] = 2
        """LiGR blocks, one on the other."""
        heads: Annotated[int, Gt(0)] = 2
        """Attention heads; they share the width evenly."""
        expansion: Annotated[float, Gt(0)] = 4.0
        """Inner width of the SwiGLU network, as a multiple of the width."""

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.positions = nn.Parameter(torch.empty(config.max_length, config.width))
        nn.init.xavier_normal_(self.positions)
        self.blocks = nn.ModuleList(
            LiGRBlock(config.width, config.heads, config.expansion, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.width)

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`; at most ``max_length`` positions."""
        x_BLD = x_BLD * self.config.width**0.5 + self.positions[: x_BLD.shape[1]]
        x_BLD = dropout(x_BLD, self.config.dropout, self.training)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD)
        normed: Tensor = self.norm(self.blocks[-1](x_BLD, None if last_B is None else Asked.last(last_B)))
        return normed
