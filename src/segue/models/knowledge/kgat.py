"""KGAT: attention over the neighbors in one graph of users, items and entities.

Wang et al. 2019, arXiv:1905.07854. An edge from head ``h`` to tail ``t`` by relation ``r`` has the attention
``(W_r e_t) . tanh(W_r e_h + e_r)`` (eq. 4), with a softmax over the edges of the head (eq. 5). A layer adds up the
neighbors by attention and combines the sum ``s`` with the vector itself:
``LeakyReLU(W1 (e + s)) + LeakyReLU(W2 (e * s))`` (eq. 8). The final vector has the embedding and the normalized output
of every layer side by side (eq. 11).

The triples are also learned by themselves, with TransR (eq. 1 and 2): in each batch as many triples as pairs, each
against one random tail. As in the published code, the attention is computed once per epoch and is constant in it. Any
loss and sampler works for the pairs; the paper uses ``loss=bpr``.

Users are folded in from the history: their attention and their layers are computed from the vectors of its items.
Items without events are scored by their triples.

Shapes: U users, I items, V = U + I + entities, R relations of the graph with inverses, P edges, D width, K width of
relations, M pairs of a batch, T triples of a batch, N queries, W width of the final vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.config import Settings
from segue.core.examples.interaction_pairs import PairBatch, pair_batches
from segue.core.network import Loss
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.nn.graph_model import GraphModel, exclude_cold_items
from segue.nn.graph_propagation import RelationGraph, collaborative_graph
from segue.nn.layers.dropout import dropout
from segue.solvers.biased_factor_model import cosine_similarity

__all__ = ["KGAT"]

TO_USER = 0
"""Relation of the edges that users receive from their items."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """User-item pairs, and edges of the graph with random tails."""

    pairs: PairBatch
    edges_T: Tensor
    corrupted_T: Tensor
    is_first: bool
    """Whether the batch is the first of an epoch, at which the attention is computed."""


class KGAT(GraphModel):
    """Attentive propagation over users, items and entities."""

    required_features = ("knowledge",)

    class Config(Settings):
        """Settings of ``kgat``."""

        embedding_dim: Annotated[int, Gt(0)] = 64
        """Width of the embeddings of users, items and entities."""
        relation_dim: Annotated[int, Gt(0)] = 32
        """Width of relations and of the space that TransR projects entities into."""
        num_layers: Annotated[int, Gt(0)] = 2
        """Propagation steps; each layer is half as wide as the one before, at least 8."""
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
        """Fraction of the numbers in the output of a layer that are dropped."""
        l2: Annotated[float, Ge(0)] = 1e-5
        """Weight of the squared final vectors of the user and the item of each pair."""
        triple_weight: Annotated[float, Ge(0)] = 1.0
        """Weight of the loss of the triples."""
        cold_negatives: bool = False
        """Whether items without events in training are negatives too. Nothing speaks against them, and their own
        embedding would learn nothing but to be ranked low."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        widths = [config.embedding_dim]
        for _ in range(config.num_layers):
            widths.append(max(8, widths[-1] // 2))
        super().__init__(config, schema, sum(widths))
        n_relations, size = 2 + 2 * schema.n_relations, config.relation_dim
        self.entities_VD = nn.Parameter(torch.randn(schema.n_items + schema.n_entities, config.embedding_dim).mul_(0.1))
        self.relations_RK = nn.Parameter(torch.randn(n_relations, size).mul_(0.1))
        self.projections_RDK = nn.Parameter(torch.randn(n_relations, config.embedding_dim, size).mul_(size**-0.5))
        steps = list(pairwise(widths))
        self.sums = nn.ModuleList(nn.Linear(before, after) for before, after in steps)
        self.products = nn.ModuleList(nn.Linear(before, after) for before, after in steps)
        self.mean_user_D: Tensor
        self.register_buffer("mean_user_D", torch.zeros(config.embedding_dim))
        for index, width in enumerate(widths[:-1]):  # inputs of the layers of users
            self.register_buffer(f"layer_items_{index}", torch.zeros(schema.n_items, width))
        self._graph: RelationGraph | None = None
        self._negative_bias_I: Tensor | None = None
        self._attention_P: Tensor | None = None

    @classmethod
    def schema_for(cls, config: Any, data: Dataset) -> DataSchema:
        """Return the schema with the sizes of the graph."""
        return data.knowledge_schema("kgat")

    def prepare(self, train: Dataset) -> None:
        """Build the graph, which training needs and prediction does not."""
        graph = train.knowledge_for("kgat").graph
        self._graph = collaborative_graph(train.histories, graph, self.schema.n_relations)
        if not self.config.cold_negatives:
            self._negative_bias_I = exclude_cold_items(train.histories, self.schema.n_items)
        self.is_training_user_U.copy_(torch.from_numpy(train.histories.lengths > 0))
        self.is_training_item_I.copy_(self._items(self._graph.degrees_GV[0]) > 0)

    def _items(self, x_V: Tensor) -> Tensor:
        return x_V[self.schema.n_users : self.schema.n_users + self.schema.n_items]

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_Batch]]:
        """Return the number of batches, and all pairs in random order.

        Each batch has as many edges as pairs.

        A batch has as many pairs as ``size`` users have on average.
        """
        count, pairs = pair_batches(train.histories, self.schema.n_items, size, rng)
        graph = self._required_graph()
        n_edges, low = len(graph.relations_E), self.schema.n_users

        def batch(index: int, pair: PairBatch) -> _Batch:
            edges = rng.integers(n_edges, size=len(pair.items_M))
            corrupted = rng.integers(low, graph.n_vertices, size=len(edges))
            return _Batch(pair, torch.from_numpy(edges), torch.from_numpy(corrupted), index == 0)

        return count, (batch(index, pair) for index, pair in enumerate(pairs))

    def objective(self, batch: _Batch, loss: Loss) -> tuple[Tensor, int]:
        """Return the loss of a batch, and its number of pairs.

        The loss is that of the pairs, the L2 penalty of their vectors, and the loss of the triples.
        """
        device = self.device
        if batch.is_first or self._attention_P is None:
            self._attention_P = self._attend()
        users_M, items_M = batch.pairs.users_M.to(device), batch.pairs.items_M.to(device)
        final_VW = _concat(self._layers(self._attention_P))
        user_MW, items_IW = F.embedding(users_M, final_VW), self._items(final_VW)
        bias_I = None if self._negative_bias_I is None else self._negative_bias_I.to(device)
        value = loss(user_MW, items_IW, bias_I, items_M, batch.pairs.seen.to(device))
        if self.config.l2:
            squares = user_MW.square().sum(1) + F.embedding(items_M, items_IW).square().sum(1)
            value = value + self.config.l2 * squares.mean()
        if self.config.triple_weight:
            value = value + self.config.triple_weight * self._triple_loss(batch)
        return value, len(items_M)

    def _required_graph(self) -> RelationGraph:
        if self._graph is None:
            raise ValueError("kgat: a loaded model has no graph and cannot be trained further; train a new model")
        return self._graph.to(self.device)

    def _embeddings(self) -> Tensor:
        return torch.cat([self.users_UD, self.entities_VD])

    def _triple_loss(self, batch: _Batch) -> Tensor:
        """Return the pairwise loss of the squared distances of TransR."""
        graph, edges_T = self._required_graph(), batch.edges_T.to(self.device)
        relations_T, pairs_T = graph.relations_E[edges_T], graph.pair_of_E[edges_T]
        vectors_VD = self._embeddings()
        order = torch.argsort(relations_T)  # one product per relation, instead of one copy of its matrix per triple
        relations_T, pairs_T, corrupted_T = relations_T[order], pairs_T[order], batch.corrupted_T.to(self.device)[order]
        ends = [
            F.embedding(codes, vectors_VD) for codes in (graph.heads_P[pairs_T], graph.tails_P[pairs_T], corrupted_T)
        ]
        head, tail, wrong = (self._project(x_TD, relations_T) for x_TD in ends)
        moved_TK = head + F.embedding(relations_T, self.relations_RK)
        margin_T = (moved_TK - wrong).square().sum(1) - (moved_TK - tail).square().sum(1)
        return F.softplus(-margin_T).mean()

    def _project(self, x_TD: Tensor, relations_T: Tensor) -> Tensor:
        """Return ``W_r x`` for rows sorted by relation, ``(T, K)``."""
        counts = torch.bincount(relations_T, minlength=len(self.relations_RK)).tolist()
        parts = [part @ self.projections_RDK[code] for code, part in enumerate(x_TD.split(counts)) if len(part)]
        return torch.cat(parts) if parts else x_TD.new_zeros(0, self.config.relation_dim)

    @torch.no_grad()
    def _attend(self) -> Tensor:
        """Return the attention of each pair of vertices, ``(P,)``.

        It is summed over the relations of the pair.
        """
        graph, vectors_VD = self._required_graph(), self._embeddings()
        order = torch.argsort(graph.relations_E, stable=True)
        relations_E, pairs_E = graph.relations_E[order], graph.pair_of_E[order]
        heads_E = graph.heads_P[pairs_E]
        head_EK = self._project(vectors_VD[heads_E], relations_E)
        tail_EK = self._project(vectors_VD[graph.tails_P[pairs_E]], relations_E)
        logits_E = (tail_EK * torch.tanh(head_EK + self.relations_RK[relations_E])).sum(1)
        maxima_V = logits_E.new_full((graph.n_vertices,), -torch.inf).scatter_reduce(0, heads_E, logits_E, "amax")
        weights_E = torch.exp(logits_E - maxima_V[heads_E])
        totals_V = weights_E.new_zeros(graph.n_vertices).index_add(0, heads_E, weights_E)
        return weights_E.new_zeros(len(graph.norm_P)).index_add(0, pairs_E, weights_E / totals_V[heads_E])

    def _layers(self, attention_P: Tensor) -> list[Tensor]:
        """Return the embeddings and the output of each layer, ``(V, width)``."""
        graph, layers = self._required_graph(), [self._embeddings()]
        for index in range(self.config.num_layers):
            sums_VD = graph.propagate(layers[-1], attention_P, 1)[1]
            layers.append(dropout(self._combine(index, layers[-1], sums_VD), self.config.dropout, self.training))
        return layers

    def _combine(self, index: int, x_VD: Tensor, sums_VD: Tensor) -> Tensor:
        """Combine vectors with the sums over their neighbors (eq. 8)."""
        return F.leaky_relu(self.sums[index](x_VD + sums_VD)) + F.leaky_relu(self.products[index](x_VD * sums_VD))

    @torch.no_grad()
    def finalize(self) -> None:
        """Precompute the final vectors, and the item vectors of each layer for folding in."""
        if self._graph is None:
            return
        was_training = self.training
        layers = self.eval()._layers(self._attend())
        self.train(was_training)
        final_VW = _concat(layers)
        self.propagated_users_UD.copy_(final_VW[: self.schema.n_users])
        self.propagated_items_ID.copy_(self._items(final_VW))
        self.mean_user_D.copy_(self.users_UD[self.is_training_user_U].mean(0))
        for index, layer in enumerate(layers[:-1]):
            getattr(self, f"layer_items_{index}").copy_(self._items(layer))

    @torch.no_grad()
    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the final vectors of the users, ``(N, W)``.

        Their layers are computed from the history.
        """
        device = self.device
        known, users = self.known_users(queries)
        own_ND = self.mean_user_D.tile(len(queries), 1)
        own_ND[known] = self.users_UD[users]
        trained_NW = self.propagated_users_UD[self.is_training_user_U].mean(0).tile(len(queries), 1)
        trained_NW[known] = self.propagated_users_UD[users]
        history_NI = queries.history.csr(self.schema.n_items)
        rows = np.repeat(np.arange(len(queries)), np.diff(history_NI.indptr))
        is_used = self.is_training_item_I.numpy(force=True)[history_NI.indices]
        rows_E, items_E = (
            torch.from_numpy(part[is_used].astype(np.int64)).to(device) for part in (rows, history_NI.indices)
        )
        matrix_DK, relation_K = self.projections_RDK[TO_USER], self.relations_RK[TO_USER]
        tails_EK = F.embedding(items_E, self._layer_items(0) @ matrix_DK)
        logits_E = (tails_EK * torch.tanh(own_ND @ matrix_DK + relation_K)[rows_E]).sum(1)
        maxima_N = logits_E.new_full((len(queries),), -torch.inf).scatter_reduce(0, rows_E, logits_E, "amax")
        weights_E = torch.exp(logits_E - maxima_N[rows_E])
        weights_E = weights_E / weights_E.new_zeros(len(queries)).index_add(0, rows_E, weights_E)[rows_E]
        layers = [own_ND]
        for index in range(self.config.num_layers):
            weighted = F.embedding(items_E, self._layer_items(index)) * weights_E[:, None]
            sums_ND = layers[-1].new_zeros(layers[-1].shape).index_add(0, rows_E, weighted)
            layers.append(self._combine(index, layers[-1], sums_ND))
        has_items_N = torch.bincount(rows_E, minlength=len(queries)) > 0
        encoded: NDArray[np.float32] = torch.where(has_items_N[:, None], _concat(layers), trained_NW).cpu().numpy()
        return encoded

    def _layer_items(self, index: int) -> Tensor:
        found: Tensor = getattr(self, f"layer_items_{index}")
        return found

    def similar(self, items: Codes) -> Scores:
        """Return the cosine similarity of item vectors."""
        return cosine_similarity(self.vectors, items)


def _concat(layers: list[Tensor]) -> Tensor:
    """Return the embedding and the outputs of the layers side by side (eq. 11).

    The outputs are normalized.
    """
    return torch.cat([layers[0], *(F.normalize(layer, dim=1) for layer in layers[1:])], dim=1)
