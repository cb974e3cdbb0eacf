"""Additive attention scores of every position over those up to its own, with little memory.

Shapes: B sequences, L positions, A width of the attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["additive_scores"]

ROWS = 8
"""Positions that ask at once: the triangle of those that may be seen is cut into stripes of so many."""
ELEMENTS = {"cpu": 1 << 18}
"""Elements of a block at most: few enough to stay in the processor's cache."""
ELEMENTS_ELSEWHERE = 1 << 26


class _Scores(torch.autograd.Function):
    """Sigmoids of all pairs exist a block at a time, and are made again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, query_BLA: Tensor, key_BLA: Tensor, weight_A: Tensor) -> Tensor:
        ctx.save_for_backward(query_BLA, key_BLA, weight_A)
        scores_BLL = query_BLA.new_zeros(*query_BLA.shape[:2], query_BLA.shape[1])
        for rows, asking, seen in _blocks(query_BLA):
            scores_BLL[rows, asking, seen] = _squashed(query_BLA[rows, asking], key_BLA[rows, seen]) @ weight_A
        return scores_BLL.tril_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        query_BLA, key_BLA, weight_A = ctx.saved_tensors
        d_BLL = grads[0].tril()
        dquery_BLA, dkey_BLA, dweight_A = (torch.zeros_like(x) for x in (query_BLA, key_BLA, weight_A))
        for rows, asking, seen in _blocks(query_BLA):
            squashed = _squashed(query_BLA[rows, asking], key_BLA[rows, seen])
            d = d_BLL[rows, asking, seen]
            dweight_A += d.reshape(-1) @ squashed.view(-1, len(weight_A))
            slope = torch.addcmul(squashed, squashed, squashed, value=-1)
            dquery_BLA[rows, asking] = (d[:, :, None] @ slope)[:, :, 0]
            dkey_BLA[rows, seen] += (d.mT[:, :, None] @ slope.transpose(1, 2))[:, :, 0]
        return dquery_BLA * weight_A, dkey_BLA * weight_A, dweight_A


def _squashed(query_BQA: Tensor, key_BSA: Tensor) -> Tensor:
    return (query_BQA[:, :, None] + key_BSA[:, None]).sigmoid_()


def _blocks(query_BLA: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Sequences, positions that ask, and positions that the last of them sees."""
    batch, length, width = query_BLA.shape
    room = ELEMENTS.get(query_BLA.device.type, ELEMENTS_ELSEWHERE)
    for start in range(0, length, ROWS):
        stop = min(start + ROWS, length)
        size = max(1, room // ((stop - start) * stop * width))
        for first in range(0, batch, size):
            yield slice(first, first + size), slice(start, stop), slice(0, stop)


def additive_scores(query_BLA: Tensor, key_BLA: Tensor, weight_A: Tensor) -> Tensor:
    """``weight . sigmoid(query_t + key_j)`` for every ``j <= t`` and zero for the others, ``(B, L, L)``."""
    scores_BLL: Tensor = _Scores.apply(query_BLA, key_BLA, weight_A)
    return scores_BLL
