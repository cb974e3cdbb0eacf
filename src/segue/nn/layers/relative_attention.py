"""The block of Transformer-XL: attention by content and relative distance.

It also attends to a memory of previous positions (Dai et al. 2019, arXiv:1901.02860, section 3.3).

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

__all__ = ["RelativeBlock", "relative_shift", "sinusoidal_encoding"]


def sinusoidal_encoding(count: int, width: int, like: Tensor) -> Tensor:
    """Return the encoding R of the distances ``count - 1 .. 0``, ``(count, width)``."""
    rates = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10_000.0) / width))
    angles = torch.arange(count - 1, -1, -1, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :width].to(like.dtype)


def relative_shift(by_distance_BHSK: Tensor) -> Tensor:
    """Convert scores by distance ``K - 1 .. 0`` to scores by position (appendix B).

    The result is undefined at positions after the query.
    """
    *outer, segment, keys = by_distance_BHSK.shape
    padded = F.pad(by_distance_BHSK, (1, 0)).view(*outer, keys + 1, segment)
    return padded[..., 1:, :].reshape(*outer, segment, keys)


class RelativeBlock(nn.Module):
    """Pre-norm self-attention over memory and segment, then a feed-forward network."""

    def __init__(self, width: int, num_heads: int, expansion: float, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"embedding_dim {width} is not divisible by {num_heads} heads")
        self.num_heads, self.dropout = num_heads, dropout
        inner = int(width * expansion)
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.distance = nn.Linear(width, width, bias=False)
        self.to_content = nn.Parameter(torch.zeros(num_heads, 1, width // num_heads))
        self.to_distance = nn.Parameter(torch.zeros(num_heads, 1, width // num_heads))
        self.out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(
        self, x_BSD: Tensor, memory_BZD: Tensor, distances_KD: Tensor, masked_SK: Tensor | None = None
    ) -> Tensor:
        """Return ``(B, S, D)``.

        Args:
            memory_BZD: inputs of this block at the preceding positions.
            distances_KD: :func:`sinusoidal_encoding`.
            masked_SK: bool, positions to mask in addition to later ones.
        """
        segment, keys = x_BSD.shape[1], memory_BZD.shape[1] + x_BSD.shape[1]
        normed_BKD = self.norm_attention(torch.cat([memory_BZD, x_BSD], 1))
        query = self._split_heads(self.query(normed_BKD[:, -segment:]))
        key, value = (self._split_heads(part) for part in self.key_value(normed_BKD).chunk(2, -1))
        distance_HKP = self.distance(distances_KD).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        by_distance = torch.matmul((query + self.to_distance) * query.shape[-1] ** -0.5, distance_HKP.mT)
        is_masked_SK = torch.ones(segment, keys, dtype=torch.bool, device=x_BSD.device).triu_(keys - segment + 1)
        if masked_SK is not None:
            is_masked_SK = is_masked_SK | masked_SK
        bias = relative_shift(by_distance).masked_fill(is_masked_SK, -math.inf)
        mixed = biased_attention(query + self.to_content, key, value, self.dropout if self.training else 0.0, bias)
        x_BSD = x_BSD + self._drop(self.out(mixed.transpose(1, 2).flatten(2)))
        fed = self.down(self._drop(F.relu(self.up(self.norm_feed(x_BSD)))))
        return x_BSD + self._drop(fed)

    def _split_heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.num_heads, -1))
        return split.transpose(1, 2)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)
