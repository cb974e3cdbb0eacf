"""Propagate vectors along the edges of the user-item graph.

Shapes: U users, I items, V = U + I vertices with users first, D width.
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

__all__ = ["UserItemGraph"]


class UserItemGraph:
    """Bipartite interaction graph with symmetric normalization.

    An edge between a user and an item has the weight ``1 / sqrt(degree(user) * degree(item))`` (He et al. 2020,
    arXiv:2002.02126, eq. 3 and 8).

    Args:
        histories: one row per user; repeated items of a user are one edge.
    """

    def __init__(self, histories: Events, n_items: int) -> None:
        adjacency_UI = histories.csr(n_items)
        degrees_U, degrees_I = adjacency_UI.sum(axis=1), adjacency_UI.sum(axis=0)
        self.degrees_I = torch.from_numpy(np.asarray(degrees_I, np.float32))
        """``(I,)`` number of users of each item."""
        rows = np.repeat(np.arange(len(histories)), np.diff(adjacency_UI.indptr))
        adjacency_UI.data = 1.0 / np.sqrt(degrees_U[rows] * degrees_I[adjacency_UI.indices])
        adjacency_VV: csr_array[Any] = block_array([[None, adjacency_UI], [adjacency_UI.T, None]], format="csr")
        adjacency_VV.sort_indices()
        self._adjacency_VV = _to_torch(adjacency_VV)

    def to(self, device: str) -> Self:
        """Move the graph to ``device`` in place and return it."""
        self.degrees_I, self._adjacency_VV = self.degrees_I.to(device), self._adjacency_VV.to(device)
        return self

    def propagate_once(self, x_VD: Tensor) -> Tensor:
        """Return the weighted sum over the neighbors of every vertex, without a gradient."""
        with torch.no_grad():
            return self._adjacency_VV @ x_VD

    def propagate(self, x_VD: Tensor, num_layers: int) -> Tensor:
        """Return the mean of ``x_VD`` and its propagations.

        There are propagations over 1 up to ``num_layers`` steps (eq. 4).
        """
        return _propagate(x_VD, self, num_layers)


@full_precision
def _propagate(x_VD: Tensor, graph: UserItemGraph, num_layers: int) -> Tensor:
    mean_VD: Tensor = _Propagation.apply(x_VD, graph, num_layers)
    return mean_VD


class _Propagation(torch.autograd.Function):
    """Multiply by powers of a symmetric matrix.

    The backward pass is the same operation and needs no saved tensors.
    """

    @staticmethod
    def forward(ctx: Any, x_VD: Tensor, graph: UserItemGraph, num_layers: int) -> Tensor:
        ctx.arguments = graph, num_layers
        return _layer_mean(x_VD, graph, num_layers)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _layer_mean(grads[0].contiguous(), *ctx.arguments), None, None


def _layer_mean(x_VD: Tensor, graph: UserItemGraph, num_layers: int) -> Tensor:
    total_VD = x_VD.clone()
    for _ in range(num_layers):
        x_VD = graph.propagate_once(x_VD)
        total_VD += x_VD
    return total_VD.div_(num_layers + 1)


def _to_torch(matrix: csr_array[Any]) -> Tensor:
    # the fast kernels need 32-bit indices; use them where they are large enough
    index = np.int32 if matrix.nnz < np.iinfo(np.int32).max else np.int64
    parts = matrix.indptr.astype(index), matrix.indices.astype(index), matrix.data.astype(np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        offsets, columns, data = (torch.from_numpy(part) for part in parts)
        return torch.sparse_csr_tensor(offsets, columns, data, size=matrix.shape, check_invariants=True)
