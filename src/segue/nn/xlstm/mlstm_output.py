"""Output of the mLSTM cell: norm within each head, skip connection, and gate.

This is one autograd function. Its inputs are the separate outputs of the heads; its output has the heads side by side.

Shapes: H heads of width P; any number of leading dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.precision import full_precision

__all__ = ["gated_head_norm"]

EPSILON = 1e-5


class _GatedHeadNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, weight_HP: Tensor, *parts: Tensor) -> Tensor:
        width = parts[0].shape[-1]
        cells, skipped = parts[: len(weight_HP)], parts[len(weight_HP) :]
        opened, out = F.silu(gate), torch.empty_like(gate)
        sums, statistics = [], []
        for head, (cell, skip) in enumerate(zip(cells, skipped, strict=True)):
            normed, *found = torch.native_layer_norm(cell, (width,), weight_HP[head], None, EPSILON)
            statistics += found
            sums.append(normed.add_(skip))
            torch.mul(sums[head], opened[..., head, :], out=out[..., head, :])
        ctx.save_for_backward(gate, opened, weight_HP, *cells, *sums, *statistics)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        gate, opened, weight_HP, *rest = ctx.saved_tensors
        heads, width = weight_HP.shape
        cells, sums, statistics = rest[:heads], rest[heads : 2 * heads], rest[2 * heads :]
        dopened = torch.empty_like(gate)
        dcells, dsums, dweights = [], [], []
        for head, (cell, total) in enumerate(zip(cells, sums, strict=True)):
            d = grads[0][..., head, :]
            torch.mul(d, total, out=dopened[..., head, :])
            dsums.append(d * opened[..., head, :])
            mean, rate = statistics[2 * head : 2 * head + 2]
            dcell, dweight, _ = torch.ops.aten.native_layer_norm_backward(
                dsums[head], cell, (width,), mean, rate, weight_HP[head], None, [True, True, False]
            )
            dcells.append(dcell)
            dweights.append(dweight)
        return torch.ops.aten.silu_backward(dopened, gate), torch.stack(dweights), *dcells, *dsums


@full_precision
def gated_head_norm(gate: Tensor, weight_HP: Tensor, *parts: Tensor) -> Tensor:
    """Apply head norm, skip connection and output gate, ``(..., H, P)``.

    The cell's outputs are normalized and weighted, the skip connection is added, and the sum is multiplied by the SiLU
    of the gate.

    Args:
        gate: pre-activations ``(..., H, P)``.
        parts: output of the cell ``(..., P)`` of each head, then skip connection of each head.
    """
    out: Tensor = _GatedHeadNorm.apply(gate, weight_HP, *parts)
    return out
