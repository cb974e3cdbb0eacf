"""eSASRec: SASRec with LiGR layers and sampled softmax.

Tikhonovich et al. 2025, arXiv:2508.06450. The layers are those of Borisyuk et al. 2025 (arXiv:2502.03417). The loss is
a training setting, not part of the model: the authors train with ``loss=sampled_softmax`` and ``num_negatives=256``.
Positions count from the beginning of the window, as in SASRec; the authors count from its end.

Shapes: B sequences, L positions, D width, M target positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.attention import AttentionBlock
from segue.nn.target_positions import TargetPositions
from segue.nn.transformer_model import TransformerModel, TransformerSettings

__all__ = ["ESASRec"]


class ESASRec(TransformerModel):
    """Learned positions, then LiGR blocks.

    A LiGR block has gated self-attention and a gated SwiGLU network.
    """

    class Config(TransformerSettings):
        """Settings of eSASRec."""

    def make_block(self) -> LiGRBlock:
        """Create a LiGR block."""
        config = self.config
        return LiGRBlock(config.embedding_dim, config.num_heads, config.ffn_expansion, config.dropout)


class LiGRBlock(AttentionBlock):
    """LiGR block: self-attention, then a SwiGLU network (Shazeer 2020), each gated.

    Each sublayer f computes ``x + f(norm(x)) * sigmoid(W x)``.
    """

    def __init__(self, width: int, num_heads: int, expansion: float, dropout: float) -> None:
        super().__init__(width, num_heads, dropout)
        inner = int(width * expansion)
        self.gate_attention = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.gate_feed = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, targets: TargetPositions | None = None, lengths_B: Tensor | None = None) -> Tensor:
        """Return ``(B, L, D)``, or ``(M, D)`` for the targets only.

        See :meth:`AttentionBlock.attend`.
        """
        mixed = self.attend(self.norm_attention(x_BLD), targets, lengths_B)
        x_BLD = x_BLD if targets is None else targets.select(x_BLD)
        x_BLD = x_BLD + mixed * torch.sigmoid(self.gate_attention(x_BLD))
        gate, value = self.up(self.norm_feed(x_BLD)).chunk(2, -1)
        fed = self._drop(self.down(self._drop(F.silu(gate) * value)))
        return x_BLD + fed * torch.sigmoid(self.gate_feed(x_BLD))
