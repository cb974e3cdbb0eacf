"""The transformer layer of BERT: attention, then a GELU network, normalised after each or before.

Shapes: B sequences, L positions, D width, M positions asked about.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.attention import AttentionBlock
from segue.nn.target_positions import Asked

__all__ = ["BertBlock"]


class BertBlock(AttentionBlock):
    """``norm(x + f(x))`` twice, or ``x + f(norm(x))``: f is self-attention, then a network with GELU."""

    def __init__(self, width: int, heads: int, expansion: float, dropout: float, norm_first: bool) -> None:
        super().__init__(width, heads, dropout)
        inner = int(width * expansion)
        self.norm_first = norm_first
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x_BLD: Tensor, asked: Asked | None = None, lengths_B: Tensor | None = None) -> Tensor:
        """``(B, L, D)``, or ``(M, D)`` of the positions asked about alone; ``lengths`` opens both directions."""
        before = self.norm_attention(x_BLD) if self.norm_first else x_BLD
        x_BLD = (x_BLD if asked is None else asked.pick(x_BLD)) + self.attend(before, asked, lengths_B)
        if self.norm_first:
            return x_BLD + self._feed(self.norm_feed(x_BLD))
        x_BLD = self.norm_attention(x_BLD)
        fed: Tensor = self.norm_feed(x_BLD + self._feed(x_BLD))
        return fed

    def _feed(self, x: Tensor) -> Tensor:
        return self._drop(self.down(F.gelu(self.up(x))))
