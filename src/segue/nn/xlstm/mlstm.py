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

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.precision import full_precision
from segue.nn.xlstm.mlstm_chunkwise import chunkwise_heads
from segue.nn.xlstm.mlstm_parallel import EPSILON, parallel_heads

__all__ = [
    "Memory",
    "chunkwise",
    "chunkwise_heads",
    "empty",
    "final",
    "parallel",
    "parallel_heads",
    "soft_cap",
    "step",
    "step_heads",
]

Memory = tuple[Tensor, Tensor, Tensor]


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


@full_precision
def parallel(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, i_BHL: Tensor, f_BHL: Tensor) -> Tensor:
    """``(B, H, L, D)`` outputs at every position; ``i`` and ``f`` are gate pre-activations. Time and memory O(L^2)."""
    return torch.stack(parallel_heads(q_BHLD, k_BHLD, v_BHLD, i_BHL, f_BHL), 1)


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
    """As :func:`parallel`, linear in length, from ``memory`` on; also the memory after the last position.

    No gradient goes through memories, neither the one that comes in nor the one that goes out.
    """
    heads, after = chunkwise_heads(q_BHLD, k_BHLD, v_BHLD, i_BHL, f_BHL, chunk, memory)
    return torch.stack(heads, 1), after


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


def step_heads(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, i_BH: Tensor, f_BH: Tensor, memory: Memory
) -> tuple[tuple[Tensor, ...], Memory]:
    """As :func:`step`, with the outputs ``(B, D)`` head by head."""
    h_BHD, after = step(q_BHD, k_BHD, v_BHD, i_BH, f_BH, memory)
    return h_BHD.unbind(1), after


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
