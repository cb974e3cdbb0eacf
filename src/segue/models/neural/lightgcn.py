"""LightGCN: user and item embeddings propagated over the interaction graph.

He et al. 2020, arXiv:2002.02126. Every user and every item has an embedding. A layer replaces each vector by the
normalized sum of its neighbors' vectors, without weights or nonlinearities. Scores are dot products of the means over
the layers. Any loss and sampler works: the paper uses ``loss=bpr``; a loss over the catalog, or over many negatives,
needs far fewer epochs. Items a user has interacted with are never negatives for them.

Users are folded in from the history of the query: all layers but the first are sums over its items, in closed form. The
first is the user's own embedding, or, for unknown users, the mean embedding. For a training user with their training
history this is exactly the trained vector. A history without training items falls back to the trained vector of the
user, if known, or to the mean over users.

Shapes: U users, I items, V = U + I, N queries, C candidates, D width, M pairs of a batch.
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
from segue.core.model import select_candidates
from segue.core.network import Loss, Network
from segue.core.seen_items import SeenItems
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores
from segue.nn.graph_propagation import UserItemGraph
from segue.solvers.biased_factor_model import cosine_similarity
from segue.solvers.interaction_pairs import InteractionPairs

__all__ = ["LightGCN"]


@dataclass(frozen=True, eq=False)
class _Batch:
    """User-item pairs sorted by user, and all items of their users."""

    users_M: Tensor
    items_M: Tensor
    seen: SeenItems


class LightGCN(Network):
    """Linear propagation over the user-item graph."""

    class Config(Settings):
        """Settings of ``lightgcn``."""

        embedding_dim: Annotated[int, Gt(0)] = 64
        """Width of user and item embeddings."""
        num_layers: Annotated[int, Gt(0)] = 3
        """Propagation steps: 1 reaches the items of a user, 2 the other users of these items, 3 the items of those
        users."""
        l2: Annotated[float, Ge(0)] = 1e-4
        """Weight of the squared embeddings, before propagation, of the user and the item of each pair."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        width = config.embedding_dim
        self.users_UD = nn.Parameter(torch.randn(schema.n_users, width).mul_(0.1))
        self.items_ID = nn.Parameter(torch.randn(schema.n_items, width).mul_(0.1))
        self.fold_in_ID: Tensor
        self.propagated_items_ID: Tensor
        self.propagated_users_UD: Tensor
        self.mean_user_2D: Tensor
        self.is_training_user_U: Tensor
        self.is_training_item_I: Tensor
        self.register_buffer("fold_in_ID", torch.zeros(schema.n_items, width))  # what an item contributes to its users
        self.register_buffer("propagated_items_ID", torch.zeros(schema.n_items, width))
        self.register_buffer("propagated_users_UD", torch.zeros(schema.n_users, width))
        self.register_buffer("mean_user_2D", torch.zeros(2, width))  # mean embedding and mean propagated vector
        self.register_buffer("is_training_user_U", torch.zeros(schema.n_users, dtype=torch.bool))
        self.register_buffer("is_training_item_I", torch.zeros(schema.n_items, dtype=torch.bool))
        self._graph: UserItemGraph | None = None

    def prepare(self, train: Dataset) -> None:
        """Build the graph, which training needs and prediction does not."""
        self._graph = UserItemGraph(train.histories, train.n_items)
        self.is_training_user_U.copy_(torch.from_numpy(train.histories.lengths > 0))
        self.is_training_item_I.copy_(self._graph.degrees_I > 0)

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_Batch]]:
        """Return the number of batches and all pairs in random order.

        A batch has as many pairs as ``size`` users have on average.
        """
        pairs = InteractionPairs(train.histories, self.schema.n_items)
        count, parts = pairs.batches(size, rng)

        def batch(part: NDArray[np.int64]) -> _Batch:
            users = pairs.users_P[part]
            return _Batch(torch.from_numpy(users), torch.from_numpy(pairs.items_P[part]), pairs.seen(users))

        return count, (batch(part) for part in parts)

    def objective(self, batch: _Batch, loss: Loss) -> tuple[Tensor, int]:
        """Return the loss of a batch, and its number of pairs.

        The loss is that of the pairs plus the L2 penalty of their embeddings.
        """
        device, count = self.device, len(batch.items_M)
        users_M, items_M = batch.users_M.to(device), batch.items_M.to(device)
        propagated_users_UD, items_ID = self._propagate()
        value = loss(F.embedding(users_M, propagated_users_UD), items_ID, None, items_M, batch.seen.to(device))
        if self.config.l2:
            for vectors, codes_M in ((self.users_UD, users_M), (self.items_ID, items_M)):
                frequency = torch.bincount(codes_M, minlength=len(vectors)) / count
                value = value + self.config.l2 * (frequency @ vectors.square().sum(1))
        return value, count

    def _propagate(self) -> tuple[Tensor, Tensor]:
        """Return the user and item vectors, the means over all layers."""
        if self._graph is None:
            raise ValueError("lightgcn: a loaded model has no graph and cannot be trained further; train a new model")
        embeddings_VD = torch.cat([self.users_UD, self.items_ID])
        vectors_VD = self._graph.to(self.device).propagate(embeddings_VD, self.config.num_layers)
        return vectors_VD[: self.schema.n_users], vectors_VD[self.schema.n_users :]

    @torch.no_grad()
    def finalize(self) -> None:
        """Precompute the propagated vectors and what folding in needs."""
        if self._graph is None:
            return
        propagated_users_UD, items_ID = self._propagate()
        graph, layer_VD = self._graph, torch.cat([self.users_UD, self.items_ID])
        sum_VD = layer_VD.clone()
        for _ in range(self.config.num_layers - 1):
            layer_VD = graph.propagate_once(layer_VD)
            sum_VD += layer_VD
        normalization_I = self.is_training_item_I / graph.degrees_I.clamp_min(1.0).sqrt()
        self.fold_in_ID.copy_(sum_VD[self.schema.n_users :] * normalization_I[:, None])
        self.propagated_items_ID.copy_(items_ID)
        self.propagated_users_UD.copy_(propagated_users_UD)
        self.mean_user_2D.copy_(
            torch.stack(
                [self.users_UD[self.is_training_user_U].mean(0), propagated_users_UD[self.is_training_user_U].mean(0)]
            )
        )

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the mean over the layers of each user, ``(N, D)``.

        All layers but the first are folded in from the history.
        """
        fold_in_ID, propagated_users_UD, (mean_embedding_D, mean_vector_D) = (
            table.numpy(force=True) for table in (self.fold_in_ID, self.propagated_users_UD, self.mean_user_2D)
        )
        known = np.flatnonzero(queries.known)
        known = known[self.is_training_user_U.numpy(force=True)[queries.users[known]]]
        users = queries.users[known]
        own_ND = np.tile(mean_embedding_D, (len(queries), 1))
        own_ND[known] = self.users_UD.numpy(force=True)[users]
        trained_ND = np.tile(mean_vector_D, (len(queries), 1))
        trained_ND[known] = propagated_users_UD[users]
        history_NI = queries.history.csr(self.schema.n_items)
        counts_N = history_NI @ self.is_training_item_I.numpy(force=True).astype(np.float32)
        folded_ND = (history_NI @ fold_in_ID) / np.sqrt(np.maximum(counts_N, 1.0))[:, None]
        encoded_ND: Scores = (own_ND + folded_ND) / np.float32(self.config.num_layers + 1)
        return np.where(counts_N[:, None] > 0, encoded_ND, trained_ND)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the item vectors, ``(I, D)``: the means over the layers."""
        return self.propagated_items_ID.numpy(force=True)

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return zeros, ``(I,)``."""
        return np.zeros(self.schema.n_items, np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return dot products of user and item vectors, in the scale of the loss."""
        scores_NI: Scores = self.encode(queries) @ self.vectors.T
        return select_candidates(scores_NI, candidates)

    def similar(self, items: Codes) -> Scores:
        """Return the cosine similarity of item vectors."""
        return cosine_similarity(self.vectors, items)
