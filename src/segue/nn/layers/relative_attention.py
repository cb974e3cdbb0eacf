"""The layer of Transformer-XL: attention by content and by relative distance, with a memory (Dai et al. 2019).

arXiv:1901.02860, section 3.3.

Shapes: B sequences, S positions of a segment, Z positions of the memory before it, K = Z + S, D width, H heads, P width
of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.attention_kernels import biased_attention
from segue.nn.layers.dropout import dropout

__all__ = ["RelativeBlock", "shifted", "sinusoids"]


def sinusoids(count: int, width: int, like: Tensor) -> Tensor:
    """``(count, width)`` the encoding R of the distances ``count - 1`` down to 0."""
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10_000.0) / width))
    angles = torch.arange(count - 1, -1, -1, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :width].to(like.dtype)


def shifted(by_distance_BHSK: Tensor) -> Tensor:
    """Scores by distance, from ``K - 1`` down to 0, as scores by position (appendix B); what is after is undefined."""
    *outer, segment, keys = by_distance_BHSK.shape
    padded = F.pad(by_distance_BHSK, (1, 0)).view(*outer, keys + 1, segment)
    return padded[..., 1:, :].reshape(*outer, segment, keys)


class RelativeBlock(nn.Module):
    """Self-attention over memory and segment, then a position-wise network, each on its normalised input."""

    def __init__(self, width: int, heads: int, expansion: float, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be shared evenly by {heads} heads")
        self.heads, self.dropout = heads, dropout
        inner = int(width * expansion)
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.distance = nn.Linear(width, width, bias=False)
        self.to_content = nn.Parameter(torch.zeros(heads, 1, width // heads))
        self.to_distance = nn.Parameter(torch.zeros(heads, 1, width // heads))
        self.out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x_BSD: Tensor, memory_BZD: Tensor, far_KD: Tensor, forgotten_SK: Tensor | None = None) -> Tensor:
        """``(B, S, D)``; ``memory`` is what this block read at the positions before, ``far`` is :func:`sinusoids`.

        Args:
            forgotten_SK: bool, positions that are hidden beside those after each.
        """
        segment, keys = x_BSD.shape[1], memory_BZD.shape[1] + x_BSD.shape[1]
        normed_BKD = self.norm_attention(torch.cat([memory_BZD, x_BSD], 1))
        query = self._heads(self.query(normed_BKD[:, -segment:]))
        key, value = (self._heads(part) for part in self.key_value(normed_BKD).chunk(2, -1))
        distance_HKP = self.distance(far_KD).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        by_distance = torch.matmul((query + self.to_distance) * query.shape[-1] ** -0.5, distance_HKP.mT)
        hidden_SK = torch.ones(segment, keys, dtype=torch.bool, device=x_BSD.device).triu_(keys - segment + 1)
        if forgotten_SK is not None:
            hidden_SK = hidden_SK | forgotten_SK
        bias = shifted(by_distance).masked_fill(hidden_SK, -math.inf)
        mixed = biased_attention(query + self.to_content, key, value, self.dropout if self.training else 0.0, bias)
        x_BSD = x_BSD + self._drop(self.out(mixed.transpose(1, 2).flatten(2)))
        fed = self.down(self._drop(F.relu(self.up(self.norm_feed(x_BSD)))))
        return x_BSD + self._drop(fed)

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)
