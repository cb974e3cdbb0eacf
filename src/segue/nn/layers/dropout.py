"""Dropout whose mask costs little on a CPU: sixteen random bits per element instead of one draw of a distribution.

The share that is dropped is that asked for to within 1 / 65,536. Masks follow from torch's own generator.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dropout", "mask"]

LEVELS = 1 << 16


def mask(like: Tensor, share: float) -> tuple[Tensor, float]:
    """Zeros for about ``share`` of the elements of ``like`` and ones for the rest, and what to scale the rest by."""
    kept = min(max(1, round((1.0 - share) * LEVELS)), LEVELS - 1)
    count = like.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    drawn = bits.view(torch.int16)[:count].view(like.shape)
    return (drawn < kept - LEVELS // 2).to(like.dtype), LEVELS / kept


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        kept, scale = mask(x, share)
        kept.mul_(scale)
        ctx.save_for_backward(kept)
        return x * kept

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return grads[0] * kept, None


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """``x`` with about ``share`` of its elements at zero and the others larger by as much, while training."""
    if not training or share == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, share)
    dropped: Tensor = _Dropout.apply(x, share)
    return dropped
