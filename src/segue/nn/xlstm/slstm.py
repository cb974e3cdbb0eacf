"""The sLSTM cell: scalar memories, exponential gating, memory mixing within heads.

arXiv:2405.04517, eqs. 8-18.

Shapes: L positions, H heads, B sequences, D width of a head; gates in the order i, f, z, o.

``raw_t = input_t + y_{t-1} R``, ``f`` is a sigmoid in log space, ``y = sigmoid(o) * c / n``. The stabilizer ``m``
scales ``c`` and ``n`` equally and cancels in ``y``: it carries no gradient. The initial state has ``m = -inf``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.precision import full_precision

__all__ = ["CellState", "initial_state", "sequence", "step"]

CellState = tuple[Tensor, Tensor, Tensor, Tensor]
"""``y, c, n, m``, each ``(H, B, D)``."""


def initial_state(heads: int, batch: int, width: int, like: Tensor) -> CellState:
    """Return the state before the first event."""
    zero = like.new_zeros(heads, batch, width)
    return zero, zero, zero, like.new_full((heads, batch, width), -math.inf)


def step(input_HBG: Tensor, R_HDG: Tensor, state: CellState) -> CellState:
    """Return the state after one more event, with the output ``y`` first.

    Args:
        input_HBG: pre-activations of the gates, ``(H, B, 4 D)``.
    """
    y, c, n, m = state
    i, f, z, o = torch.baddbmm(input_HBG, y, R_HDG).chunk(4, -1)
    log_keep = F.logsigmoid(f) + m
    m_new = torch.maximum(i, log_keep)
    add, keep = torch.exp(i - m_new), torch.exp(log_keep - m_new)
    c = keep * c + add * torch.tanh(z)
    n = keep * n + add
    return torch.sigmoid(o) * c / n, c, n, m_new


class _Sequence(torch.autograd.Function):
    """The recurrence over all positions, with an explicit backward pass through time."""

    @staticmethod
    def forward(ctx: Any, input_LHBG: Tensor, R_HDG: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        length, heads, batch, gates = input_LHBG.shape
        width = gates // 4
        y, c, n, m = state
        saved = input_LHBG.new_empty(7, length, heads, batch, width)
        y_LHBD = input_LHBG.new_empty(length, heads, batch, width)
        for t in range(length):
            add, keep, tanh_z, sigmoid_o, sigmoid_neg_f, c_t, n_t = saved[:, t].unbind()
            raw = torch.baddbmm(input_LHBG[t], y, R_HDG)
            i, f, z, o = raw.chunk(4, -1)
            log_keep = F.logsigmoid(f).add_(m)
            m = torch.maximum(i, log_keep)
            torch.exp(i - m, out=add)
            torch.exp(log_keep.sub_(m), out=keep)
            torch.tanh(z, out=tanh_z)
            torch.sigmoid(o, out=sigmoid_o)
            torch.sigmoid(-f, out=sigmoid_neg_f)
            torch.addcmul(keep * c, add, tanh_z, out=c_t)
            torch.addcmul(add, keep, n, out=n_t)
            c, n = c_t, n_t
            y = torch.mul(sigmoid_o, c / n, out=y_LHBD[t])
        ctx.save_for_backward(saved, y_LHBD, R_HDG, *state)
        return y_LHBD, c.clone(), n.clone(), m

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved, y_LHBD, R_HDG, y0, c0, n0, _ = ctx.saved_tensors
        d_LHBD, dc, dn, _ = grads
        length = len(d_LHBD)
        draw_LHBG = y_LHBD.new_empty(*y_LHBD.shape[:-1], 4 * y_LHBD.shape[-1])
        back_HGD = R_HDG.mT
        dy = torch.zeros_like(y0)
        for t in range(length - 1, -1, -1):
            add, keep, tanh_z, sigmoid_o, sigmoid_neg_f, c, n = saved[:, t].unbind()
            c_before, n_before = (saved[5, t - 1], saved[6, t - 1]) if t else (c0, n0)
            dy = dy + d_LHBD[t]
            h = c / n
            dh = dy * sigmoid_o / n
            dc = dc + dh
            dn = dn - dh * h
            di, df, dz, do = draw_LHBG[t].chunk(4, -1)
            torch.mul(dc * tanh_z + dn, add, out=di)
            torch.mul((dc * c_before + dn * n_before) * keep, sigmoid_neg_f, out=df)
            torch.mul(dc * add, 1.0 - tanh_z * tanh_z, out=dz)
            torch.mul(dy * h, sigmoid_o * (1.0 - sigmoid_o), out=do)
            dc, dn = dc * keep, dn * keep
            dy = torch.bmm(draw_LHBG[t], back_HGD)
        before = torch.cat([y0[None], y_LHBD[:-1]])
        dR_HDG = torch.einsum("lhbd,lhbg->hdg", before, draw_LHBG)
        return draw_LHBG, dR_HDG, dy, dc, dn, None


@full_precision
def sequence(input_LHBG: Tensor, R_HDG: Tensor, state: CellState | None = None) -> tuple[Tensor, CellState]:
    """Return the outputs at all positions, ``(L, H, B, D)``, and the last state."""
    _, heads, batch, gates = input_LHBG.shape
    initial = state or initial_state(heads, batch, gates // 4, input_LHBG)
    y_LHBD, c, n, m = _Sequence.apply(input_LHBG, R_HDG, *initial)
    return y_LHBD, (y_LHBD[-1], c, n, m.detach())
