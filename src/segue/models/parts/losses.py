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

ROWS = 256
"""Rows of logits held at once by :func:`cross_entropy`: few enough to stay in the processor's cache."""

TINY = 1e-30
"""A target less probable than this has its loss computed from logits, where a probability would underflow."""


class _CrossEntropy(torch.autograd.Function):
    """Softmax cross-entropy whose gradient is made together with its value, a block of rows at a time.

    Only one block of logits exists at any moment, and none is kept for the backward pass: softmax overwrites it, and
    its gradient with respect to hidden state and item vectors is two matrix products while it is still in the cache.
    """

    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Tensor:
        n = len(targets_M)
        d_hidden_MD = torch.empty_like(hidden_MD)
        across_DI = vectors_ID.t().contiguous()
        d_across_DI = torch.zeros_like(across_DI)
        d_bias_I = None if bias_I is None else torch.zeros_like(bias_I)
        total = hidden_MD.new_zeros((), dtype=torch.float64)
        room = hidden_MD.new_empty(min(n, ROWS), len(vectors_ID))

        def logits(hidden: Tensor, out: Tensor | None) -> Tensor:
            return (
                torch.mm(hidden, across_DI, out=out)
                if bias_I is None
                else torch.addmm(bias_I, hidden, across_DI, out=out)
            )

        for start in range(0, n, ROWS):
            hidden = hidden_MD[start : start + ROWS]
            target = targets_M[start : start + ROWS, None]
            block = room[: len(hidden)]
            logits(hidden, block)
            torch.softmax(block, 1, out=block)
            chosen = block.gather(1, target)
            total -= chosen.clamp_min(TINY).log().sum(dtype=torch.float64)
            rare = (chosen[:, 0] < TINY).nonzero()[:, 0]
            if len(rare):
                exact = torch.log_softmax(logits(hidden[rare], None), 1).gather(1, target[rare])
                total -= (exact - math.log(TINY)).sum(dtype=torch.float64)
            block.scatter_(1, target, chosen - 1.0)
            torch.mm(block, vectors_ID, out=d_hidden_MD[start : start + ROWS])
            d_across_DI.addmm_(hidden.t(), block)
            if d_bias_I is not None:
                d_bias_I += block.sum(0)
        d_bias = None if d_bias_I is None else d_bias_I.div_(n)
        ctx.save_for_backward(d_hidden_MD.div_(n), d_across_DI.div_(n).t(), d_bias)
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
