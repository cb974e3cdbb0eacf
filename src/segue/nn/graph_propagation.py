"""The graph of users and items, along whose edges vectors spread.

Shapes: U users, I items, V = U + I vertices, users first; D width.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import block_array, csr_array
from torch import Tensor

from segue.core.types import Events
from segue.nn.precision import full_precision

__all__ = ["Graph"]


class Graph:
    """Who had what, normalised on both sides: an edge between a user and an item weighs one over the square root of
    the edges of both (He et al. 2020, arXiv:2002.02126, eq. 3 and 8).

    Args:
        histories: one row per user; what a user had again is one edge.
    """

    def __init__(self, histories: Events, n_items: int) -> None:
        had_UI = histories.csr(n_items)
        degrees_U, degrees_I = had_UI.sum(axis=1), had_UI.sum(axis=0)
        self.degrees_I = torch.from_numpy(np.asarray(degrees_I, np.float32))
        """``(I,)`` users who had each item."""
        rows = np.repeat(np.arange(len(histories)), np.diff(had_UI.indptr))
        had_UI.data = 1.0 / np.sqrt(degrees_U[rows] * degrees_I[had_UI.indices])
        both: csr_array[Any] = block_array([[None, had_UI], [had_UI.T, None]], format="csr")
        both.sort_indices()
        self._adjacency_VV = _tensor(both)

    def to(self, device: str) -> Self:
        """The same on ``device``, in its own place."""
        self.degrees_I, self._adjacency_VV = self.degrees_I.to(device), self._adjacency_VV.to(device)
        return self

    def step(self, x_VD: Tensor) -> Tensor:
        """What comes to every vertex from its neighbours; no gradient is kept."""
        with torch.no_grad():
            return self._adjacency_VV @ x_VD

    def spread(self, x_VD: Tensor, layers: int) -> Tensor:
        """The mean of ``x_VD`` and of what has come to every vertex after 1, 2, ... ``layers`` steps (eq. 4)."""
        return _spread(x_VD, self, layers)


@full_precision
def _spread(x_VD: Tensor, graph: Graph, layers: int) -> Tensor:
    spread_VD: Tensor = _Spread.apply(x_VD, graph, layers)
    return spread_VD


class _Spread(torch.autograd.Function):
    """A symmetric matrix times vectors: the gradient is spread in the same way, and nothing is kept for it."""

    @staticmethod
    def forward(ctx: Any, x_VD: Tensor, graph: Graph, layers: int) -> Tensor:
        ctx.given = graph, layers
        return _mean(x_VD, graph, layers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _mean(grads[0].contiguous(), *ctx.given), None, None


def _mean(x_VD: Tensor, graph: Graph, layers: int) -> Tensor:
    total_VD = x_VD.clone()
    for _ in range(layers):
        x_VD = graph.step(x_VD)
        total_VD += x_VD
    return total_VD.div_(layers + 1)


def _tensor(matrix: csr_array[Any]) -> Tensor:
    # 32-bit indices, where they are enough, are those of the fast kernels
    index = np.int32 if matrix.nnz < np.iinfo(np.int32).max else np.int64
    parts = matrix.indptr.astype(index), matrix.indices.astype(index), matrix.data.astype(np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        offsets, columns, data = (torch.from_numpy(part) for part in parts)
        return torch.sparse_csr_tensor(offsets, columns, data, size=matrix.shape, check_invariants=True)
