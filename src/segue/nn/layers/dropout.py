"""Dropout with a cheap mask on CPUs.

A mask takes 16 random bits per element instead of one draw from a distribution. The drop probability is exact to within
1 / 65,536. Masks follow from torch's global random generator.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dropout", "dropout_mask"]

LEVELS = 1 << 16


def dropout_mask(like: Tensor, p: float) -> tuple[Tensor, float]:
    """Return a random 0/1 mask shaped like ``like``, and the scale of kept elements.

    An element of the mask is zero with probability ``p``.
    """
    keep_level = min(max(1, round((1.0 - p) * LEVELS)), LEVELS - 1)
    count = like.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    levels = bits.view(torch.int16)[:count].view(like.shape)
    return (levels < keep_level - LEVELS // 2).to(like.dtype), LEVELS / keep_level


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask, scale = dropout_mask(x, p)
        mask.mul_(scale)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grads[0] * mask, None


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero elements of ``x`` with probability ``p`` and scale up the others.

    Return ``x`` unchanged outside of training.
    """
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    dropped: Tensor = _Dropout.apply(x, p)
    return dropped
