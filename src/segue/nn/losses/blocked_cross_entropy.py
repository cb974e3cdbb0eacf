"""Softmax cross-entropy over a whole catalog, computed in blocks of targets.

Computes the loss and its gradients block by block, so that memory does not grow with targets x items.

Shapes: M targets, D width, I items.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.core.seen_items import SeenItems

__all__ = ["blocked_cross_entropy"]

ROWS = 256
"""Maximum number of targets per block on a CPU, small enough for its cache."""

MIN_ROWS = 64
"""Minimum number of targets per block, large enough for an efficient matrix product."""

CELLS = 1 << 23
"""Maximum number of logits per block on a CPU (32 MiB), for catalogs so large that fewer than ``ROWS`` targets fit."""

DEVICE_CELLS = 1 << 26
"""Maximum number of logits per block on any other device (256 MiB), where large products are faster."""

TINY = 1e-30
"""Targets less probable than this have their loss computed from logits, because the probability may underflow."""


def _rows_per_block(n_items: int, device: str) -> int:
    return max(MIN_ROWS, min(ROWS, CELLS // n_items) if device == "cpu" else DEVICE_CELLS // n_items)


class _Blocked(torch.autograd.Function):
    """Compute the gradient together with the loss, one block of targets at a time.

    Only one block of logits exists at a time, and none is saved for the backward pass: softmax overwrites it, and its
    gradients with respect to hidden states and item vectors are two matrix products while it is still in the cache.
    A bias is a further component of the item vectors, for which that of all hidden states is 1: adding it to a block of
    logits, and summing its gradient over the block, would cost more than the longer products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        vectors_ID: Tensor,
        bias_I: Tensor | None,
        targets_M: Tensor,
        seen: SeenItems | None,
        gamma: float,
    ) -> Tensor:
        n = len(targets_M)
        rows = _rows_per_block(len(vectors_ID), hidden_MD.device.type)
        d_hidden_MD = torch.empty_like(hidden_MD)
        vectors_DI = vectors_ID.t().contiguous()
        if bias_I is not None:
            hidden_MD, vectors_DI = F.pad(hidden_MD, (0, 1), value=1.0), torch.cat([vectors_DI, bias_I[None]])
        d_vectors_DI = torch.zeros_like(vectors_DI)
        total = hidden_MD.new_zeros((), dtype=torch.float64)
        buffer = hidden_MD.new_empty(min(n, rows), len(vectors_ID))

        def logits(hidden: Tensor, excluded: Tensor | None, out: Tensor | None = None) -> Tensor:
            logits_block = torch.mm(hidden, vectors_DI, out=out)
            return logits_block if excluded is None else logits_block.masked_fill_(excluded, -math.inf)

        for start in range(0, n, rows):
            hidden = hidden_MD[start : start + rows]
            target = targets_M[start : start + rows, None]
            block = buffer[: len(hidden)]
            excluded = None
            if seen is not None:
                excluded = seen.catalog_mask(start, start + len(hidden), len(vectors_ID)).scatter_(1, target, False)
            logits(hidden, excluded, block)
            torch.softmax(block, 1, out=block)
            probability = block.gather(1, target)
            log_probability = probability.clamp_min(TINY).log()
            rare = (probability[:, 0] < TINY).nonzero()[:, 0]
            if len(rare):
                log_probability[rare] = torch.log_softmax(
                    logits(hidden[rare], None if excluded is None else excluded[rare]), 1
                ).gather(1, target[rare])
            block.scatter_(1, target, probability - 1.0)
            if gamma:
                missed = (1.0 - probability).clamp_min(TINY)
                weight = missed**gamma
                total -= (weight * log_probability).sum(dtype=torch.float64)
                block *= weight - gamma * probability * missed ** (gamma - 1.0) * log_probability
            else:
                total -= log_probability.sum(dtype=torch.float64)
            torch.mm(block, vectors_ID, out=d_hidden_MD[start : start + rows])
            d_vectors_DI.addmm_(hidden.t(), block)
        d_vectors_DI.div_(n)
        d_bias_I = None if bias_I is None else d_vectors_DI[-1]
        ctx.save_for_backward(d_hidden_MD.div_(n), d_vectors_DI[: vectors_ID.shape[1]].t(), d_bias_I)
        return (total / n).to(hidden_MD.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_vectors, d_bias = ctx.saved_tensors
        return (
            d_hidden * grads[0],
            d_vectors * grads[0],
            None if d_bias is None else d_bias * grads[0],
            None,
            None,
            None,
        )


def blocked_cross_entropy(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    seen: SeenItems | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """Return the mean of ``-(1 - p)^gamma log p`` over targets of probability ``p``.

    Memory does not grow with M x I.

    Args:
        seen: items excluded from the softmax of each target; the target itself is always included.
        gamma: 0 is cross-entropy; greater values are a focal loss.
    """
    loss: Tensor = _Blocked.apply(hidden_MD, vectors_ID, bias_I, targets_M, seen, gamma)
    return loss
