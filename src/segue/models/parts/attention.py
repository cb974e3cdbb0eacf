"""Causal self-attention over sequences padded on the right.

Shapes: B sequences, L positions, D width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.models.parts.causal import causal_attention
from segue.models.parts.dropout import dropout

__all__ = ["CausalBlock", "at"]


def at(x_BLD: Tensor, last_B: Tensor) -> Tensor:
    """``(B, D)`` the positions ``last`` of each sequence."""
    return x_BLD[torch.arange(len(x_BLD), device=x_BLD.device), last_B]


class CausalBlock(nn.Module):
    """Self-attention and a position-wise network, each on its normalised input and added to it."""

    def __init__(self, width: int, heads: int, expansion: float, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be shared evenly by {heads} heads")
        self.heads = heads
        self.dropout = dropout
        inner = int(width * expansion)
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """``(B, L, D)``, or ``(B, D)`` for the positions ``last`` alone."""
        normed_BLD = self.norm_attention(x_BLD)
        key, value = self._split(self.key_value(normed_BLD).chunk(2, -1))
        if last_B is None:
            (query,) = self._split((self.query(normed_BLD),))
            mixed = causal_attention(query, key, value, self.dropout if self.training else 0.0)
            mixed = mixed.transpose(1, 2).flatten(2)
        else:
            (query,) = self._split((self.query(at(normed_BLD, last_B))[:, None],))
            seen = torch.arange(x_BLD.shape[1], device=x_BLD.device) <= last_B[:, None]
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None, None])
            mixed = mixed.flatten(1)
            x_BLD = at(x_BLD, last_B)
        x_BLD = x_BLD + self._drop(self.out(mixed))
        fed = self.down(self._drop(F.relu(self.up(self.norm_feed(x_BLD)))))
        return x_BLD + self._drop(fed)

    def _split(self, parts: tuple[Tensor, ...]) -> list[Tensor]:
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)
