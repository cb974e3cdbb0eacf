"""Softmax cross-entropy over a whole catalogue, a block of targets at a time.

Shapes: M targets, D width, I items.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from segue.core.seen_items import Seen

__all__ = ["blocked"]

ROWS = 256
"""Targets whose logits are held at once, at most on a CPU: few enough to stay in the processor's cache."""

FEWEST = 64
"""Targets whose logits are held at once, however large the catalogue: enough for an efficient matrix product."""

CELLS = 1 << 23
"""Logits held at once (32 MiB) where the catalogue is so large that fewer than ``ROWS`` targets fit."""

CELLS_DEVICE = 1 << 26
"""Logits held at once (256 MiB) on any other device, which has no such cache and wants large products."""

TINY = 1e-30
"""A target less probable than this has its loss computed from logits, where a probability would underflow."""


def _rows(items: int, device: str) -> int:
    """Targets in a block."""
    return max(FEWEST, min(ROWS, CELLS // items) if device == "cpu" else CELLS_DEVICE // items)


class _Blocked(torch.autograd.Function):
    """Softmax cross-entropy whose gradient is made together with its value, a block of targets at a time.

    Only one block of logits exists at any moment, and none is kept for the backward pass: softmax overwrites it, and
    its gradient with respect to hidden state and item vectors is two matrix products while it is still in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        vectors_ID: Tensor,
        bias_I: Tensor | None,
        targets_M: Tensor,
        seen: Seen | None,
        gamma: float,
    ) -> Tensor:
        n = len(targets_M)
        rows = _rows(len(vectors_ID), hidden_MD.device.type)
        d_hidden_MD = torch.empty_like(hidden_MD)
        across_DI = vectors_ID.t().contiguous()
        d_across_DI = torch.zeros_like(across_DI)
        d_bias_I = None if bias_I is None else torch.zeros_like(bias_I)
        total = hidden_MD.new_zeros((), dtype=torch.float64)
        room = hidden_MD.new_empty(min(n, rows), len(vectors_ID))

        def logits(hidden: Tensor, without: Tensor | None, out: Tensor | None = None) -> Tensor:
            found = (
                torch.mm(hidden, across_DI, out=out)
                if bias_I is None
                else torch.addmm(bias_I, hidden, across_DI, out=out)
            )
            return found if without is None else found.masked_fill_(without, -math.inf)

        for start in range(0, n, rows):
            hidden = hidden_MD[start : start + rows]
            target = targets_M[start : start + rows, None]
            block = room[: len(hidden)]
            without = None
            if seen is not None:
                without = seen.in_catalogue(start, start + len(hidden), len(vectors_ID)).scatter_(1, target, False)
            logits(hidden, without, block)
            torch.softmax(block, 1, out=block)
            chosen = block.gather(1, target)
            log_chosen = chosen.clamp_min(TINY).log()
            rare = (chosen[:, 0] < TINY).nonzero()[:, 0]
            if len(rare):
                log_chosen[rare] = torch.log_softmax(
                    logits(hidden[rare], None if without is None else without[rare]), 1
                ).gather(1, target[rare])
            block.scatter_(1, target, chosen - 1.0)
            if gamma:
                missed = (1.0 - chosen).clamp_min(TINY)
                weight = missed**gamma
                total -= (weight * log_chosen).sum(dtype=torch.float64)
                block *= weight - gamma * chosen * missed ** (gamma - 1.0) * log_chosen
            else:
                total -= log_chosen.sum(dtype=torch.float64)
            torch.mm(block, vectors_ID, out=d_hidden_MD[start : start + rows])
            d_across_DI.addmm_(hidden.t(), block)
            if d_bias_I is not None:
                d_bias_I += block.sum(0)
        d_bias = None if d_bias_I is None else d_bias_I.div_(n)
        ctx.save_for_backward(d_hidden_MD.div_(n), d_across_DI.div_(n).t(), d_bias)
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


def blocked(
    hidden_MD: Tensor,
    vectors_ID: Tensor,
    bias_I: Tensor | None,
    targets_M: Tensor,
    seen: Seen | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """The mean of ``-(1 - p)^gamma log p`` over targets of probability ``p``; memory does not grow with M x I.

    Args:
        seen: items that are as good as not in the catalogue, of each target others; the target itself always is.
        gamma: 0 is cross-entropy; more is a focal loss.
    """
    loss: Tensor = _Blocked.apply(hidden_MD, vectors_ID, bias_I, targets_M, seen, gamma)
    return loss
