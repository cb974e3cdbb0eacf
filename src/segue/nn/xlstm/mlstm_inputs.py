"""Inputs of the mLSTM cell.

They are computed by a causal convolution, block-diagonal query, key and value projections, and the gates.

This is one autograd function, with channels as the outermost dimension. Each channel is then contiguous in memory, the
block-diagonal projections are one batched matrix product without a copy, and the convolution is a few shifted
additions. Gates are linear in query, key and value, which are linear in the inputs; their composed weights need no
query, key or value.

Shapes: E channels, B sequences, L positions, T = B * L, K kernel size, N blocks of J channels, H heads of width P,
G = 2 H gates.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.precision import full_precision

__all__ = ["project_inputs"]


class _ProjectInputs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_EBL: Tensor,
        taps_EK: Tensor,
        bias_E: Tensor,
        query_NJJ: Tensor,
        key_NJJ: Tensor,
        value_NJJ: Tensor,
        conv_GE: Tensor,
        input_GE: Tensor,
        bias_G: Tensor,
        skip_HP: Tensor,
    ) -> tuple[Tensor, ...]:
        _, batch, length = x_EBL.shape
        last = taps_EK.shape[1] - 1
        # lag: how many positions back a tap reads
        before_EBL = torch.addcmul(bias_E[:, None, None], x_EBL, taps_EK[:, last, None, None])
        for lag in range(1, min(last + 1, length)):
            before_EBL[..., lag:].addcmul_(x_EBL[..., :-lag], taps_EK[:, last - lag, None, None])
        m_EBL = F.silu(before_EBL)
        x_ET, m_ET = x_EBL.flatten(1), m_EBL.flatten(1)
        x_NJT, m_NJT = (y_ET.unflatten(0, query_NJJ.shape[:2]) for y_ET in (x_ET, m_ET))
        pairs = (query_NJJ, m_NJT), (key_NJJ, m_NJT), (value_NJJ, x_NJT)
        q, k, v = (torch.bmm(weight.mT, y_NJT).view_as(x_EBL) for weight, y_NJT in pairs)
        gates_GT = torch.addmm(bias_G[:, None], conv_GE, m_ET).addmm_(input_GE, x_ET)
        parts = zip(m_ET.unflatten(0, skip_HP.shape), skip_HP, strict=True)
        skipped = ((m_PT.T * skip_P).view(batch, length, -1) for m_PT, skip_P in parts)
        ctx.save_for_backward(
            x_EBL, before_EBL, m_EBL, taps_EK, query_NJJ, key_NJJ, value_NJJ, conv_GE, input_GE, skip_HP
        )
        return q, k, v, gates_GT.view(-1, batch, length), *skipped

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x_EBL, before_EBL, m_EBL, taps_EK, query_NJJ, key_NJJ, value_NJJ, conv_GE, input_GE, skip_HP = ctx.saved_tensors
        length, last = x_EBL.shape[2], taps_EK.shape[1] - 1
        x_ET, m_ET = x_EBL.flatten(1), m_EBL.flatten(1)
        x_NJT, m_NJT = (y_ET.unflatten(0, query_NJJ.shape[:2]) for y_ET in (x_ET, m_ET))
        dq_NJT, dk_NJT, dv_NJT = (d.reshape(m_NJT.shape) for d in grads[:3])
        dgates_GT = grads[3].reshape(len(conv_GE), -1)

        dm_ET = torch.empty_like(m_ET)
        for dm_PT, d_BLP in zip(dm_ET.unflatten(0, skip_HP.shape), grads[4:], strict=True):
            dm_PT.copy_(d_BLP.reshape(-1, d_BLP.shape[-1]).T)
        dskip_HP = _dots(dm_ET, m_ET).view_as(skip_HP)
        dm_ET.mul_(skip_HP.view(-1, 1)).addmm_(conv_GE.T, dgates_GT)
        dm_ET.unflatten(0, query_NJJ.shape[:2]).baddbmm_(query_NJJ, dq_NJT).baddbmm_(key_NJJ, dk_NJT)
        dx_EBL = torch.bmm(value_NJJ, dv_NJT).view_as(x_EBL)
        dx_EBL.flatten(1).addmm_(input_GE.T, dgates_GT)

        d_EBL = torch.ops.aten.silu_backward(dm_ET.view_as(x_EBL), before_EBL)
        d_ET = d_EBL.flatten(1)
        dtaps_EK = torch.zeros_like(taps_EK)
        dtaps_EK[:, last] = _dots(d_ET, x_ET)
        dx_EBL.addcmul_(d_EBL, taps_EK[:, last, None, None])
        for lag in range(1, min(last + 1, length)):
            dx_EBL[..., :-lag].addcmul_(d_EBL[..., lag:], taps_EK[:, last - lag, None, None])
            # all sequences as one, minus the products across sequence boundaries
            across_E = (d_EBL[:, 1:, :lag] * x_EBL[:, :-1, length - lag :]).sum((1, 2))
            dtaps_EK[:, last - lag] = _dots(d_ET[:, lag:], x_ET[:, :-lag]) - across_E
        return (
            dx_EBL,
            dtaps_EK,
            d_ET.sum(1),
            torch.bmm(m_NJT, dq_NJT.mT),
            torch.bmm(m_NJT, dk_NJT.mT),
            torch.bmm(x_NJT, dv_NJT.mT),
            dgates_GT @ m_ET.T,
            dgates_GT @ x_ET.T,
            dgates_GT.sum(1),
            dskip_HP,
        )


def _dots(a_ET: Tensor, b_ET: Tensor) -> Tensor:
    """Return the dot products of rows, ``(E,)``.

    They are diagonals of small matrix products, which is faster.
    """
    group = math.gcd(len(a_ET), 4)
    a, b = (x_ET.unflatten(0, (-1, group)) for x_ET in (a_ET, b_ET))
    return torch.bmm(a, b.mT).diagonal(dim1=1, dim2=2).flatten()


@full_precision
def project_inputs(
    x_EBL: Tensor,
    taps_EK: Tensor,
    bias_E: Tensor,
    query_key_NJO: Tensor,
    value_NJJ: Tensor,
    gates_GC: Tensor,
    bias_G: Tensor,
    skip_HP: Tensor,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Compute the inputs of the cell, and the skip connection of each head.

    Args:
        query_key_NJO: blocks of the query projection, ``O`` below J, and of the key projection, above.
        gates_GC: weights of the input, then forget gates, over query, key and value.

    Returns:
        ``q, k, v (B, H, L, P)``, views with contiguous positions, and the gate pre-activations ``(B, G, L)``.
    """
    query_NJJ, key_NJJ = query_key_NJO.chunk(2, -1)
    to_q, to_k, to_v = gates_GC.unflatten(1, (3, *value_NJJ.shape[:2])).unbind(1)
    conv_GE = (torch.einsum("gno,njo->gnj", to_q, query_NJJ) + torch.einsum("gno,njo->gnj", to_k, key_NJJ)).flatten(1)
    input_GE = torch.einsum("gno,njo->gnj", to_v, value_NJJ).flatten(1)
    q, k, v, gates_GBL, *skipped = _ProjectInputs.apply(
        x_EBL, taps_EK, bias_E, query_NJJ, key_NJJ, value_NJJ, conv_GE, input_GE, bias_G, skip_HP
    )
    q, k, v = (y_EBL.unflatten(0, skip_HP.shape).permute(2, 0, 3, 1) for y_EBL in (q, k, v))
    return (q, k, v, gates_GBL.transpose(0, 1)), tuple(skipped)
