"""The sLSTM cell: scalar memories, exponential gating, memory mixing within heads (arXiv:2405.04517, eqs. 8-18).

Shapes: L positions, H heads, B sequences, D width of a head; gates in the order i, f, z, o.

``raw_t = input_t + y_{t-1} R``, ``f`` is a sigmoid in log space, ``y = sigmoid(o) * c / n``. The stabiliser ``m``
scales ``c`` and ``n`` alike and cancels in ``y``: it carries no gradient. An empty memory has ``m = -inf``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.precision import full_precision

__all__ = ["Memory", "empty", "sequence", "step"]

Memory = tuple[Tensor, Tensor, Tensor, Tensor]
"""``y, c, n, m``, each ``(H, B, D)``."""


def empty(heads: int, batch: int, width: int, like: Tensor) -> Memory:
    """The memory before the first event."""
    zero = like.new_zeros(heads, batch, width)
    return zero, zero, zero, like.new_full((heads, batch, width), -math.inf)


def step(input_HBG: Tensor, R_HDG: Tensor, memory: Memory) -> Memory:
    """The memory, output ``y`` first, after one more event; ``input (H, B, 4 D)`` holds the gates' pre-activations."""
    y, c, n, m = memory
    i, f, z, o = torch.baddbmm(input_HBG, y, R_HDG).chunk(4, -1)
    forgotten = F.logsigmoid(f) + m
    fresh = torch.maximum(i, forgotten)
    add, keep = torch.exp(i - fresh), torch.exp(forgotten - fresh)
    c = keep * c + add * torch.tanh(z)
    n = keep * n + add
    return torch.sigmoid(o) * c / n, c, n, fresh


class _Sequence(torch.autograd.Function):
    """The recurrence over all positions, with its backward pass through time written out."""

    @staticmethod
    def forward(ctx: Any, input_LHBG: Tensor, R_HDG: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        length, heads, batch, gates = input_LHBG.shape
        width = gates // 4
        y, c, n, m = memory
        kept = input_LHBG.new_empty(7, length, heads, batch, width)
        y_LHBD = input_LHBG.new_empty(length, heads, batch, width)
        for t in range(length):
            add, keep, squashed, opened, passed, c_t, n_t = kept[:, t].unbind()
            raw = torch.baddbmm(input_LHBG[t], y, R_HDG)
            i, f, z, o = raw.chunk(4, -1)
            forgotten = F.logsigmoid(f).add_(m)
            m = torch.maximum(i, forgotten)
            torch.exp(i - m, out=add)
            torch.exp(forgotten.sub_(m), out=keep)
            torch.tanh(z, out=squashed)
            torch.sigmoid(o, out=opened)
            torch.sigmoid(-f, out=passed)
            torch.addcmul(keep * c, add, squashed, out=c_t)
            torch.addcmul(add, keep, n, out=n_t)
            c, n = c_t, n_t
            y = torch.mul(opened, c / n, out=y_LHBD[t])
        ctx.save_for_backward(kept, y_LHBD, R_HDG, *memory)
        return y_LHBD, c.clone(), n.clone(), m

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, y_LHBD, R_HDG, y0, c0, n0, _ = ctx.saved_tensors
        d_LHBD, dc, dn, _ = grads
        length = len(d_LHBD)
        draw_LHBG = y_LHBD.new_empty(*y_LHBD.shape[:-1], 4 * y_LHBD.shape[-1])
        back_HGD = R_HDG.mT
        dy = torch.zeros_like(y0)
        for t in range(length - 1, -1, -1):
            add, keep, squashed, opened, passed, c, n = kept[:, t].unbind()
            c_before, n_before = (kept[5, t - 1], kept[6, t - 1]) if t else (c0, n0)
            dy = dy + d_LHBD[t]
            h = c / n
            dh = dy * opened / n
            dc = dc + dh
            dn = dn - dh * h
            di, df, dz, do = draw_LHBG[t].chunk(4, -1)
            torch.mul(dc * squashed + dn, add, out=di)
            torch.mul((dc * c_before + dn * n_before) * keep, passed, out=df)
            torch.mul(dc * add, 1.0 - squashed * squashed, out=dz)
            torch.mul(dy * h, opened * (1.0 - opened), out=do)
            dc, dn = dc * keep, dn * keep
            dy = torch.bmm(draw_LHBG[t], back_HGD)
        before = torch.cat([y0[None], y_LHBD[:-1]])
        dR_HDG = torch.einsum("lhbd,lhbg->hdg", before, draw_LHBG)
        return draw_LHBG, dR_HDG, dy, dc, dn, None


@full_precision
def sequence(input_LHBG: Tensor, R_HDG: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
    """Outputs ``(L, H, B, D)`` at every position and the memory after the last."""
    _, heads, batch, gates = input_LHBG.shape
    start = memory or empty(heads, batch, gates // 4, input_LHBG)
    y_LHBD, c, n, m = _Sequence.apply(input_LHBG, R_HDG, *start)
    return y_LHBD, (y_LHBD[-1], c, n, m.detach())
