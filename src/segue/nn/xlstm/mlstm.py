"""The mLSTM cell: a matrix memory with exponential gating.

Beck et al. 2024, arXiv:2405.04517, eqs. 19-27.

Three forms of one function:

* :func:`parallel` computes all positions at once, quadratic in length: training on short sequences;
* :func:`chunkwise` does so within chunks and carries the state between them, linear in length: long sequences;
* :func:`step` processes one event, constant in time and memory: serving.

Shapes: B sequences, H heads, L positions, D width of a head, S positions of a chunk.

With logf = logsigmoid(f), F its running sum and a = i - F, the weight of event j at position t is
``exp(F_t + a_j - m_t)``; the stabilizer ``m_t = F_t + max_{j <= t} a_j`` cancels between numerator and normalizer. The
state is ``(C (B,H,D,D), n (B,H,D), m (B,H))``; the initial state has ``m = -inf``, the logarithm of zero.
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
    "CellState",
    "chunkwise",
    "chunkwise_heads",
    "final_output",
    "initial_state",
    "parallel",
    "parallel_heads",
    "soft_cap",
    "step",
    "step_heads",
]

CellState = tuple[Tensor, Tensor, Tensor]
"""``C, n, m``."""


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """Limit pre-activations to ``(-cap, cap)``.

    Computes ``cap * tanh(x / cap)`` (Beck et al. 2025, arXiv:2503.13427).
    """
    return cap * torch.tanh(x / cap)


def initial_state(batch: int, heads: int, width: int, like: Tensor) -> CellState:
    """Return the state before the first event."""
    return (
        like.new_zeros(batch, heads, width, width),
        like.new_zeros(batch, heads, width),
        like.new_full((batch, heads), -math.inf),
    )


@full_precision
def parallel(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, i_BHL: Tensor, f_BHL: Tensor) -> Tensor:
    """Return the outputs at all positions, ``(B, H, L, D)``.

    Takes O(L^2) time and memory.

    Args:
        i_BHL: pre-activations of the input gate.
        f_BHL: pre-activations of the forget gate.
    """
    return torch.stack(parallel_heads(q_BHLD, k_BHLD, v_BHLD, i_BHL, f_BHL), 1)


@full_precision
def chunkwise(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    i_BHL: Tensor,
    f_BHL: Tensor,
    chunk: int = 64,
    state: CellState | None = None,
) -> tuple[Tensor, CellState]:
    """Compute :func:`parallel` in linear time.

    Also return the state after the last position.

    No gradient flows through the given state or the returned one.
    """
    heads, after = chunkwise_heads(q_BHLD, k_BHLD, v_BHLD, i_BHL, f_BHL, chunk, state)
    return torch.stack(heads, 1), after


def step(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, i_BH: Tensor, f_BH: Tensor, state: CellState
) -> tuple[Tensor, CellState]:
    """Return the output after one more event, ``(B, H, D)``, and the new state.

    Computes eqs. 19-27 as written.
    """
    C, n, m = state
    logf = F.logsigmoid(f_BH)
    m_new = torch.maximum(logf + m, i_BH)
    keep, add = torch.exp(logf + m - m_new), torch.exp(i_BH - m_new)
    C = keep[..., None, None] * C + add[..., None, None] * k_BHD[..., :, None] * v_BHD[..., None, :]
    n = keep[..., None] * n + add[..., None] * k_BHD
    q = q_BHD * q_BHD.shape[-1] ** -0.5
    sums = (q * n).sum(-1)
    norm = torch.maximum(sums.abs(), torch.exp(-m_new)) + EPSILON
    h_BHD = torch.matmul(q[..., None, :], C)[..., 0, :] / norm[..., None]
    return h_BHD, (C, n, m_new)


def step_heads(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, i_BH: Tensor, f_BH: Tensor, state: CellState
) -> tuple[tuple[Tensor, ...], CellState]:
    """Return what :func:`step` returns, with one output ``(B, D)`` per head."""
    h_BHD, after = step(q_BHD, k_BHD, v_BHD, i_BH, f_BH, state)
    return h_BHD.unbind(1), after


@full_precision
def final_output(q_BHD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, i_BHL: Tensor, f_BHL: Tensor, last_B: Tensor) -> Tensor:
    """Return the output at the positions ``last_B`` only, ``(B, H, D)``.

    Takes linear time.
    """
    logf_BHL = F.logsigmoid(f_BHL)
    total_BHL = logf_BHL.cumsum(-1)
    is_after = torch.arange(k_BHLD.shape[2], device=last_B.device) > last_B[:, None]
    a_BHL = (i_BHL - total_BHL).masked_fill(is_after[:, None], -math.inf)
    top_BH = a_BHL.amax(-1)
    q = q_BHD * q_BHD.shape[-1] ** -0.5
    scores_BHL = torch.matmul(k_BHLD, q[..., None])[..., 0] * torch.exp(a_BHL - top_BH[..., None])
    ending_BH = total_BHL.gather(-1, last_B[:, None, None].expand(-1, total_BHL.shape[1], 1))[..., 0]
    norm_BH = torch.maximum(scores_BHL.sum(-1).abs(), torch.exp(-(ending_BH + top_BH))) + EPSILON
    return torch.matmul(scores_BHL[..., None, :], v_BHLD)[..., 0, :] / norm_BH[..., None]
