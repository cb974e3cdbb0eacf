"""Attention with dropout: causal, length-masked or biased.

The CPU implementation is faster than torch's.

Shapes: B sequences, H heads, K queries, L positions, P width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.layers.dropout import dropout_mask
from segue.nn.precision import full_precision

__all__ = ["biased_attention", "causal_attention", "length_masked_attention"]


class _Attention(torch.autograd.Function):
    """Softmax attention computed in place.

    The backward pass needs no dropout mask, only the weights after dropout.
    """

    @staticmethod
    def forward(
        ctx: Any, q_BHLP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, dropout_p: float, bias_BHLL: Tensor | None
    ) -> Tensor:
        q_BHLP = q_BHLP * q_BHLP.shape[-1] ** -0.5
        scores_BHLL = torch.matmul(q_BHLP, k_BHLP.mT)
        if bias_BHLL is not None:
            scores_BHLL.add_(bias_BHLL)
        weights_BHLL = torch.softmax(scores_BHLL, -1)
        keep_mask, scale = dropout_mask(weights_BHLL, dropout_p)
        used_BHLL = keep_mask.mul_(weights_BHLL)
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
        # softmax: weights * (d - rows), where d is zero for dropped weights
        d_BHLL = torch.matmul(d_BHLP, v_BHLP.mT).mul_(used_BHLL).addcmul_(rows_BHL1, weights_BHLL, value=-1)
        dq_BHLP = torch.matmul(d_BHLL, k_BHLP).mul_(q_BHLP.shape[-1] ** -0.5)
        dbias_BHLL = d_BHLL if ctx.needs_input_grad[4] else None
        return dq_BHLP, torch.matmul(d_BHLL.mT, q_BHLP), dv_BHLP, None, dbias_BHLL


@full_precision
def _attention_with_dropout(
    q_BHLP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, dropout_p: float, bias: Tensor | None
) -> Tensor:
    out_BHLP: Tensor = _Attention.apply(q_BHLP, k_BHLP, v_BHLP, dropout_p, bias)
    return out_BHLP


def causal_attention(q_BHLP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, dropout_p: float) -> Tensor:
    """Attend to the positions up to each query's own, ``(B, H, L, P)``.

    Args:
        dropout_p: probability that an attention weight is dropped.
    """
    if dropout_p == 0.0 or q_BHLP.device.type != "cpu":
        return F.scaled_dot_product_attention(q_BHLP, k_BHLP, v_BHLP, is_causal=True, dropout_p=dropout_p)
    length = q_BHLP.shape[-2]
    bias_LL = q_BHLP.new_full((length, length), -math.inf).triu_(1)
    return _attention_with_dropout(q_BHLP, k_BHLP, v_BHLP, dropout_p, bias_LL)


def length_masked_attention(
    q_BHKP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, dropout_p: float, lengths_B: Tensor
) -> Tensor:
    """Attend to all positions before the lengths, ``(B, H, K, P)``.

    For the arguments see :func:`causal_attention`.
    """
    is_padding_BL = torch.arange(k_BHLP.shape[-2], device=lengths_B.device) >= lengths_B[:, None]
    on_cpu = q_BHKP.device.type == "cpu"
    bias = None
    # testing for padding would synchronize other devices, and a graph cannot express it
    if not on_cpu or torch.compiler.is_exporting() or bool(is_padding_BL.any()):
        bias = q_BHKP.new_zeros(is_padding_BL.shape).masked_fill_(is_padding_BL, -math.inf)[:, None, None]
    if dropout_p == 0.0 or not on_cpu:
        return F.scaled_dot_product_attention(q_BHKP, k_BHLP, v_BHLP, attn_mask=bias, dropout_p=dropout_p)
    return _attention_with_dropout(q_BHKP, k_BHLP, v_BHLP, dropout_p, bias)


def biased_attention(q_BHKP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, dropout_p: float, bias_BHKL: Tensor) -> Tensor:
    """Attend with a bias of the full shape added to the scores, ``(B, H, K, P)``.

    -inf masks a position.
    """
    if dropout_p == 0.0 or q_BHKP.device.type != "cpu":
        return F.scaled_dot_product_attention(q_BHKP, k_BHLP, v_BHLP, attn_mask=bias_BHKL, dropout_p=dropout_p)
    return _attention_with_dropout(q_BHKP, k_BHLP, v_BHLP, dropout_p, bias_BHKL)
