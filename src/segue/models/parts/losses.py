"""Losses of a next-item model over the whole catalogue or a sample of it; each is a pure function.

Shapes: M targets, D width, I items, K negatives.

``loss(hidden_MD, vectors_ID, bias_I, targets_M, negatives_MK | negatives_K, rate)`` gives the mean over targets.
``cross_entropy`` sees the whole catalogue and takes no negatives.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bce", "cross_entropy", "gbce", "sampled_softmax"]

ROWS = 512
"""Rows of logits held at once by :func:`cross_entropy`."""


class _CrossEntropy(torch.autograd.Function):
    """Softmax cross-entropy whose gradient is made together with its value, a block of rows at a time.

    Only one block of logits exists at any moment, and none is kept for the backward pass: its gradient with respect
    to hidden state and item vectors is two matrix products of the block while it is still in the cache.
    """

    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Tensor:
        n = len(targets_M)
        d_hidden = torch.empty_like(hidden_MD)
        d_vectors = torch.zeros_like(vectors_ID)
        d_bias = None if bias_I is None else torch.zeros_like(bias_I)
        total = hidden_MD.new_zeros((), dtype=torch.float64)
        across_DI = vectors_ID.t()
        for start in range(0, n, ROWS):
            hidden, target = hidden_MD[start : start + ROWS], targets_M[start : start + ROWS]
            logits = hidden @ across_DI if bias_I is None else torch.addmm(bias_I, hidden, across_DI)
            top = logits.amax(1, keepdim=True)
            total -= (logits.gather(1, target[:, None]) - top).sum(dtype=torch.float64)
            odds = logits.sub_(top).exp_()
            sums = odds.sum(1, keepdim=True)
            total += sums.log().sum(dtype=torch.float64)
            # dividing the narrow sides by the sums spares a pass over the wide block
            torch.mm(odds, vectors_ID, out=d_hidden[start : start + ROWS])
            d_hidden[start : start + ROWS].div_(sums)
            d_vectors.addmm_(odds.t(), hidden / sums)
            if d_bias is not None:
                d_bias.addmv_(odds.t(), 1.0 / sums[:, 0])
        d_hidden -= vectors_ID[targets_M]
        d_vectors.index_add_(0, targets_M, hidden_MD, alpha=-1.0)
        if d_bias is not None:
            d_bias.index_add_(0, targets_M, d_bias.new_ones(n), alpha=-1.0)
        for gradient in (d_hidden, d_vectors, d_bias):
            if gradient is not None:
                gradient /= n
        ctx.save_for_backward(d_hidden, d_vectors, d_bias)
        return (total / n).to(hidden_MD.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_vectors, d_bias = ctx.saved_tensors
        return d_hidden * grads[0], d_vectors * grads[0], None if d_bias is None else d_bias * grads[0], None


def cross_entropy(hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Tensor:
    """Full softmax cross-entropy over the catalogue, in blocks: memory does not grow with targets x items."""
    loss: Tensor = _CrossEntropy.apply(hidden_MD, vectors_ID, bias_I, targets_M)
    return loss


def _logits(
    hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor, negatives_K: Tensor
) -> tuple[Tensor, Tensor]:
    """``(M,)`` scores of the targets and ``(M, K)`` of the negatives, those that hit the target at minus infinity."""
    positive = (hidden_MD * F.embedding(targets_M, vectors_ID)).sum(1)
    negative = hidden_MD @ F.embedding(negatives_K, vectors_ID).t()
    if bias_I is not None:
        positive = positive + bias_I[targets_M]
        negative = negative + bias_I[negatives_K]
    return positive, negative.masked_fill(negatives_K == targets_M[:, None], -math.inf)


def bce(hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor, negatives_K: Tensor) -> Tensor:
    """Binary cross-entropy: the target against the mean of the sampled negatives (Kang & McAuley 2018, eq. 6)."""
    positive, negative = _logits(hidden_MD, vectors_ID, bias_I, targets_M, negatives_K)
    return (F.softplus(-positive) + F.softplus(negative).mean(1)).mean()


def gbce(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    negatives_K: Tensor,
    calibration: float = 0.75,
) -> Tensor:
    """Generalised BCE against overconfidence of negative sampling (Petrov & Macdonald 2023, arXiv:2308.07192, eq. 12).

    Args:
        calibration: t in [0, 1]; 0 is plain BCE, 1 makes the scores estimate true probabilities.
    """
    positive, negative = _logits(hidden_MD, vectors_ID, bias_I, targets_M, negatives_K)
    rate = len(negatives_K) / (len(vectors_ID) - 1)
    power = rate * (calibration * (1.0 - 1.0 / rate) + 1.0 / rate)
    return (power * F.softplus(-positive) + F.softplus(negative).sum(1)).mean()


def sampled_softmax(
    hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor, negatives_K: Tensor
) -> Tensor:
    """Softmax over the target and uniformly drawn negatives, shared by the batch.

    The log-Q correction (Bengio & Senecal 2008) of a uniform draw without the target is the same for every negative:
    each of the K stands for ``(I - 1) / K`` items.
    """
    positive, negative = _logits(hidden_MD, vectors_ID, bias_I, targets_M, negatives_K)
    negative = negative + math.log((len(vectors_ID) - 1) / len(negatives_K))
    return (torch.logsumexp(torch.cat([positive[:, None], negative], 1), 1) - positive).mean()
