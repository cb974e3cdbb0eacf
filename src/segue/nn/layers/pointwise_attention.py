"""Pointwise attention: each weight is a SiLU of its own score, not a share of a softmax (Zhai et al. 2024).

arXiv:2402.17152, eq. 3. Relative positions and times move the scores by learned weights that all heads share.

Shapes: B sequences, H heads, L positions, K questions (L of them, or those asked about), P width of a head, N weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segue.nn.precision import full_precision
from segue.nn.target_positions import Asked

__all__ = ["BUCKETS", "Between", "between", "look_up", "pointwise_attention"]

BUCKETS = 128
"""Buckets of time differences, as in the authors' code; bucket ``BUCKETS + 1`` is that of an unknown difference."""

LOG_BASE = 0.301
"""A bucket is ``floor(ln(seconds) / 0.301)``: each is 35 % longer than the one before it (authors' code)."""


@dataclass(frozen=True, eq=False)
class Between:
    """How each question stands to each position; where one entry serves all sequences, B is missing."""

    seen: Tensor
    """bool ``(K, L)`` or ``(B, K, L)``: whether the position is not after the question."""
    steps: Tensor
    """int64, of the same shape: positions from there to the question, 0 where it is not seen."""
    buckets_BKL: Tensor | None
    """int64 bucket of the time from there to the question."""


def between(length: int, asked: Asked | None, times_BL: Tensor | None, now_BL: Tensor | None, device: str) -> Between:
    """How ``length`` positions, or those ``asked`` about alone, stand to the positions.

    Args:
        times_BL: float64 seconds, NaN where unknown; ``None``: no buckets.
        now_BL: the times of the questions, likewise.
    """
    here_L = torch.arange(length, device=device)
    question = here_L if asked is None else asked.spread(asked.places_M)
    steps = question[..., None] - here_L
    buckets_BKL = None
    if times_BL is not None and now_BL is not None:
        now_BK = now_BL if asked is None else asked.spread(asked.pick(now_BL))
        apart_BKL = (now_BK[..., None] - times_BL[:, None]).abs_()
        buckets_BKL = apart_BKL.clamp_min(1.0).log_().div_(LOG_BASE).clamp_max_(BUCKETS)
        buckets_BKL = buckets_BKL.nan_to_num_(BUCKETS + 1.0).long()
    return Between(steps >= 0, steps.clamp_min(0), buckets_BKL)


class _LookUp(torch.autograd.Function):
    """Indexing whose gradient is a count, many times faster than adding at millions of places one by one."""

    @staticmethod
    def forward(ctx: Any, weights_N: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = len(weights_N)
        return weights_N[index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return torch.bincount(index.flatten(), grads[0].flatten(), ctx.count).to(grads[0].dtype), None


def look_up(weights_N: Tensor, index: Tensor) -> Tensor:
    """``weights[index]``."""
    found: Tensor = _LookUp.apply(weights_N, index)
    return found


class _Pointwise(torch.autograd.Function):
    """Two L x L matrices are kept: the weights and the sigmoids that made them, both zero where nothing is seen."""

    @staticmethod
    def forward(ctx: Any, q_BHKP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
        scores_BHKL = torch.matmul(q_BHKP, k_BHLP.mT).add_(bias)
        open_BHKL = torch.sigmoid(scores_BHKL).mul_(seen)
        weights_BHKL = scores_BHKL.mul_(open_BHKL)
        ctx.save_for_backward(q_BHKP, k_BHLP, v_BHLP, open_BHKL, weights_BHKL)
        ctx.bias = bias.shape
        return torch.matmul(weights_BHKL, v_BHLP)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_BHKP, k_BHLP, v_BHLP, open_BHKL, weights_BHKL = ctx.saved_tensors
        dv_BHLP = torch.matmul(weights_BHKL.mT, grads[0])
        # the slope of silu(s) = s * open is open + weight * (1 - open)
        slope_BHKL = torch.addcmul(open_BHKL, weights_BHKL, 1.0 - open_BHKL)
        d_BHKL = torch.matmul(grads[0], v_BHLP.mT).mul_(slope_BHKL)
        return (
            torch.matmul(d_BHKL, k_BHLP),
            torch.matmul(d_BHKL.mT, q_BHKP),
            dv_BHLP,
            d_BHKL.sum_to_size(ctx.bias),
            None,
        )


@full_precision
def pointwise_attention(q_BHKP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
    """The sum of the values seen, each times ``silu(q.k + bias)``: ``(B, H, K, P)``, not divided by anything.

    Args:
        bias: anything that broadcasts to ``(B, H, K, L)``.
        seen: 1 or 0, likewise.
    """
    out_BHKP: Tensor = _Pointwise.apply(q_BHKP, k_BHLP, v_BHLP, bias, seen)
    return out_BHKP
