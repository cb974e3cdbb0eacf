"""The mLSTM by chunks, linear in length, with its backward pass written out (arXiv:2405.04517, appendix B; the form is
that of arXiv:2503.14376).

Within a chunk all positions are computed at once, as in the parallel form; what came before the chunk is read from the
memory at its beginning. Products go head by head and chunk by chunk; memories and scores of each chunk are kept.

Shapes: B sequences, H heads, L positions, D width of a head, N chunks of S positions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.nn.precision import full_precision
from segue.nn.xlstm.mlstm_parallel import EPSILON, weights

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
        *memory: Tensor,
    ) -> tuple[Tensor, ...]:
        batch, heads, length, width = q_BHLD.shape
        total_BHL, a_BHL, top_BHL, holder_BHL, m_BHN = _stabilisers(i_BHL, logf_BHL, chunk, memory[2])
        floor_BHL = torch.exp(-(total_BHL + top_BHL))
        shift_BHL = top_BHL + 0.5 * math.log(width)
        norm_BHL, slope_BHL = (torch.empty_like(a_BHL) for _ in range(2))
        outputs, scores, memories = [], [], []
        for head in range(heads):
            q_BLD, k_BLD, v_BLD = (x[:, head] for x in (q_BHLD, k_BHLD, v_BHLD))
            C, n = memory[0][:, head], memory[1][:, head]
            out_BLD = q_BLD.new_empty(batch, length, width)
            for at, cut in enumerate(_cuts(length, chunk)):
                q, k, v = q_BLD[:, cut], k_BLD[:, cut], v_BLD[:, cut]
                a, shift, m = a_BHL[:, head, cut], shift_BHL[:, head, cut], m_BHN[:, head, at, None]
                scores_BSS = torch.matmul(q, k.mT).mul_(weights(a[:, None], shift[..., None]).tril_())
                before_BS = weights(m, shift)
                sums_BS = scores_BSS.sum(-1).addcmul_(before_BS, torch.matmul(q, n[..., None])[..., 0])
                size_BS, least_BS = sums_BS.abs(), floor_BHL[:, head, cut]
                norm_BS = torch.maximum(size_BS, least_BS).add_(EPSILON)
                scores_BSS.div_(norm_BS[..., None])
                read_BSD = torch.matmul(q, C).mul_((before_BS / norm_BS)[..., None])
                out_BLD[:, cut] = read_BSD.baddbmm_(scores_BSS, v)
                norm_BHL[:, head, cut] = norm_BS
                slope_BHL[:, head, cut] = torch.where(size_BS >= least_BS, sums_BS.sign(), 0.0)
                scores.append(scores_BSS)
                memories += [C, n]
                last = top_BHL[:, head, cut.stop - 1, None]
                added_BSD = k * weights(a, last)[..., None]
                carried = weights(m, last)
                C = torch.baddbmm(C * carried[..., None], added_BSD.mT, v)
                n = n * carried + added_BSD.sum(1)
            outputs.append(out_BLD)
            memories += [C, n]
        ctx.save_for_backward(
            *(q_BHLD, k_BHLD, v_BHLD, a_BHL, top_BHL, holder_BHL, m_BHN, norm_BHL, slope_BHL),
            *(*scores, *memories),
        )
        ctx.chunk = chunk
        step = len(memories) // heads
        C, n = (torch.stack(memories[at::step], 1) for at in (step - 2, step - 1))
        after = C, n, top_BHL[..., -1] + total_BHL[..., -1]
        ctx.mark_non_differentiable(*after)
        return *outputs, *after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_BHLD, k_BHLD, v_BHLD, a_BHL, top_BHL, holder_BHL, m_BHN, norm_BHL, slope_BHL, *kept = ctx.saved_tensors
        batch, heads, length, width = q_BHLD.shape
        cuts = list(enumerate(_cuts(length, ctx.chunk)))
        scores, memories = kept[: heads * len(cuts)], kept[heads * len(cuts) :]
        dq, dk, dv = (q_BHLD.new_empty(heads, width, batch, length).permute(2, 0, 3, 1) for _ in range(3))
        along_BHL, rows_BHL, columns_BHL = (torch.empty_like(a_BHL) for _ in range(3))
        shift_BHL = top_BHL + 0.5 * math.log(width) + norm_BHL.log()
        for head in range(heads):
            q_BLD, k_BLD, v_BLD, d_BLD = *(x[:, head] for x in (q_BHLD, k_BHLD, v_BHLD)), grads[head]
            dC, dn = q_BLD.new_zeros(batch, width, width), q_BLD.new_zeros(batch, width)
            for at, cut in reversed(cuts):
                q, k, v, d = q_BLD[:, cut], k_BLD[:, cut], v_BLD[:, cut], d_BLD[:, cut]
                a, shift, m = a_BHL[:, head, cut], shift_BHL[:, head, cut], m_BHN[:, head, at, None]
                scores_BSS = scores[head * len(cuts) + at]
                C, n = memories[2 * (head * (len(cuts) + 1) + at) :][:2]
                # what the chunk gave to the memory after it
                last = top_BHL[:, head, cut.stop - 1, None]
                kept_BS1 = weights(a, last)[..., None]
                dk_BSD = torch.matmul(v, dC.mT).add_(dn[:, None]).mul_(kept_BS1)
                dv_BSD = torch.matmul(k, dC).mul_(kept_BS1)
                carried = weights(m, last)
                dC, dn = dC * carried[..., None], dn * carried
                # what it read, from within and from the memory before it
                before_BS = weights(m, shift)
                dread_BSD = torch.matmul(d, C.mT)
                d_BSS = torch.matmul(d, v.mT)
                along_BS = (d_BSS * scores_BSS).sum(-1).addcmul_(before_BS, (q * dread_BSD).sum(-1))
                down_BS = along_BS * slope_BHL[:, head, cut]
                dread_BSD.sub_(down_BS[..., None] * n[:, None]).mul_(before_BS[..., None])
                d_BSS.sub_(down_BS[..., None]).mul_(weights(a[:, None], shift[..., None]).tril_())
                dq_BSD = dread_BSD.baddbmm_(d_BSS, k)
                dk_BSD.baddbmm_(d_BSS.mT, q)
                dv_BSD.baddbmm_(scores_BSS.mT, d)
                read_BSD = q * before_BS[..., None]
                dC.baddbmm_(read_BSD.mT, d)
                dn -= torch.matmul(down_BS[:, None], read_BSD)[:, 0]
                along_BHL[:, head, cut] = along_BS
                rows_BHL[:, head, cut], columns_BHL[:, head, cut] = (dq_BSD * q).sum(-1), (dk_BSD * k).sum(-1)
                dq[:, head, cut], dk[:, head, cut], dv[:, head, cut] = dq_BSD, dk_BSD, dv_BSD
        # the stabiliser cancels but for epsilon, which it does not scale; -1: the memory that came in held it
        dtop_BHL = -EPSILON * along_BHL / norm_BHL
        rows_BHL += dtop_BHL
        columns_BHL.scatter_add_(-1, holder_BHL.clamp_min(0), dtop_BHL.masked_fill(holder_BHL < 0, 0.0))
        dlogf_BHL = (rows_BHL - columns_BHL).flip(-1).cumsum(-1).flip(-1)
        return dq, dk, dv, columns_BHL, dlogf_BHL, None, None, None, None


def _cuts(length: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, length)) for start in range(0, length, chunk)]


def _stabilisers(i_BHL: Tensor, logf_BHL: Tensor, chunk: int, m_BH: Tensor) -> tuple[Tensor, ...]:
    """Of every position, counted from the beginning of its chunk: the running sum of ``logf``, ``a``, the stabiliser
    and the position that holds it, -1 for the memory; and of every chunk ``(B, H, N)`` the memory's own."""
    totals, parts, tops, holders, memories = [], [], [], [], []
    holder_BH = torch.full_like(m_BH, -1, dtype=torch.int64)
    for cut in _cuts(i_BHL.shape[2], chunk):
        total_BHS = logf_BHL[..., cut].cumsum(-1)
        a_BHS = i_BHL[..., cut] - total_BHS
        own_BHS, index_BHS = a_BHS.cummax(-1)
        older_BHS = m_BH[..., None] >= own_BHS
        memories.append(m_BH)
        totals.append(total_BHS)
        parts.append(a_BHS)
        tops.append(torch.where(older_BHS, m_BH[..., None], own_BHS))
        holders.append(torch.where(older_BHS, holder_BH[..., None], index_BHS + cut.start))
        m_BH, holder_BH = tops[-1][..., -1] + total_BHS[..., -1], holders[-1][..., -1]
    return *(torch.cat(part, -1) for part in (totals, parts, tops, holders)), torch.stack(memories, -1)


@full_precision
def chunkwise_heads(
    q_BHLD: Tensor,
    k_BHLD: Tensor,
    v_BHLD: Tensor,
    i_BHL: Tensor,
    f_BHL: Tensor,
    chunk: int,
    memory: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor, Tensor]]:
    """``(B, L, D)`` outputs of each head, and the memory after the last position; see :func:`mlstm.chunkwise`."""
    batch, heads, _, width = q_BHLD.shape
    if memory is None:
        empty = q_BHLD.new_zeros(batch, heads, width, width), q_BHLD.new_zeros(batch, heads, width)
        memory = *empty, q_BHLD.new_full((batch, heads), -math.inf)
    logf_BHL = F.logsigmoid(f_BHL)
    *outputs, C, n, m = _Chunkwise.apply(q_BHLD, k_BHLD, v_BHLD, i_BHL, logf_BHL, chunk, *memory)
    return tuple(outputs), (C, n, m)
