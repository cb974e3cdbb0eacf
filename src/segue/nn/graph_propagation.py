"""Propagate vectors along the edges of a graph.

Shapes: U users, I items, V vertices (of the user-item graph: U + I with users first), D width, E edges with a relation,
P distinct pairs of vertices with an edge, R relations, G groups of edges.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import block_array, csr_array
from torch import Tensor

from segue.core.knowledge.knowledge import ItemGraph
from segue.core.types import Events
from segue.nn.precision import full_precision

__all__ = ["RelationGraph", "UserItemGraph", "collaborative_graph"]

CHUNK = 65_536
"""Edges whose products are computed at once in the backward pass."""


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


class RelationGraph:
    """Directed graph whose edges are weighted sums over relations.

    The weight of the pair of a head and a tail is ``norm * (sum of the weights of the relations between them)`` with
    ``norm = 1 / sqrt(degree(head) * degree(tail))``; the degree is the number of distinct neighbors in the same group.

    Args:
        heads: ``(E,)`` vertices that receive from ``tails (E,)``; for each edge the opposite one exists too.
        relations: ``(E,)`` relation of each edge.
        groups: ``(E,)`` group of each edge, from 0; all edges of a pair have the same. Default: one group.
    """

    def __init__(
        self,
        heads: NDArray[np.int64],
        tails: NDArray[np.int64],
        relations: NDArray[np.int64],
        n_vertices: int,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        pairs, first_E, pair_of_E = np.unique(heads * n_vertices + tails, return_index=True, return_inverse=True)
        heads_P, tails_P = np.divmod(pairs, n_vertices)
        groups_P = np.zeros_like(pairs) if groups is None else groups[first_E]
        n_groups = int(groups_P.max(initial=0)) + 1
        degrees_GV = np.bincount(groups_P * n_vertices + heads_P, minlength=n_groups * n_vertices)
        degrees_GV = degrees_GV.reshape(n_groups, n_vertices)
        self.degrees_GV = torch.from_numpy(degrees_GV.astype(np.float32))
        """``(G, V)`` number of distinct neighbors in each group."""
        norm_P = 1.0 / np.sqrt(degrees_GV[groups_P, heads_P] * degrees_GV[groups_P, tails_P])
        self.heads_P, self.tails_P = torch.from_numpy(heads_P), torch.from_numpy(tails_P)
        self.norm_P = torch.from_numpy(norm_P.astype(np.float32))
        self.pair_of_E, self.relations_E = torch.from_numpy(pair_of_E), torch.from_numpy(relations)
        self.n_vertices = n_vertices
        self._transposition_P = torch.from_numpy(np.lexsort((heads_P, tails_P)))
        self._offsets, self._columns = _csr_index(heads_P, tails_P, n_vertices)

    def to(self, device: str) -> Self:
        """Move the graph to ``device`` in place and return it."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def edge_weights(self, weights_R: Tensor) -> Tensor:
        """Return the weight of each pair, ``(P,)``."""
        sums_P = weights_R.new_zeros(len(self.norm_P))
        return sums_P.index_add(0, self.pair_of_E, weights_R[self.relations_E]) * self.norm_P

    def propagate_once(self, x_VD: Tensor, weights_P: Tensor) -> Tensor:
        """Return the weighted sum over the neighbors of every vertex, ``(V, D)``.

        It is differentiable.
        """
        product_VD: Tensor = _EdgeProduct.apply(x_VD, weights_P, self)
        return product_VD

    def propagate(self, x_VD: Tensor, weights_P: Tensor, num_layers: int) -> list[Tensor]:
        """Return ``x_VD`` and its propagations over 1 up to ``num_layers`` steps."""
        return _propagate_layers(x_VD, weights_P, self, num_layers)

    def matrix(self, values_P: Tensor, transpose: bool = False) -> Tensor:
        """Return a sparse matrix ``(V, V)`` with one value per pair."""
        # the graph is symmetric as a set of pairs, so that the transposed matrix has the same index
        values_P = values_P[self._transposition_P] if transpose else values_P
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            size = (self.n_vertices, self.n_vertices)
            return torch.sparse_csr_tensor(self._offsets, self._columns, values_P, size=size, check_invariants=False)


def collaborative_graph(
    histories: Events, knowledge: ItemGraph, n_relations: int, has_groups: bool = False
) -> RelationGraph:
    """Return one graph of users, items and entities.

    It is that of Wang et al. 2019, arXiv:1905.07854, section 2.

    Its vertices are the users, then those of ``knowledge``. Its relations are: 0 from the items of a user to the user,
    1 back, then those of the triples, then their inverses. With ``has_groups``, the edges of users and items are group
    0, and those of triples group 1.
    """
    n_users, n_vertices = len(histories), len(histories) + knowledge.n_vertices
    adjacency_UI = histories.csr(knowledge.n_items)
    users = np.repeat(np.arange(n_users), np.diff(adjacency_UI.indptr))
    items = adjacency_UI.indices.astype(np.int64) + n_users
    first, second = (column.astype(np.int64) + n_users for column in (knowledge.heads_T, knowledge.tails_T))
    relations = knowledge.relations_T.astype(np.int64) + 2
    relations_E = np.concatenate([np.zeros_like(users), np.ones_like(users), relations, relations + n_relations])
    return RelationGraph(
        np.concatenate([users, items, first, second]),
        np.concatenate([items, users, second, first]),
        relations_E,
        n_vertices,
        (relations_E > 1).astype(np.int64) if has_groups else None,
    )


@full_precision
def _propagate_layers(x_VD: Tensor, weights_P: Tensor, graph: RelationGraph, num_layers: int) -> list[Tensor]:
    layers = [x_VD]
    for _ in range(num_layers):
        layers.append(graph.propagate_once(layers[-1], weights_P))
    return layers


class _EdgeProduct(torch.autograd.Function):
    """Multiply by a sparse matrix, with gradients of its values."""

    @staticmethod
    def forward(ctx: Any, x_VD: Tensor, weights_P: Tensor, graph: RelationGraph) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(x_VD, weights_P)
        return graph.matrix(weights_P) @ x_VD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x_VD, weights_P), graph, grad_VD = ctx.saved_tensors, ctx.graph, grads[0].contiguous()
        of_x_VD = graph.matrix(weights_P, transpose=True) @ grad_VD if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_x_VD, None, None
        parts = zip(graph.heads_P.split(CHUNK), graph.tails_P.split(CHUNK), strict=True)
        products = [(grad_VD.index_select(0, heads) * x_VD.index_select(0, tails)).sum(1) for heads, tails in parts]
        return of_x_VD, torch.cat(products), None


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


def _csr_index(rows: NDArray[np.int64], columns: NDArray[np.int64], n_rows: int) -> tuple[Tensor, Tensor]:
    """Return offsets and columns of sorted entries.

    They have 32 bits where these suffice, which is faster.
    """
    index = np.int32 if len(rows) < np.iinfo(np.int32).max else np.int64
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))])
    return torch.from_numpy(offsets.astype(index)), torch.from_numpy(columns.astype(index))


def _to_torch(matrix: csr_array[Any]) -> Tensor:
    # the fast kernels need 32-bit indices; use them where they are large enough
    index = np.int32 if matrix.nnz < np.iinfo(np.int32).max else np.int64
    parts = matrix.indptr.astype(index), matrix.indices.astype(index), matrix.data.astype(np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        offsets, columns, data = (torch.from_numpy(part) for part in parts)
        return torch.sparse_csr_tensor(offsets, columns, data, size=matrix.shape, check_invariants=True)
