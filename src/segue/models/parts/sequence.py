"""What every next-item model shares: item vectors in and out, windows, the objective at every position, answering.

Shapes: B sequences, L positions, D width, M positions with a target, I items, N queries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from torch import Tensor, nn

from segue.core.batches import SequenceBatch, query_batches, training_batches
from segue.core.config import Settings
from segue.core.model import pick_candidates
from segue.core.network import Loss, Network
from segue.core.types import Codes, Dataset, Domain, Queries, Scores

__all__ = ["SequenceModel", "SequenceSettings"]

QUERY_TOKENS = 16_384
"""Positions, padding included, that are encoded at once when answering."""


class SequenceSettings(Settings):
    """Settings that every next-item model has."""

    width: Annotated[int, Gt(0)] = 64
    """Width of item vectors and hidden states, D."""
    max_length: Annotated[int, Gt(0)] = 200
    """Targets in a training window; attention also reads no more than this when it answers."""
    windows: Literal["newest", "all"] = "newest"
    """``newest``: one window per user, the end of the history. ``all``: windows over the whole history, cut anew at a
    random place in each epoch."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share of activations dropped while training."""
    item_bias: bool = False
    """Whether each item has a learned offset beside its vector."""


class SequenceModel(Network):
    """A network that reads a history from its start token on and predicts the next item at every position.

    A subclass gives :meth:`hidden`; the scores are its output times the item vectors.
    """

    scale: ClassVar[Literal["logit", "score"]] = "logit"
    recurrent: ClassVar[bool]
    """Whether the whole history is read when answering, however long."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self.items = nn.Embedding(domain.n_items + 1, config.width)
        nn.init.xavier_normal_(self.items.weight)
        self.offsets = nn.Parameter(torch.zeros(domain.n_items)) if config.item_bias else None

    @abstractmethod
    def hidden(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """Hidden states ``(B, L, D)`` of every position, or ``(B, D)`` of the positions ``last`` alone."""

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[SequenceBatch]]:
        """One epoch of windows in random order, and how many batches they make."""
        config = self.config
        cover = config.windows == "all"
        return training_batches(train.histories, self.domain.n_items, config.max_length, size, rng, cover, pool=16)

    def objective(self, batch: SequenceBatch, loss: Loss) -> tuple[Tensor, int]:
        """The loss at every position that has a target."""
        batch = batch.to(self.device)
        hidden_BLD = self.hidden(self.items(batch.items_BL))
        hidden_MD = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])[batch.positions_M]
        vectors_ID = self.items.weight[: self.domain.n_items]
        return loss(hidden_MD, vectors_ID, self.offsets, batch.targets_M), len(batch.targets_M)

    @torch.inference_mode()
    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """``(N, D)`` the hidden state after each query's history."""
        training = self.training
        self.eval()
        result = np.empty((len(queries), self.config.width), np.float32)
        length = None if self.recurrent else self.config.max_length
        for rows, items_BL, lengths_B in query_batches(queries.history, self.domain.n_items, length, QUERY_TOKENS):
            x_BLD = self.items(items_BL.to(self.device))
            result[rows] = self.hidden(x_BLD, lengths_B.to(self.device) - 1).cpu().numpy()
        self.train(training)
        return result

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``(n_items, D)`` item vectors."""
        return self.items.weight.detach()[: self.domain.n_items].cpu().numpy()

    @property
    def bias(self) -> NDArray[np.float32]:
        """``(n_items,)`` item offsets; zeros where there are none."""
        if self.offsets is None:
            return np.zeros(self.domain.n_items, np.float32)
        return self.offsets.detach().cpu().numpy()

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Logits of the next item."""
        scores_NI = self.encode(queries) @ self.vectors.T + self.bias
        return pick_candidates(scores_NI, candidates)

    def similar(self, items: Codes) -> Scores:
        """Cosine between item vectors."""
        unit_ID = self.vectors / np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1e-12)
        likeness: Scores = unit_ID[items] @ unit_ID.T
        return likeness
