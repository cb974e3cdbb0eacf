"""Attention with dropout, causal, over lengths or biased, written for a CPU, where torch has no fast path for it.

Shapes: B sequences, H heads, L positions, P width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.layers.dropout import mask
from segue.nn.precision import full_precision

__all__ = ["biased_attention", "causal_attention", "open_attention"]


class _Attention(torch.autograd.Function):
    """Weights are made in place, and the backward pass needs no mask: it is in the weights that were used."""

    @staticmethod
    def forward(
        ctx: Any, q_BHLP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, share: float, bias_BHLL: Tensor | None
    ) -> Tensor:
        q_BHLP = q_BHLP * q_BHLP.shape[-1] ** -0.5
        scores_BHLL = torch.matmul(q_BHLP, k_BHLP.mT)
        if bias_BHLL is not None:
            scores_BHLL.add_(bias_BHLL)
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
        dbias_BHLL = d_BHLL if ctx.needs_input_grad[4] else None
        return dq_BHLP, torch.matmul(d_BHLL.mT, q_BHLP), dv_BHLP, None, dbias_BHLL


@full_precision
def _dropped(q_BHLP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, share: float, bias: Tensor | None) -> Tensor:
    out_BHLP: Tensor = _Attention.apply(q_BHLP, k_BHLP, v_BHLP, share, bias)
    return out_BHLP


def causal_attention(q_BHLP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, share: float) -> Tensor:
    """Each position's mean of the values up to its own, ``(B, H, L, P)``; ``share`` of the weights is dropped."""
    if share == 0.0 or q_BHLP.device.type != "cpu":
        return F.scaled_dot_product_attention(q_BHLP, k_BHLP, v_BHLP, is_causal=True, dropout_p=share)
    length = q_BHLP.shape[-2]
    hidden_LL = q_BHLP.new_full((length, length), -math.inf).triu_(1)
    return _dropped(q_BHLP, k_BHLP, v_BHLP, share, hidden_LL)


def open_attention(q_BHKP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, share: float, lengths_B: Tensor) -> Tensor:
    """Each of K questions' mean of the values before the lengths, ``(B, H, K, P)``; ``share`` is dropped."""
    beyond_BL = torch.arange(k_BHLP.shape[-2], device=lengths_B.device) >= lengths_B[:, None]
    on_cpu = q_BHKP.device.type == "cpu"
    hidden = None
    # looking for padding would make another device wait, and cannot be written down as a graph
    if not on_cpu or torch.compiler.is_exporting() or bool(beyond_BL.any()):
        hidden = q_BHKP.new_zeros(beyond_BL.shape).masked_fill_(beyond_BL, -math.inf)[:, None, None]
    if share == 0.0 or not on_cpu:
        return F.scaled_dot_product_attention(q_BHKP, k_BHLP, v_BHLP, attn_mask=hidden, dropout_p=share)
    return _dropped(q_BHKP, k_BHLP, v_BHLP, share, hidden)


def biased_attention(q_BHKP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, share: float, bias_BHKL: Tensor) -> Tensor:
    """As the others, ``(B, H, K, P)``, with ``bias`` of the full shape added to the scores; -inf hides."""
    if share == 0.0 or q_BHKP.device.type != "cpu":
        return F.scaled_dot_product_attention(q_BHKP, k_BHLP, v_BHLP, attn_mask=bias_BHKL, dropout_p=share)
    return _dropped(q_BHKP, k_BHLP, v_BHLP, share, bias_BHKL)
