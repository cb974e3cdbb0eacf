"""Additive attention scores of all positions up to each query, with little memory.

Shapes: B sequences, L positions, Q query positions, S key positions, A width of the attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["additive_scores"]

ROWS = 8
"""Query positions per block: the causal triangle is computed in stripes of this height."""
ELEMENTS = {"cpu": 1 << 18}
"""Maximum number of elements of a block on a CPU, small enough for its cache."""
DEVICE_ELEMENTS = 1 << 26
"""Maximum number of elements of a block on any other device."""


class _AdditiveScores(torch.autograd.Function):
    """Compute the sigmoids of all pairs of positions, one block at a time.

    They are computed again in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, query_BLA: Tensor, key_BLA: Tensor, weight_A: Tensor) -> Tensor:
        ctx.save_for_backward(query_BLA, key_BLA, weight_A)
        scores_BLL = query_BLA.new_zeros(*query_BLA.shape[:2], query_BLA.shape[1])
        for rows, queries, keys in _blocks(query_BLA):
            scores_BLL[rows, queries, keys] = _sigmoids(query_BLA[rows, queries], key_BLA[rows, keys]) @ weight_A
        return scores_BLL.tril_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        query_BLA, key_BLA, weight_A = ctx.saved_tensors
        d_BLL = grads[0].tril()
        dquery_BLA, dkey_BLA, dweight_A = (torch.zeros_like(x) for x in (query_BLA, key_BLA, weight_A))
        for rows, queries, keys in _blocks(query_BLA):
            sigmoids = _sigmoids(query_BLA[rows, queries], key_BLA[rows, keys])
            d = d_BLL[rows, queries, keys]
            dweight_A += d.reshape(-1) @ sigmoids.view(-1, len(weight_A))
            slope = torch.addcmul(sigmoids, sigmoids, sigmoids, value=-1)
            dquery_BLA[rows, queries] = (d[:, :, None] @ slope)[:, :, 0]
            dkey_BLA[rows, keys] += (d.mT[:, :, None] @ slope.transpose(1, 2))[:, :, 0]
        return dquery_BLA * weight_A, dkey_BLA * weight_A, dweight_A


def _sigmoids(query_BQA: Tensor, key_BSA: Tensor) -> Tensor:
    return (query_BQA[:, :, None] + key_BSA[:, None]).sigmoid_()


def _blocks(query_BLA: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Yield the slices of each block.

    These are slices of sequences, of query positions, and of the key positions up to the last query.
    """
    batch, length, width = query_BLA.shape
    max_elements = ELEMENTS.get(query_BLA.device.type, DEVICE_ELEMENTS)
    for start in range(0, length, ROWS):
        stop = min(start + ROWS, length)
        size = max(1, max_elements // ((stop - start) * stop * width))
        for first in range(0, batch, size):
            yield slice(first, first + size), slice(start, stop), slice(0, stop)


def additive_scores(query_BLA: Tensor, key_BLA: Tensor, weight_A: Tensor) -> Tensor:
    """Return the additive attention scores, ``(B, L, L)``.

    A score is ``weight . sigmoid(query_t + key_j)`` for ``j <= t`` and zero elsewhere.
    """
    scores_BLL: Tensor = _AdditiveScores.apply(query_BLA, key_BLA, weight_A)
    return scores_BLL
