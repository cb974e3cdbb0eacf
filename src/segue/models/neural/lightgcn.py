"""LightGCN: user and item embeddings propagated over the interaction graph.

He et al. 2020, arXiv:2002.02126. Every user and every item has an embedding. A layer replaces each vector by the
normalized sum of its neighbors' vectors, without weights or nonlinearities. Scores are dot products of the means over
the layers. Any loss and sampler works: the paper uses ``loss=bpr``; a loss over the catalog, or over many negatives,
needs far fewer epochs. Items a user has interacted with are never negatives for them.

Users are folded in from the history of the query, see :mod:`segue.nn.graph_model`.

Shapes: U users, I items, V = U + I, D width, M pairs of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from segue.core.config import Choices, Search, Settings
from segue.core.examples.interaction_pairs import PairBatch, pair_batches
from segue.core.network import Loss
from segue.core.types import Codes, DataSchema, Dataset, Scores
from segue.nn.graph_model import LinearGraphModel
from segue.nn.graph_propagation import UserItemGraph
from segue.solvers.biased_factor_model import cosine_similarity

__all__ = ["LightGCN"]


class LightGCN(LinearGraphModel):
    """Linear propagation over the user-item graph."""

    class Config(Settings):
        """Settings of ``lightgcn``."""

        embedding_dim: Annotated[int, Gt(0), Choices((32, 64, 128))] = 64
        """Width of user and item embeddings."""
        num_layers: Annotated[int, Gt(0), Search(1, 4)] = 3
        """Propagation steps: 1 reaches the items of a user, 2 the other users of these items, 3 the items of those
        users."""
        l2: Annotated[float, Ge(0), Search(1e-6, 0.01, log=True)] = 1e-4
        """Weight of the squared embeddings, before propagation, of the user and the item of each pair."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.items_ID = nn.Parameter(torch.randn(schema.n_items, config.embedding_dim).mul_(0.1))
        self._graph: UserItemGraph | None = None

    def prepare(self, train: Dataset) -> None:
        """Build the graph, which training needs and prediction does not."""
        self._graph = UserItemGraph(train.histories, train.n_items)
        self.is_training_user_U.copy_(torch.from_numpy(train.histories.lengths > 0))
        self.is_training_item_I.copy_(self._graph.degrees_I > 0)

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[PairBatch]]:
        """Return the number of batches and all pairs in random order.

        A batch has as many pairs as ``size`` users have on average.
        """
        return pair_batches(train.histories, self.schema.n_items, size, rng)

    def objective(self, batch: PairBatch, loss: Loss) -> tuple[Tensor, int]:
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
        normalization_I = 1.0 / graph.degrees_I.clamp_min(1.0).sqrt()
        self.set_vectors(propagated_users_UD, items_ID, sum_VD[self.schema.n_users :] * normalization_I[:, None])

    def similar(self, items: Codes) -> Scores:
        """Return the cosine similarity of item vectors."""
        return cosine_similarity(self.vectors, items)
