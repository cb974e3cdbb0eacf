"""The layer of HSTU: pointwise attention with a gate, in the place of attention and network (Zhai et al. 2024).

arXiv:2402.17152, eqs. 2-4.

Shapes: B sequences, L positions, D width, H heads, K questions, M positions asked about.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.dropout import dropout
from segue.nn.layers.pointwise_attention import BUCKETS, Between, look_up, pointwise_attention
from segue.nn.target_positions import Asked

__all__ = ["HSTUBlock"]

EPSILON = 1e-6
SCALE = 0.02
"""Standard deviation of what is drawn at first, as in the authors' code."""


class HSTUBlock(nn.Module):
    """``x + W (norm(attention) * u)``, where u, v, q and k are SiLUs of linear maps of the normalised input."""

    def __init__(self, width: int, heads: int, places: int, time_bias: bool, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be shared evenly by {heads} heads")
        self.heads, self.places, self.dropout = heads, places, dropout
        self.norm_input = nn.LayerNorm(width, EPSILON, elementwise_affine=False)
        self.norm_attention = nn.LayerNorm(width, EPSILON, elementwise_affine=False)
        self.gate_query = nn.Linear(width, 2 * width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.step_weights = nn.Parameter(torch.empty(places))
        self.time_weights = nn.Parameter(torch.empty(BUCKETS + 2)) if time_bias else None
        for drawn in (self.gate_query.weight, self.key_value.weight, self.step_weights, self.time_weights):
            if drawn is not None:
                nn.init.normal_(drawn, std=SCALE)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, x_BLD: Tensor, relation: Between, asked: Asked | None = None) -> Tensor:
        """``(B, L, D)``, or ``(M, D)`` of the positions asked about alone."""
        normed_BLD = self.norm_input(x_BLD)
        key, value = self._split(F.silu(self.key_value(normed_BLD)))
        gate, question = F.silu(self.gate_query(normed_BLD if asked is None else asked.pick(normed_BLD))).chunk(2, -1)
        (query,) = self._split(question if asked is None else asked.spread(question), 1)
        mixed = pointwise_attention(query, key, value, self._bias(relation), _per_head(relation.seen))
        mixed = mixed.transpose(1, 2).flatten(2) / self.places
        mixed = gate * self.norm_attention(mixed if asked is None else asked.gather(mixed))
        out: Tensor = self.out(dropout(mixed, self.dropout, self.training))
        return out + (x_BLD if asked is None else asked.pick(x_BLD))

    def _bias(self, relation: Between) -> Tensor:
        bias = look_up(self.step_weights, relation.steps)
        if self.time_weights is not None and relation.buckets_BKL is not None:
            bias = bias + look_up(self.time_weights, relation.buckets_BKL)
        return _per_head(bias)

    def _split(self, x: Tensor, parts: int = 2) -> list[Tensor]:
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in x.chunk(parts, -1)]


def _per_head(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x[:, None]
