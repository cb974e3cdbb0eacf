"""The cells of xLSTM in plain operations, for exporting a network as a graph.

The usual forms (:mod:`.mlstm_inputs`, :mod:`.mlstm_parallel`, :mod:`.slstm`) have explicit backward passes and loop
over the length of a sequence, which a graph must leave open. These functions compute the same, forward only, for any
length.

Shapes: B sequences, L positions, E channels, K kernel size, N blocks of J channels, H heads of width P, D width of a
head, G gates.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.xlstm import slstm
from segue.nn.xlstm.mlstm_output import EPSILON as NORM_EPSILON
from segue.nn.xlstm.mlstm_parallel import EPSILON

__all__ = ["gated_head_norm", "parallel_heads", "project_inputs", "sequence"]


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
    """See :func:`segue.nn.xlstm.mlstm_inputs.project_inputs`."""
    x_BEL = x_EBL.transpose(0, 1)
    padded = F.pad(x_BEL, (taps_EK.shape[1] - 1, 0))
    m_BEL = F.silu(F.conv1d(padded, taps_EK[:, None], bias_E, groups=taps_EK.shape[0]))
    query_NJJ, key_NJJ = query_key_NJO.chunk(2, -1)
    q, k, v = (_block_diagonal(*pair) for pair in ((m_BEL, query_NJJ), (m_BEL, key_NJJ), (x_BEL, value_NJJ)))
    gates_BGL = torch.matmul(gates_GC, torch.cat([q, k, v], 1)) + bias_G[:, None]
    skipped = (m_BEL * skip_HP.flatten()[:, None]).unflatten(1, skip_HP.shape).mT.unbind(1)
    q, k, v = (y_BEL.unflatten(1, skip_HP.shape).mT for y_BEL in (q, k, v))
    return (q, k, v, gates_BGL), skipped


def _block_diagonal(y_BEL: Tensor, weight_NJJ: Tensor) -> Tensor:
    """Multiply each block of channels with its own matrix, ``(B, E, L)``."""
    return torch.matmul(weight_NJJ.mT, y_BEL.unflatten(1, weight_NJJ.shape[:2])).flatten(1, 2)


def parallel_heads(q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, i_BHL: Tensor, f_BHL: Tensor) -> tuple[Tensor, ...]:
    """See :func:`segue.nn.xlstm.mlstm_parallel.parallel_heads`."""
    total_BHL = -F.softplus(-f_BHL).cumsum(-1)
    index_L = torch.arange(q_BHLD.shape[2], device=q_BHLD.device)
    a_BHLL = torch.where(index_L <= index_L[:, None], (i_BHL - total_BHL)[..., None, :], -math.inf)
    top_BHL = a_BHLL.amax(-1)
    scores_BHLL = torch.matmul(q_BHLD * q_BHLD.shape[-1] ** -0.5, k_BHLD.mT) * torch.exp(a_BHLL - top_BHL[..., None])
    norm_BHL = torch.maximum(scores_BHLL.sum(-1).abs(), torch.exp(-(total_BHL + top_BHL))) + EPSILON
    return (torch.matmul(scores_BHLL, v_BHLD) / norm_BHL[..., None]).unbind(1)


def gated_head_norm(gate: Tensor, weight_HP: Tensor, *parts: Tensor) -> Tensor:
    """See :func:`segue.nn.xlstm.mlstm_output.gated_head_norm`."""
    heads = weight_HP.shape[0]
    cells, skipped = (torch.stack(some, -2) for some in (parts[:heads], parts[heads:]))
    normed = F.layer_norm(cells, cells.shape[-1:], eps=NORM_EPSILON) * weight_HP
    return (normed + skipped) * F.silu(gate)


def sequence(input_LHBG: Tensor, R_HDG: Tensor) -> Tensor:
    """Return the outputs of :func:`segue.nn.xlstm.slstm.sequence`, ``(L, H, B, D)``.

    The recurrence starts from the initial state.
    """
    from torch._higher_order_ops.scan import scan

    def step(state: slstm.CellState, input_HBG: Tensor) -> tuple[slstm.CellState, Tensor]:
        state = slstm.step(input_HBG, R_HDG, state)
        return state, state[0].clone()

    _, heads, batch, gates = input_LHBG.shape
    initial = tuple(part.clone() for part in slstm.initial_state(heads, batch, gates // 4, input_LHBG))
    _, y_LHBD = scan(step, initial, input_LHBG)
    outputs: Tensor = y_LHBD
    return outputs
