"""LiGR: a transformer layer with gated branches (Borisyuk et al. 2025, arXiv:2502.03417).

Shapes: B sequences, L positions, D width, M positions asked about.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.attention import AttentionBlock
from segue.nn.target_positions import Asked

__all__ = ["LiGRBlock"]


class LiGRBlock(AttentionBlock):
    """``x + f(norm(x)) * sigmoid(W x)`` twice: f is self-attention, then a SwiGLU network (Shazeer 2020)."""

    def __init__(self, width: int, heads: int, expansion: float, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        inner = int(width * expansion)
        self.gate_attention = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.gate_feed = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, asked: Asked | None = None, lengths_B: Tensor | None = None) -> Tensor:
        """``(B, L, D)``, or ``(M, D)`` of the positions asked about alone; ``lengths`` opens both directions."""
        mixed = self.attend(self.norm_attention(x_BLD), asked, lengths_B)
        x_BLD = x_BLD if asked is None else asked.pick(x_BLD)
        x_BLD = x_BLD + mixed * torch.sigmoid(self.gate_attention(x_BLD))
        opened, value = self.up(self.norm_feed(x_BLD)).chunk(2, -1)
        fed = self._drop(self.down(self._drop(F.silu(opened) * value)))
        return x_BLD + fed * torch.sigmoid(self.gate_feed(x_BLD))
