"""The block of HSTU: gated pointwise attention.

It replaces both attention and the feed-forward network of a transformer block (Zhai et al. 2024, arXiv:2402.17152, eqs.
2-4).

Shapes: B sequences, L positions, D width, H heads, K queries, M target positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.dropout import dropout
from segue.nn.layers.pointwise_attention import N_BUCKETS, PairRelations, gather_weights, pointwise_attention
from segue.nn.target_positions import TargetPositions

__all__ = ["HSTUBlock"]

EPSILON = 1e-6

INIT_STD = 0.02
"""Standard deviation of the initial weights, as in the authors' code."""


class HSTUBlock(nn.Module):
    """HSTU block: ``x + W (norm(attention) * u)``.

    u, v, q and k are SiLUs of linear maps of the normalized input.
    """

    def __init__(self, width: int, num_heads: int, max_length: int, time_bias: bool, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"embedding_dim {width} is not divisible by {num_heads} heads")
        self.num_heads, self.max_length, self.dropout = num_heads, max_length, dropout
        self.norm_input = nn.LayerNorm(width, EPSILON, elementwise_affine=False)
        self.norm_attention = nn.LayerNorm(width, EPSILON, elementwise_affine=False)
        self.gate_query = nn.Linear(width, 2 * width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.step_weights = nn.Parameter(torch.empty(max_length))
        self.time_weights = nn.Parameter(torch.empty(N_BUCKETS + 2)) if time_bias else None
        for weight in (self.gate_query.weight, self.key_value.weight, self.step_weights, self.time_weights):
            if weight is not None:
                nn.init.normal_(weight, std=INIT_STD)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, x_BLD: Tensor, relations: PairRelations, targets: TargetPositions | None = None) -> Tensor:
        """Return ``(B, L, D)``, or ``(M, D)`` for the targets only."""
        normed_BLD = self.norm_input(x_BLD)
        key, value = self._split_heads(F.silu(self.key_value(normed_BLD)), 2)
        gate_query_input = normed_BLD if targets is None else targets.select(normed_BLD)
        gate, flat_query = F.silu(self.gate_query(gate_query_input)).chunk(2, -1)
        (query,) = self._split_heads(flat_query if targets is None else targets.scatter(flat_query), 1)
        mixed = pointwise_attention(query, key, value, self._bias(relations), _per_head(relations.visible))
        mixed = mixed.transpose(1, 2).flatten(2) / self.max_length
        mixed = gate * self.norm_attention(mixed if targets is None else targets.gather(mixed))
        out: Tensor = self.out(dropout(mixed, self.dropout, self.training))
        return out + (x_BLD if targets is None else targets.select(x_BLD))

    def _bias(self, relations: PairRelations) -> Tensor:
        bias = gather_weights(self.step_weights, relations.steps)
        if self.time_weights is not None and relations.buckets_BKL is not None:
            bias = bias + gather_weights(self.time_weights, relations.buckets_BKL)
        return _per_head(bias)

    def _split_heads(self, x: Tensor, parts: int) -> list[Tensor]:
        return [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in x.chunk(parts, -1)]


def _per_head(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x[:, None]
