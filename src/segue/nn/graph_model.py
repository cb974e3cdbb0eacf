"""Bases of models that propagate vectors over a graph with users and items.

The vector of a user is folded in from the history of the query, so that a user with new events, or one who is unknown,
gets the vector that the graph would give them. For a training user with their training history this is exactly the
trained vector. A history without items of the graph falls back to the trained vector of the user, if known, or to the
mean over users.

Shapes: U users, I items, N queries, C candidates, D width of embeddings, W width of the final vectors, M pairs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.model import select_candidates
from segue.core.network import Network
from segue.core.types import Codes, DataSchema, Events, Queries, Scores

__all__ = ["GraphModel", "LinearGraphModel", "exclude_cold_items"]

EXCLUDED = -1e4
"""Bias with which an item has no weight in a loss."""


class GraphModel(Network):
    """Score items by products of the final vectors of users and items.

    Subclasses set the buffers in ``prepare`` and ``finalize``.
    """

    def __init__(self, config: Any, schema: DataSchema, width: int) -> None:
        super().__init__(config, schema)
        self.users_UD = nn.Parameter(torch.randn(schema.n_users, config.embedding_dim).mul_(0.1))
        self.propagated_items_ID: Tensor
        self.propagated_users_UD: Tensor
        self.is_training_user_U: Tensor
        self.is_training_item_I: Tensor
        self.register_buffer("propagated_items_ID", torch.zeros(schema.n_items, width))
        self.register_buffer("propagated_users_UD", torch.zeros(schema.n_users, width))
        self.register_buffer("is_training_user_U", torch.zeros(schema.n_users, dtype=torch.bool))
        self.register_buffer("is_training_item_I", torch.zeros(schema.n_items, dtype=torch.bool))  # has an edge

    @abstractmethod
    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the user vectors, ``(N, W)``."""

    def known_users(self, queries: Queries) -> tuple[NDArray[np.int64], Codes]:
        """Return the rows of training users, and their codes."""
        rows = np.flatnonzero(queries.known)
        rows = rows[self.is_training_user_U.numpy(force=True)[queries.users[rows]]]
        return rows, queries.users[rows]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the item vectors, ``(I, W)``."""
        return self.propagated_items_ID.numpy(force=True)

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return zeros, ``(I,)``."""
        return np.zeros(self.schema.n_items, np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return dot products of user and item vectors, in the scale of the loss."""
        scores_NI: Scores = self.encode(queries) @ self.vectors.T
        return select_candidates(scores_NI, candidates)


class LinearGraphModel(GraphModel):
    """Average the layers of a linear propagation.

    He et al. 2020, arXiv:2002.02126.

    All layers of a user but the first are weighted sums over the items of the user, in closed form. The first is the
    user's own embedding, or, for unknown users, the mean embedding.
    """

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema, config.embedding_dim)
        self.fold_in_ID: Tensor
        self.mean_user_2D: Tensor
        self.register_buffer("fold_in_ID", torch.zeros(schema.n_items, config.embedding_dim))
        self.register_buffer("mean_user_2D", torch.zeros(2, config.embedding_dim))

    def set_vectors(self, users_UD: Tensor, items_ID: Tensor, fold_in_ID: Tensor) -> None:
        """Set what prediction needs.

        Args:
            users_UD: final vectors of the users; ``items_ID``, those of the items.
            fold_in_ID: what an item contributes to its users: the sum over all layers but the last, times its weight.
        """
        self.fold_in_ID.copy_(fold_in_ID * self.is_training_item_I[:, None])
        self.propagated_items_ID.copy_(items_ID)
        self.propagated_users_UD.copy_(users_UD)
        is_training = self.is_training_user_U
        self.mean_user_2D.copy_(torch.stack([self.users_UD[is_training].mean(0), users_UD[is_training].mean(0)]))

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the mean over the layers of each user, ``(N, D)``."""
        fold_in_ID, propagated_users_UD, (mean_embedding_D, mean_vector_D) = (
            table.numpy(force=True) for table in (self.fold_in_ID, self.propagated_users_UD, self.mean_user_2D)
        )
        known, users = self.known_users(queries)
        own_ND = np.tile(mean_embedding_D, (len(queries), 1))
        own_ND[known] = self.users_UD.numpy(force=True)[users]
        trained_ND = np.tile(mean_vector_D, (len(queries), 1))
        trained_ND[known] = propagated_users_UD[users]
        history_NI = queries.history.csr(self.schema.n_items)
        counts_N = history_NI @ self.is_training_item_I.numpy(force=True).astype(np.float32)
        folded_ND = (history_NI @ fold_in_ID) / np.sqrt(np.maximum(counts_N, 1.0))[:, None]
        encoded_ND: Scores = (own_ND + folded_ND) / np.float32(self.config.num_layers + 1)
        return np.where(counts_N[:, None] > 0, encoded_ND, trained_ND)


def exclude_cold_items(histories: Events, n_items: int) -> Tensor:
    """Return a bias of items for the loss, ``(I,)``.

    It excludes items without events from the negatives.
    """
    bias_I = torch.zeros(n_items)
    bias_I[torch.from_numpy(np.bincount(histories.items, minlength=n_items) == 0)] = EXCLUDED
    return bias_I
