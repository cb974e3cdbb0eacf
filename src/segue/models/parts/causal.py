"""Causal attention with dropout, written for a CPU, where the built-in one has no fast path with dropout.

Shapes: B sequences, H heads, L positions, P width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.models.parts.dropout import mask

__all__ = ["causal_attention"]


class _Causal(torch.autograd.Function):
    """Weights are made in place, and the backward pass needs no mask: it is in the weights that were used."""

    @staticmethod
    def forward(ctx: Any, q_BHLP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, share: float) -> Tensor:
        length, width = q_BHLP.shape[-2:]
        q_BHLP = q_BHLP * width**-0.5
        hidden_LL = q_BHLP.new_full((length, length), -math.inf).triu_(1)
        scores_BHLL = torch.matmul(q_BHLP, k_BHLP.mT).add_(hidden_LL)
        weights_BHLL = torch.softmax(scores_BHLL, -1)
        kept, scale = mask(weights_BHLL, share)
        used_BHLL = kept.mul_(weights_BHLL)
        out_BHLP = torch.matmul(used_BHLL, v_BHLP).mul_(scale)
        ctx.save_for_backward(q_BHLP, k_BHLP, v_BHLP, weights_BHLL, used_BHLL, out_BHLP)
        ctx.scale = scale
        return out_BHLP

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_BHLP, k_BHLP, v_BHLP, weights_BHLL, used_BHLL, out_BHLP = ctx.saved_tensors
        rows_BHL1 = (grads[0] * out_BHLP).sum(-1, keepdim=True)
        d_BHLP = grads[0] * ctx.scale
        dv_BHLP = torch.matmul(used_BHLL.mT, d_BHLP)
        # softmax: weights * (d - rows), where d is zero for what was dropped
        d_BHLL = torch.matmul(d_BHLP, v_BHLP.mT).mul_(used_BHLL).addcmul_(rows_BHL1, weights_BHLL, value=-1)
        dq_BHLP = torch.matmul(d_BHLL, k_BHLP).mul_(q_BHLP.shape[-1] ** -0.5)
        return dq_BHLP, torch.matmul(d_BHLL.mT, q_BHLP), dv_BHLP, None


def causal_attention(q_BHLP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, share: float) -> Tensor:
    """Each position's mean of the values up to its own, ``(B, H, L, P)``; ``share`` of the weights is dropped."""
    if share == 0.0 or q_BHLP.device.type != "cpu":
        return F.scaled_dot_product_attention(q_BHLP, k_BHLP, v_BHLP, is_causal=True, dropout_p=share)
    out_BHLP: Tensor = _Causal.apply(q_BHLP, k_BHLP, v_BHLP, share)
    return out_BHLP
