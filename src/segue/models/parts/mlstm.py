"""The mLSTM cell: a matrix memory with exponential gating (Beck et al. 2024, arXiv:2405.04517, eqs. 19-27).

Three forms of one function:

* :func:`parallel` computes all positions at once, quadratic in length: training on short sequences;
* :func:`chunkwise` does so within chunks and carries the memory between them, linear in length: long sequences;
* :func:`step` takes one event, constant in time and memory: serving.

Shapes: B sequences, H heads, L positions, D width of a head, S positions of a chunk.

With logf = logsigmoid(f), F its running sum and a = i - F, the weight of event j at position t is
``exp(F_t + a_j - m_t)``; the stabiliser ``m_t = F_t + max_{j <= t} a_j`` cancels between numerator and normaliser. The
memory is ``(C (B,H,D,D), n (B,H,D), m (B,H))``; an empty one has ``m = -inf``, the logarithm of no weight at all.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.models.parts.precision import full_precision

__all__ = ["Memory", "chunkwise", "empty", "parallel", "soft_cap", "step"]

Memory = tuple[Tensor, Tensor, Tensor]

EPSILON = 1e-6
"""Added to the normaliser, as the reference implementation does."""


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """``cap * tanh(x / cap)``: pre-activations held within ``(-cap, cap)`` (Beck et al. 2025, arXiv:2503.13427)."""
    return cap * torch.tanh(x / cap)


def empty(batch: int, heads: int, width: int, like: Tensor) -> Memory:
    """The memory before the first event."""
    return (
        like.new_zeros(batch, heads, width, width),
        like.new_zeros(batch, heads, width),
        like.new_full((batch, heads), -math.inf),
    )


class _Parallel(torch.autograd.Function):
    """All positions at once; the backward pass is written out so that five L x L passes are spared."""

    @staticmethod
    def forward(ctx: Any, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, i_BHL: Tensor, logf_BHL: Tensor) -> Tensor:
        total_BHL = logf_BHL.cumsum(-1)
        a_BHL = i_BHL - total_BHL
        top_BHL, holder_BHL = a_BHL.cummax(-1)
        weight_BHLL = a_BHL[..., None, :] - top_BHL[..., None]
        weight_BHLL = weight_BHLL.clamp_max_(0.0).exp_().tril_()
        scores_BHLL = torch.matmul(q_BHLD, k_BHLD.mT).mul_(weight_BHLL)
        sums_BHL = scores_BHLL.sum(-1)
        floor_BHL = torch.exp(-(total_BHL + top_BHL))
        norm_BHL = torch.maximum(sums_BHL.abs(), floor_BHL) + EPSILON
        h_BHLD = torch.matmul(scores_BHLL, v_BHLD).div_(norm_BHL[..., None])
        slope_BHL = torch.where(sums_BHL.abs() >= floor_BHL, sums_BHL.sign(), 0.0)
        ctx.save_for_backward(q_BHLD, k_BHLD, v_BHLD, weight_BHLL, scores_BHLL, norm_BHL, slope_BHL, h_BHLD, holder_BHL)
        return h_BHLD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        q_BHLD, k_BHLD, v_BHLD, weight_BHLL, scores_BHLL, norm_BHL, slope_BHL, h_BHLD, holder_BHL = ctx.saved_tensors
        d_BHLD = grads[0] / norm_BHL[..., None]
        dv_BHLD = torch.matmul(scores_BHLL.mT, d_BHLD)
        dnorm_BHL = -(d_BHLD * h_BHLD).sum(-1)
        d_BHLL = torch.matmul(d_BHLD, v_BHLD.mT).add_((dnorm_BHL * slope_BHL)[..., None]).mul_(weight_BHLL)
        dq_BHLD = torch.matmul(d_BHLL, k_BHLD)
        dk_BHLD = torch.matmul(d_BHLL.mT, q_BHLD)
        # d log-weight[t, j] = dq.q by rows and dk.k by columns: no further L x L pass
        rows_BHL = (dq_BHLD * q_BHLD).sum(-1)
        columns_BHL = (dk_BHLD * k_BHLD).sum(-1)
        # the stabiliser cancels but for epsilon, which it does not scale
        dtop_BHL = dnorm_BHL * EPSILON
        rows_BHL = rows_BHL + dtop_BHL
        columns_BHL = columns_BHL.scatter_add(-1, holder_BHL, dtop_BHL)
        dlogf_BHL = (rows_BHL - columns_BHL).flip(-1).cumsum(-1).flip(-1)
        return dq_BHLD, dk_BHLD, dv_BHLD, columns_BHL, dlogf_BHL


@full_precision
def parallel(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, i_BHL: Tensor, f_BHL: Tensor) -> Tensor:
    """``(B, H, L, D)`` outputs at every position; ``i`` and ``f`` are gate pre-activations. Time and memory O(L^2)."""
    scaled = q_BHLD * q_BHLD.shape[-1] ** -0.5
    h_BHLD: Tensor = _Parallel.apply(scaled, k_BHLD, v_BHLD, i_BHL, F.logsigmoid(f_BHL))
    return h_BHLD


@full_precision
def chunkwise(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    i_BHL: Tensor,
    f_BHL: Tensor,
    chunk: int = 64,
    memory: Memory | None = None,
) -> tuple[Tensor, Memory]:
    """As :func:`parallel`, linear in length, from ``memory`` on; also the memory after the last position."""
    batch, heads, length, width = q_BHLD.shape
    C, n, m = memory or empty(batch, heads, width, q_BHLD)
    scaled = q_BHLD * width**-0.5
    logf_BHL = F.logsigmoid(f_BHL)
    outputs = []
    for start in range(0, length, chunk):
        cut = slice(start, start + chunk)
        q, k, v, i, logf = (
            scaled[:, :, cut],
            k_BHLD[:, :, cut],
            v_BHLD[:, :, cut],
            i_BHL[:, :, cut],
            logf_BHL[:, :, cut],
        )
        total_BHS = logf.cumsum(-1)
        a_BHS = i - total_BHS
        top_BHS = torch.maximum(a_BHS.cummax(-1).values, m[..., None])
        inside_BHSS = (a_BHS[..., None, :] - top_BHS[..., None]).clamp_max(0.0).exp().tril()
        before_BHS = torch.exp(m[..., None] - top_BHS)
        scores_BHSS = torch.matmul(q, k.mT) * inside_BHSS
        sums_BHS = scores_BHSS.sum(-1) + before_BHS * torch.matmul(q, n[..., None])[..., 0]
        values = torch.matmul(scores_BHSS, v) + before_BHS[..., None] * torch.matmul(q, C)
        norm_BHS = torch.maximum(sums_BHS.abs(), torch.exp(-(total_BHS + top_BHS))) + EPSILON
        outputs.append(values / norm_BHS[..., None])

        # the memory after the chunk, stabilised by its last position
        last = top_BHS[..., -1]
        keep_BHS = torch.exp(a_BHS - last[..., None])
        carry = torch.exp(m - last)
        weighted = k * keep_BHS[..., None]
        C = carry[..., None, None] * C + torch.matmul(weighted.mT, v)
        n = carry[..., None] * n + weighted.sum(-2)
        m = last + total_BHS[..., -1]
    return torch.cat(outputs, -2), (C, n, m)


def step(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, i_BH: Tensor, f_BH: Tensor, memory: Memory
) -> tuple[Tensor, Memory]:
    """The output ``(B, H, D)`` after one more event and the memory with it (eqs. 19-27 as they stand)."""
    C, n, m = memory
    logf = F.logsigmoid(f_BH)
    fresh = torch.maximum(logf + m, i_BH)
    keep, add = torch.exp(logf + m - fresh), torch.exp(i_BH - fresh)
    C = keep[..., None, None] * C + add[..., None, None] * k_BHD[..., :, None] * v_BHD[..., None, :]
    n = keep[..., None] * n + add[..., None] * k_BHD
    q = q_BHD * q_BHD.shape[-1] ** -0.5
    sums = (q * n).sum(-1)
    norm = torch.maximum(sums.abs(), torch.exp(-fresh)) + EPSILON
    h_BHD = torch.matmul(q[..., None, :], C)[..., 0, :] / norm[..., None]
    return h_BHD, (C, n, fresh)


@full_precision
def final(q_BHD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, i_BHL: Tensor, f_BHL: Tensor, last_B: Tensor) -> Tensor:
    """The output ``(B, H, D)`` at the positions ``last`` alone: one row of :func:`parallel`, linear in length."""
    logf_BHL = F.logsigmoid(f_BHL)
    total_BHL = logf_BHL.cumsum(-1)
    after = torch.arange(k_BHLD.shape[2], device=last_B.device) > last_B[:, None]
    a_BHL = (i_BHL - total_BHL).masked_fill(after[:, None], -math.inf)
    top_BH = a_BHL.amax(-1)
    q = q_BHD * q_BHD.shape[-1] ** -0.5
    scores_BHL = torch.matmul(k_BHLD, q[..., None])[..., 0] * torch.exp(a_BHL - top_BH[..., None])
    ending_BH = total_BHL.gather(-1, last_B[:, None, None].expand(-1, total_BHL.shape[1], 1))[..., 0]
    norm_BH = torch.maximum(scores_BHL.sum(-1).abs(), torch.exp(-(ending_BH + top_BH))) + EPSILON
    return torch.matmul(scores_BHL[..., None, :], v_BHLD)[..., 0, :] / norm_BH[..., None]
