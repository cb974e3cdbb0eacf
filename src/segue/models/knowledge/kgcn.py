"""KGCN: graph convolution over the entities around an item.

The weights are the interest of the user in each relation.

Wang et al. 2019, arXiv:1904.12575. Every vertex has a fixed random sample of ``num_neighbors`` neighbors in the
knowledge graph. For a user ``u`` a neighbor by relation ``r`` has the weight ``softmax(u . r)`` (eq. 1 and 3). A layer
adds the weighted neighbors to the vertex and applies a linear map, which starts as the identity, with ReLU between and
tanh after the last one (eq. 4). The score of an item is the product of its vector, as the user sees it, with the user
embedding (eq. 7).

Training is binary classification of the items of a user against sampled others (eq. 8). Unlike the published code,
edges are followed in both directions with one embedding per direction. Users without a trained vector have the mean
embedding of users, moved by the regression of user embeddings on the mean entity embedding of their items, fitted on
training. Items without events are scored by their triples.

Shapes: U users, I items, V = I + entities, R relations with inverses and one for no edge, S sampled neighbors, D width,
M pairs of a batch, K items per pair (its own first), N queries, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.config import Settings
from segue.core.examples.interaction_pairs import InteractionPairs
from segue.core.model import StateArrays, select_candidates
from segue.core.model_arrays import check_range
from segue.core.network import Loss, Network
from segue.core.types import Codes, DataSchema, Dataset, Events, Queries, Scores
from segue.solvers.profiles.fold_in_regression import fit_user_regression, predict_user_vectors

__all__ = ["KGCN"]

CELLS = 1 << 22
"""Maximum number of numbers in a block of neighbors in prediction (16 MiB)."""


@dataclass(frozen=True, eq=False)
class _Batch:
    """User-item pairs and their negatives."""

    users_M: Tensor
    items_MK: Tensor
    weights_MK: Tensor
    """1, or 0 for a sampled item that is no negative."""


class KGCN(Network):
    """Convolution over sampled neighbors in the knowledge graph."""

    required_features = ("knowledge",)
    builtin_loss = "binary cross-entropy against model.num_negatives sampled items per pair"

    class Config(Settings):
        """Settings of ``kgcn``."""

        embedding_dim: Annotated[int, Gt(0)] = 32
        """Width of the embeddings of users, items, entities and relations."""
        num_layers: Annotated[int, Gt(0)] = 1
        """Convolutions, each one step farther into the graph; an item costs ``num_neighbors ** num_layers``."""
        num_neighbors: Annotated[int, Gt(0)] = 8
        """Neighbors that are sampled once for every vertex."""
        num_negatives: Annotated[int, Gt(0)] = 4
        """Negatives per pair, sampled from the items the user has not interacted with."""
        cold_negatives: bool = False
        """Whether items without events in training are negatives too. Nothing speaks against them, and their own
        embedding would learn nothing but to be ranked low."""
        l2: Annotated[float, Ge(0)] = 1e-5
        """Weight of the squared embeddings of the user and the item of each pair."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        width, n_vertices = config.embedding_dim, schema.n_items + schema.n_entities
        self.users_UD = nn.Parameter(torch.randn(schema.n_users, width).mul_(0.1))
        self.entities_VD = nn.Parameter(torch.randn(n_vertices, width).mul_(0.1))
        self.relations_RD = nn.Parameter(torch.randn(2 * schema.n_relations + 1, width).mul_(0.1))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(config.num_layers))
        for parameter in self.layers.parameters():  # the vector of an item is its embedding at the start
            nn.init.zeros_(parameter)
        self.neighbors_VS: Tensor
        self.edges_VS: Tensor
        self.fold_in_DD: Tensor
        self.means_2D: Tensor
        self.is_training_user_U: Tensor
        shape = (n_vertices, config.num_neighbors)
        self.register_buffer("neighbors_VS", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("edges_VS", torch.full(shape, 2 * schema.n_relations, dtype=torch.int64))
        self.register_buffer("fold_in_DD", torch.zeros(width, width))
        self.register_buffer("means_2D", torch.zeros(2, width))
        self.register_buffer("is_training_user_U", torch.zeros(schema.n_users, dtype=torch.bool))
        self._histories: Events | None = None

    @classmethod
    def schema_for(cls, config: Any, data: Dataset) -> DataSchema:
        """Return the schema with the sizes of the graph."""
        return data.knowledge_schema("kgcn")

    def prepare(self, train: Dataset) -> None:
        """Sample the neighbors; a vertex without neighbors is its own."""
        graph = train.knowledge_for("kgcn").graph
        heads, tails = graph.heads_T.astype(np.int64), graph.tails_T.astype(np.int64)
        relations = graph.relations_T.astype(np.int64)
        from_E, to_E = np.concatenate([heads, tails]), np.concatenate([tails, heads])
        relations_E = np.concatenate([relations, relations + self.schema.n_relations])
        order = np.argsort(from_E, kind="stable")
        counts_V = np.bincount(from_E, minlength=graph.n_vertices)
        starts_V = np.cumsum(counts_V) - counts_V
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        draws_VS = torch.rand(graph.n_vertices, self.config.num_neighbors, generator=generator).numpy()
        offsets_VS = (draws_VS * counts_V[:, None]).astype(np.int64)
        has_edges_V = counts_V > 0
        chosen = order[(starts_V[:, None] + offsets_VS)[has_edges_V]]
        neighbors_VS = np.repeat(np.arange(graph.n_vertices)[:, None], self.config.num_neighbors, axis=1)
        neighbors_VS[has_edges_V] = to_E[chosen]
        edges_VS = np.full_like(neighbors_VS, 2 * self.schema.n_relations)
        edges_VS[has_edges_V] = relations_E[chosen]
        self.neighbors_VS.copy_(torch.from_numpy(neighbors_VS))
        self.edges_VS.copy_(torch.from_numpy(edges_VS))
        self.is_training_user_U.copy_(torch.from_numpy(train.histories.lengths > 0))
        self._histories = train.histories

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.network.Network.restore`."""
        super().restore(arrays)
        check_range("neighbors_VS", self.neighbors_VS.numpy(force=True), len(self.entities_VD))
        check_range("edges_VS", self.edges_VS.numpy(force=True), len(self.relations_RD))

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_Batch]]:
        """Return the number of batches and all pairs in random order with negatives.

        A batch has as many pairs as ``size`` users have on average.
        """
        pairs = InteractionPairs(train.histories, self.schema.n_items)
        count, parts = pairs.batches(size, rng)
        has_events_I = np.bincount(train.histories.items, minlength=self.schema.n_items) > 0

        def batch(part: NDArray[np.int64]) -> _Batch:
            users_M, items_M = pairs.users_P[part], pairs.items_P[part]
            negatives_MK, seen_MK = pairs.sample_unseen(users_M, self.config.num_negatives, rng)
            items_MK = np.concatenate([items_M[:, None], negatives_MK], axis=1)
            weights_MK = np.ones(items_MK.shape, np.float32)
            weights_MK[:, 1:] -= seen_MK
            if not self.config.cold_negatives:
                weights_MK[:, 1:] *= has_events_I[negatives_MK]
            return _Batch(*(torch.from_numpy(array) for array in (users_M, items_MK, weights_MK)))

        return count, (batch(part) for part in parts)

    def objective(self, batch: _Batch, loss: Loss) -> tuple[Tensor, int]:
        """Return the loss of a batch, and its number of pairs.

        The argument ``loss`` is not used.
        """
        items_MK, weights_MK = batch.items_MK.to(self.device), batch.weights_MK.to(self.device)
        user_MD = F.embedding(batch.users_M.to(self.device), self.users_UD)
        logits_MK = (self._items_for(user_MD, items_MK) @ user_MD[:, :, None])[..., 0].float()
        sign_K = torch.ones(items_MK.shape[1], device=self.device)
        sign_K[0] = -1.0
        value = (F.softplus(logits_MK * sign_K) * weights_MK).sum(1).mean()
        if self.config.l2:
            squares = user_MD.square().sum(1) + F.embedding(items_MK[:, 0], self.entities_VD).square().sum(1)
            value = value + self.config.l2 * squares.mean()
        return value, len(items_MK)

    def _items_for(self, user_ND: Tensor, items_NC: Tensor) -> Tensor:
        """Return the vectors of items as each user sees them, ``(N, C, D)``."""
        interest_NR = user_ND @ self.relations_RD.T
        vertices = [items_NC[..., None]]  # (N, C, S ** hop) for each hop
        weights = []
        for _ in self.layers:
            edges = self.edges_VS[vertices[-1]]
            logits = interest_NR.gather(1, edges.flatten(1)).view(edges.shape)
            weights.append(torch.softmax(logits, dim=-1))
            vertices.append(self.neighbors_VS[vertices[-1]].flatten(2))
        vectors = [F.embedding(part, self.entities_VD) for part in vertices]
        for index, layer in enumerate(self.layers):
            activation = torch.tanh if index + 1 == len(self.layers) else F.relu
            updated = []
            for hop in range(len(vectors) - 1):
                shape = (*vectors[hop].shape[:-1], self.config.num_neighbors, vectors[hop].shape[-1])
                sums = (weights[hop][..., None] * vectors[hop + 1].view(shape)).sum(-2)
                mixed = vectors[hop] + sums
                updated.append(activation(mixed + layer(mixed)))
            vectors = updated
        return vectors[0][:, :, 0]

    @torch.no_grad()
    def finalize(self) -> None:
        """Fit the regression of user embeddings on the mean embedding of their items."""
        if self._histories is None:
            return
        is_training = self.is_training_user_U.numpy(force=True)
        mean_items_UD, users_UD = self._mean_items(self._histories)[0], self.users_UD.numpy(force=True)
        fold_in_DD, means_2D = fit_user_regression(mean_items_UD[is_training], users_UD[is_training])
        self.fold_in_DD.copy_(torch.from_numpy(fold_in_DD))
        self.means_2D.copy_(torch.from_numpy(means_2D))

    def _mean_items(self, history: Events) -> tuple[Scores, NDArray[np.bool_]]:
        """Return the mean embedding of each history, and whether it has items."""
        history_NI = history.csr(self.schema.n_items)
        counts_N = np.diff(history_NI.indptr)
        sums_ND = history_NI @ self.entities_VD.numpy(force=True)[: self.schema.n_items]
        return sums_ND / np.maximum(counts_N, 1.0)[:, None], counts_N > 0

    def _user_vectors(self, queries: Queries) -> Tensor:
        user_ND = predict_user_vectors(
            *self._mean_items(queries.history), self.fold_in_DD.numpy(force=True), self.means_2D.numpy(force=True)
        )
        known = np.flatnonzero(queries.known)
        known = known[self.is_training_user_U.numpy(force=True)[queries.users[known]]]
        user_ND[known] = self.users_UD.numpy(force=True)[queries.users[known]]
        return torch.from_numpy(user_ND.astype(np.float32)).to(self.device)

    @torch.inference_mode()
    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the logits of the training objective."""
        user_ND = self._user_vectors(queries)
        n_items, width = self.schema.n_items, self.config.embedding_dim
        scores_NI = np.empty((len(queries), n_items), np.float32)
        per_item = width * self.config.num_neighbors**self.config.num_layers
        columns = max(1, min(n_items, CELLS // per_item))
        rows = max(1, CELLS // (per_item * columns))
        for first in range(0, len(queries), rows):
            users = user_ND[first : first + rows]
            for start in range(0, n_items, columns):
                items = torch.arange(start, min(start + columns, n_items), device=self.device)
                vectors = self._items_for(users, items.expand(len(users), -1))
                scores_NI[first : first + rows, start : start + columns] = (vectors @ users[:, :, None])[..., 0].cpu()
        return select_candidates(scores_NI, candidates)
