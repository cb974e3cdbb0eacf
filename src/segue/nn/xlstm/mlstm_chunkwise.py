"""The mLSTM by chunks, linear in length, with an explicit backward pass.

arXiv:2405.04517, appendix B. The formulation is that of arXiv:2503.14376. Within a chunk all positions are computed at
once, as in the parallel form; earlier events are read from the state at its beginning. Products are computed head by
head and chunk by chunk; the states and scores of each chunk are saved.

Shapes: B sequences, H heads, L positions, D width of a head, N chunks of S positions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.precision import full_precision
from segue.nn.xlstm.mlstm_parallel import EPSILON, clamped_exp

__all__ = ["chunkwise_heads"]


class _Chunkwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BHLD: Tensor,
        k_BHLD: Tensor,
        v_BHLD: Tensor,
        i_BHL: Tensor,
        logf_BHL: Tensor,
        chunk: int,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        batch, heads, length, width = q_BHLD.shape
        total_BHL, a_BHL, top_BHL, holder_BHL, m_BHN = _stabilizers(i_BHL, logf_BHL, chunk, state[2])
        floor_BHL = torch.exp(-(total_BHL + top_BHL))
        shift_BHL = top_BHL + 0.5 * math.log(width)
        norm_BHL, slope_BHL = (torch.empty_like(a_BHL) for _ in range(2))
        outputs, scores, states = [], [], []
        for head in range(heads):
            q_BLD, k_BLD, v_BLD = (x[:, head] for x in (q_BHLD, k_BHLD, v_BHLD))
            C, n = state[0][:, head], state[1][:, head]
            out_BLD = q_BLD.new_empty(batch, length, width)
            for index, cut in enumerate(_cuts(length, chunk)):
                q, k, v = q_BLD[:, cut], k_BLD[:, cut], v_BLD[:, cut]
                a, shift, m = a_BHL[:, head, cut], shift_BHL[:, head, cut], m_BHN[:, head, index, None]
                scores_BSS = torch.matmul(q, k.mT).mul_(clamped_exp(a[:, None], shift[..., None]).tril_())
                before_BS = clamped_exp(m, shift)
                sums_BS = scores_BSS.sum(-1).addcmul_(before_BS, torch.matmul(q, n[..., None])[..., 0])
                size_BS, least_BS = sums_BS.abs(), floor_BHL[:, head, cut]
                norm_BS = torch.maximum(size_BS, least_BS).add_(EPSILON)
                scores_BSS.div_(norm_BS[..., None])
                read_BSD = torch.matmul(q, C).mul_((before_BS / norm_BS)[..., None])
                out_BLD[:, cut] = read_BSD.baddbmm_(scores_BSS, v)
                norm_BHL[:, head, cut] = norm_BS
                slope_BHL[:, head, cut] = torch.where(size_BS >= least_BS, sums_BS.sign(), 0.0)
                scores.append(scores_BSS)
                states += [C, n]
                last = top_BHL[:, head, cut.stop - 1, None]
                added_BSD = k * clamped_exp(a, last)[..., None]
                carried = clamped_exp(m, last)
                C = torch.baddbmm(C * carried[..., None], added_BSD.mT, v)
                n = n * carried + added_BSD.sum(1)
            outputs.append(out_BLD)
            states += [C, n]
        ctx.save_for_backward(
            *(q_BHLD, k_BHLD, v_BHLD, a_BHL, top_BHL, holder_BHL, m_BHN, norm_BHL, slope_BHL),
            *(*scores, *states),
        )
        ctx.chunk = chunk
        step = len(states) // heads
        C, n = (torch.stack(states[at::step], 1) for at in (step - 2, step - 1))
        after = C, n, top_BHL[..., -1] + total_BHL[..., -1]
        ctx.mark_non_differentiable(*after)
        return *outputs, *after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_BHLD, k_BHLD, v_BHLD, a_BHL, top_BHL, holder_BHL, m_BHN, norm_BHL, slope_BHL, *saved = ctx.saved_tensors
        batch, heads, length, width = q_BHLD.shape
        cuts = list(enumerate(_cuts(length, ctx.chunk)))
        scores, states = saved[: heads * len(cuts)], saved[heads * len(cuts) :]
        dq, dk, dv = (q_BHLD.new_empty(heads, width, batch, length).permute(2, 0, 3, 1) for _ in range(3))
        along_BHL, rows_BHL, columns_BHL = (torch.empty_like(a_BHL) for _ in range(3))
        shift_BHL = top_BHL + 0.5 * math.log(width) + norm_BHL.log()
        for head in range(heads):
            q_BLD, k_BLD, v_BLD, d_BLD = *(x[:, head] for x in (q_BHLD, k_BHLD, v_BHLD)), grads[head]
            dC, dn = q_BLD.new_zeros(batch, width, width), q_BLD.new_zeros(batch, width)
            for index, cut in reversed(cuts):
                q, k, v, d = q_BLD[:, cut], k_BLD[:, cut], v_BLD[:, cut], d_BLD[:, cut]
                a, shift, m = a_BHL[:, head, cut], shift_BHL[:, head, cut], m_BHN[:, head, index, None]
                scores_BSS = scores[head * len(cuts) + index]
                C, n = states[2 * (head * (len(cuts) + 1) + index) :][:2]
                # contribution of the chunk to the state after it
                last = top_BHL[:, head, cut.stop - 1, None]
                weight_BS1 = clamped_exp(a, last)[..., None]
                dk_BSD = torch.matmul(v, dC.mT).add_(dn[:, None]).mul_(weight_BS1)
                dv_BSD = torch.matmul(k, dC).mul_(weight_BS1)
                carried = clamped_exp(m, last)
                dC, dn = dC * carried[..., None], dn * carried
                # what it reads, from the chunk itself and from the state before it
                before_BS = clamped_exp(m, shift)
                dread_BSD = torch.matmul(d, C.mT)
                d_BSS = torch.matmul(d, v.mT)
                along_BS = (d_BSS * scores_BSS).sum(-1).addcmul_(before_BS, (q * dread_BSD).sum(-1))
                down_BS = along_BS * slope_BHL[:, head, cut]
                dread_BSD.sub_(down_BS[..., None] * n[:, None]).mul_(before_BS[..., None])
                d_BSS.sub_(down_BS[..., None]).mul_(clamped_exp(a[:, None], shift[..., None]).tril_())
                dq_BSD = dread_BSD.baddbmm_(d_BSS, k)
                dk_BSD.baddbmm_(d_BSS.mT, q)
                dv_BSD.baddbmm_(scores_BSS.mT, d)
                read_BSD = q * before_BS[..., None]
                dC.baddbmm_(read_BSD.mT, d)
                dn -= torch.matmul(down_BS[:, None], read_BSD)[:, 0]
                along_BHL[:, head, cut] = along_BS
                rows_BHL[:, head, cut], columns_BHL[:, head, cut] = (dq_BSD * q).sum(-1), (dk_BSD * k).sum(-1)
                dq[:, head, cut], dk[:, head, cut], dv[:, head, cut] = dq_BSD, dk_BSD, dv_BSD
        # the stabilizer cancels except in epsilon, which it does not scale; -1: it comes from the given state
        dtop_BHL = -EPSILON * along_BHL / norm_BHL
        rows_BHL += dtop_BHL
        columns_BHL.scatter_add_(-1, holder_BHL.clamp_min(0), dtop_BHL.masked_fill(holder_BHL < 0, 0.0))
        dlogf_BHL = (rows_BHL - columns_BHL).flip(-1).cumsum(-1).flip(-1)
        return dq, dk, dv, columns_BHL, dlogf_BHL, None, None, None, None


def _cuts(length: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, length)) for start in range(0, length, chunk)]


def _stabilizers(i_BHL: Tensor, logf_BHL: Tensor, chunk: int, m_BH: Tensor) -> tuple[Tensor, ...]:
    """Compute the stabilizers of all positions and chunks.

    Returns:
        For every position, from the beginning of its chunk: the running sum of ``logf``, ``a``, the stabilizer and the
        position that determines it (-1: the state); and for every chunk, ``(B, H, N)``, the stabilizer of the state.
    """
    totals, parts, tops, holders, states = [], [], [], [], []
    holder_BH = torch.full_like(m_BH, -1, dtype=torch.int64)
    for cut in _cuts(i_BHL.shape[2], chunk):
        total_BHS = logf_BHL[..., cut].cumsum(-1)
        a_BHS = i_BHL[..., cut] - total_BHS
        own_BHS, index_BHS = a_BHS.cummax(-1)
        older_BHS = m_BH[..., None] >= own_BHS
        states.append(m_BH)
        totals.append(total_BHS)
        parts.append(a_BHS)
        tops.append(torch.where(older_BHS, m_BH[..., None], own_BHS))
        holders.append(torch.where(older_BHS, holder_BH[..., None], index_BHS + cut.start))
        m_BH, holder_BH = tops[-1][..., -1] + total_BHS[..., -1], holders[-1][..., -1]
    return *(torch.cat(part, -1) for part in (totals, parts, tops, holders)), torch.stack(states, -1)


@full_precision
def chunkwise_heads(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    i_BHL: Tensor,
    f_BHL: Tensor,
    chunk: int,
    state: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor, Tensor]]:
    """Return the outputs of each head, ``(B, L, D)``, and the last state.

    See :func:`segue.nn.xlstm.mlstm.chunkwise`.
    """
    batch, heads, _, width = q_BHLD.shape
    if state is None:
        zeros = q_BHLD.new_zeros(batch, heads, width, width), q_BHLD.new_zeros(batch, heads, width)
        state = *zeros, q_BHLD.new_full((batch, heads), -math.inf)
    logf_BHL = F.logsigmoid(f_BHL)
    *outputs, C, n, m = _Chunkwise.apply(q_BHLD, k_BHLD, v_BHLD, i_BHL, logf_BHL, chunk, *state)
    return tuple(outputs), (C, n, m)
