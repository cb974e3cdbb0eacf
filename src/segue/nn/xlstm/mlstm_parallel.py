"""The mLSTM at all positions at once, with an explicit backward pass.

arXiv:2405.04517, eqs. 64-71.

Products are computed head by head and, for long sequences, in blocks of rows: under a causal mask a block of rows needs
no column beyond its last row. The backward pass saves one matrix of normalized scores and recomputes the weights.

Shapes: B sequences, H heads, L positions, D width of a head, R rows of a block, C columns up to its last row.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.precision import full_precision

__all__ = ["EPSILON", "clamped_exp", "parallel_heads"]

EPSILON = 1e-6
"""Added to the normalizer, as in the reference implementation."""

ROWS = 128
"""Maximum number of rows per block."""

BOUND = 60.0
"""Bound on the logarithm of a weight. Smaller weights do not change any sum; denormal and infinite numbers are slow."""


class _Parallel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, i_BHL: Tensor, logf_BHL: Tensor
    ) -> tuple[Tensor, ...]:
        heads, width = q_BHLD.shape[1], q_BHLD.shape[-1]
        total_BHL = logf_BHL.cumsum(-1)
        a_BHL = i_BHL - total_BHL
        top_BHL, holder_BHL = a_BHL.cummax(-1)
        floor_BHL = torch.exp(-(total_BHL + top_BHL))
        shift_BHL = top_BHL + 0.5 * math.log(width)
        norm_BHL, share_BHL, slope_BHL = (torch.empty_like(a_BHL) for _ in range(3))
        outputs, saved = [], []
        for head in range(heads):
            q, k, v, a, shift, floor = (x[:, head] for x in (q_BHLD, k_BHLD, v_BHLD, a_BHL, shift_BHL, floor_BHL))
            parts = []
            for rows in _blocks(q.shape[1]):
                scores_BRC = torch.matmul(q[:, rows], k[:, : rows.stop].mT)
                scores_BRC.mul_(_weights(a, shift, rows))
                sums_BR = scores_BRC.sum(-1)
                size_BR, least_BR = sums_BR.abs(), floor[:, rows]
                norm_BR = torch.maximum(size_BR, least_BR).add_(EPSILON)
                scores_BRC.div_(norm_BR[..., None])
                parts.append(torch.matmul(scores_BRC, v[:, : rows.stop]))
                saved.append(scores_BRC)
                norm_BHL[:, head, rows], share_BHL[:, head, rows] = norm_BR, sums_BR / norm_BR
                slope_BHL[:, head, rows] = torch.where(size_BR >= least_BR, sums_BR.sign(), 0.0)
            outputs.append(parts[0] if len(parts) == 1 else torch.cat(parts, 1))
        ctx.save_for_backward(
            q_BHLD, k_BHLD, v_BHLD, a_BHL, holder_BHL, shift_BHL, norm_BHL, share_BHL, slope_BHL, *saved
        )
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        q_BHLD, k_BHLD, v_BHLD, a_BHL, holder_BHL, shift_BHL, norm_BHL, share_BHL, slope_BHL, *saved = ctx.saved_tensors
        batch, heads, length, width = q_BHLD.shape
        # contiguous positions, the layout of the projections that computed q, k and v
        dq, dk, dv = (q_BHLD.new_empty(heads, width, batch, length).permute(2, 0, 3, 1) for _ in range(3))
        along_BHL, columns_BHL = torch.empty_like(a_BHL), torch.zeros_like(a_BHL)
        shift_BHL = shift_BHL + norm_BHL.log()
        blocks = _blocks(length)
        for head, d_BLD in enumerate(grads):
            q, k, v, a, shift, slope = (x[:, head] for x in (q_BHLD, k_BHLD, v_BHLD, a_BHL, shift_BHL, slope_BHL))
            # the last block first, because only it has all columns
            for rows in reversed(blocks):
                scores_BRC, end = saved[head * len(blocks) + blocks.index(rows)], rows.stop
                d_BRD = d_BLD[:, rows]
                d_BRC = torch.matmul(d_BRD, v[:, :end].mT)
                moved_BRC = d_BRC * scores_BRC
                along_BR = moved_BRC.sum(-1)
                along_BHL[:, head, rows] = along_BR
                down_BR = along_BR * slope[:, rows]
                columns = columns_BHL[:, head, :end]
                columns += moved_BRC.sum(-2) - torch.matmul(down_BR[:, None], scores_BRC)[:, 0]
                d_BRC.sub_(down_BR[..., None]).mul_(_weights(a, shift, rows))
                dq[:, head, rows] = torch.matmul(k[:, :end].mT, d_BRC.mT).mT
                dk_BCD, dv_BCD = torch.matmul(q[:, rows].mT, d_BRC).mT, torch.matmul(d_BRD.mT, scores_BRC).mT
                if end == length:
                    dk[:, head], dv[:, head] = dk_BCD, dv_BCD
                else:
                    dk[:, head, :end] += dk_BCD
                    dv[:, head, :end] += dv_BCD
        # the stabilizer cancels except in epsilon, which it does not scale
        dtop_BHL = -EPSILON * along_BHL / norm_BHL
        rows_BHL = along_BHL - along_BHL * slope_BHL * share_BHL + dtop_BHL
        columns_BHL = columns_BHL.scatter_add(-1, holder_BHL, dtop_BHL)
        dlogf_BHL = (rows_BHL - columns_BHL).flip(-1).cumsum(-1).flip(-1)
        return dq, dk, dv, columns_BHL, dlogf_BHL


def _blocks(length: int) -> list[slice]:
    """Split rows into blocks of nearly equal size."""
    step = -(-length // -(-length // ROWS))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def clamped_exp(a: Tensor, shift: Tensor) -> Tensor:
    """Return ``exp(a - shift)``, with the exponent limited to ``BOUND``."""
    return (a - shift).clamp_(-BOUND, BOUND).exp_()


def _weights(a_BL: Tensor, shift_BL: Tensor, rows: slice) -> Tensor:
    """Return the weight of each position for those of ``rows``, ``(B, R, C)``.

    Zero for later positions.
    """
    weights_BRC = clamped_exp(a_BL[:, None, : rows.stop], shift_BL[:, rows, None])
    weights_BRC[..., rows].tril_()
    return weights_BRC


@full_precision
def parallel_heads(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, i_BHL: Tensor, f_BHL: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of each head, ``(B, L, D)``.

    See :func:`segue.nn.xlstm.mlstm.parallel`.
    """
    heads: tuple[Tensor, ...] = _Parallel.apply(q_BHLD, k_BHLD, v_BHLD, i_BHL, F.logsigmoid(f_BHL))
    return heads
