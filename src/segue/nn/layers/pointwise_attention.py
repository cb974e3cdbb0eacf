"""Pointwise attention: each weight is the SiLU of its score, without a softmax.

Zhai et al. 2024, arXiv:2402.17152, eq. 3. Relative positions and time differences add learned biases, shared by all
heads, to the scores.

Shapes: B sequences, H heads, L positions, K queries (all L or the targets only), P width of a head, N weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segue.nn.precision import full_precision
from segue.nn.target_positions import TargetPositions

__all__ = ["N_BUCKETS", "PairRelations", "gather_weights", "pair_relations", "pointwise_attention"]

N_BUCKETS = 128
"""Number of buckets of time differences, as in the authors' code; bucket ``N_BUCKETS + 1`` is for unknown
differences."""

LOG_BASE = 0.301
"""The bucket is ``floor(ln(seconds) / 0.301)``: each is 35 % longer than the previous one (authors' code)."""


@dataclass(frozen=True, eq=False)
class PairRelations:
    """Relation of each query to each position.

    A relation shared by all sequences has no dimension B.
    """

    visible: Tensor
    """bool ``(K, L)`` or ``(B, K, L)``: whether the position is not after the query."""
    steps: Tensor
    """int64, same shape: positions between the position and the query; 0 where it is not visible."""
    buckets_BKL: Tensor | None
    """int64 bucket of the time between the position and the query."""


def pair_relations(
    length: int,
    targets: TargetPositions | None,
    times_BL: Tensor | None,
    query_times_BL: Tensor | None,
    device: str,
) -> PairRelations:
    """Return the relations of ``length`` positions to all positions.

    With targets, return those of the target positions only.

    Args:
        times_BL: float64 seconds, NaN where unknown; ``None``: no time buckets.
        query_times_BL: times of the queries, in the same format.
    """
    index_L = torch.arange(length, device=device)
    query = index_L if targets is None else targets.scatter(targets.positions_M)
    steps = query[..., None] - index_L
    buckets_BKL = None
    if times_BL is not None and query_times_BL is not None:
        times_BK = query_times_BL if targets is None else targets.scatter(targets.select(query_times_BL))
        difference_BKL = (times_BK[..., None] - times_BL[:, None]).abs_()
        buckets_BKL = difference_BKL.clamp_min(1.0).log_().div_(LOG_BASE).clamp_max_(N_BUCKETS)
        buckets_BKL = buckets_BKL.nan_to_num_(N_BUCKETS + 1.0).long()
    return PairRelations(steps >= 0, steps.clamp_min(0), buckets_BKL)


class _GatherWeights(torch.autograd.Function):
    """Index weights, with a gradient by ``bincount``.

    This is many times faster than scattered additions.
    """

    @staticmethod
    def forward(ctx: Any, weights_N: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = len(weights_N)
        return weights_N[index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return torch.bincount(index.flatten(), grads[0].flatten(), ctx.count).to(grads[0].dtype), None


def gather_weights(weights_N: Tensor, index: Tensor) -> Tensor:
    """Return ``weights_N[index]``."""
    gathered: Tensor = _GatherWeights.apply(weights_N, index)
    return gathered


class _Pointwise(torch.autograd.Function):
    """Compute pointwise attention and keep two K x L matrices for the backward pass.

    These are the weights and their sigmoids, both zero where masked.
    """

    @staticmethod
    def forward(ctx: Any, q_BHKP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, bias: Tensor, visible: Tensor) -> Tensor:
        scores_BHKL = torch.matmul(q_BHKP, k_BHLP.mT).add_(bias)
        sigmoids_BHKL = torch.sigmoid(scores_BHKL).mul_(visible)
        weights_BHKL = scores_BHKL.mul_(sigmoids_BHKL)
        ctx.save_for_backward(q_BHKP, k_BHLP, v_BHLP, sigmoids_BHKL, weights_BHKL)
        ctx.bias = bias.shape
        return torch.matmul(weights_BHKL, v_BHLP)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q_BHKP, k_BHLP, v_BHLP, sigmoids_BHKL, weights_BHKL = ctx.saved_tensors
        dv_BHLP = torch.matmul(weights_BHKL.mT, grads[0])
        # the derivative of silu(s) = s * sigmoid is sigmoid + silu * (1 - sigmoid)
        slope_BHKL = torch.addcmul(sigmoids_BHKL, weights_BHKL, 1.0 - sigmoids_BHKL)
        d_BHKL = torch.matmul(grads[0], v_BHLP.mT).mul_(slope_BHKL)
        return (
            torch.matmul(d_BHKL, k_BHLP),
            torch.matmul(d_BHKL.mT, q_BHKP),
            dv_BHLP,
            d_BHKL.sum_to_size(ctx.bias),
            None,
        )


@full_precision
def pointwise_attention(q_BHKP: Tensor, k_BHLP: Tensor, v_BHLP: Tensor, bias: Tensor, visible: Tensor) -> Tensor:
    """Sum the visible values, weighted by ``silu(q.k + bias)``, ``(B, H, K, P)``.

    The weights are not normalized.

    Args:
        bias: broadcasts to ``(B, H, K, L)``.
        visible: 1 or 0; broadcasts to the same shape.
    """
    out_BHKP: Tensor = _Pointwise.apply(q_BHKP, k_BHLP, v_BHLP, bias, visible)
    return out_BHKP
