"""LightGCN: vectors of users and items that spread along who had what (He et al. 2020, arXiv:2002.02126).

Everybody has a vector, and so has every item. A layer hands each the sum of its neighbours' vectors, normalised on both
sides, and nothing else: no weights, no nonlinearity. The mean over the layers is what scores are products of. Any loss
and sampler of the training may learn it: the paper has ``loss=bpr``; a loss over the catalogue, or over many negatives,
needs far fewer epochs. What a person had is no wrong answer to him.

A person is folded in from the history that is asked about, known or not: all his layers but the first are sums over its
items, in closed form. The first is his own vector, or the mean of all for who was not there in training. For somebody
known, with his training history, that is the vector he was trained with. A history that says nothing is answered by the
trained vector of who is known, else by the mean of all.

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
from segue.core.model import pick_candidates
from segue.core.network import Loss, Network
from segue.core.seen_items import Seen
from segue.core.types import Codes, Dataset, Domain, Queries, Scores
from segue.nn.graph_propagation import Graph
from segue.solvers.biased_factor_model import cosine_likeness
from segue.solvers.interaction_pairs import Holdings

__all__ = ["LightGCN"]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Some pairs, sorted by user, and all that their users had."""

    users_M: Tensor
    items_M: Tensor
    seen: Seen


class LightGCN(Network):
    """Linear propagation over the graph of users and items."""

    class Config(Settings):
        """Settings of ``lightgcn``."""

        width: Annotated[int, Gt(0)] = 64
        """Width of the vectors of users and items."""
        layers: Annotated[int, Gt(0)] = 3
        """Steps along the graph: 1 reaches the items of a history, 2 the others who had them, 3 what those had."""
        l2: Annotated[float, Ge(0)] = 1e-4
        """Weight of the squared vectors, before they spread, of the user and the item of each pair."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        width = config.width
        self.users_UD = nn.Parameter(0.1 * torch.randn(domain.n_users, width))
        self.items_ID = nn.Parameter(0.1 * torch.randn(domain.n_items, width))
        self.spread_ID: Tensor
        self.final_ID: Tensor
        self.people_UD: Tensor
        self.newcomer_2D: Tensor
        self.met_U: Tensor
        self.met_I: Tensor
        self.register_buffer("spread_ID", torch.zeros(domain.n_items, width))  # what an item adds to who has it
        self.register_buffer("final_ID", torch.zeros(domain.n_items, width))
        self.register_buffer("people_UD", torch.zeros(domain.n_users, width))
        self.register_buffer("newcomer_2D", torch.zeros(2, width))  # means of `users` and of `people`
        self.register_buffer("met_U", torch.zeros(domain.n_users, dtype=torch.bool))
        self.register_buffer("met_I", torch.zeros(domain.n_items, dtype=torch.bool))
        self._graph: Graph | None = None

    def prepare(self, train: Dataset) -> None:
        """Lay out the graph; it is needed to train, not to answer."""
        self._graph = Graph(train.histories, train.n_items)
        self.met_U.copy_(torch.from_numpy(train.histories.lengths > 0))
        self.met_I.copy_(self._graph.degrees_I > 0)

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[_Batch]]:
        """All pairs in random order; a batch holds as many as ``size`` users have on average."""
        pairs = Holdings(train.histories, self.domain.n_items)
        count, parts = pairs.batches(size, rng)

        def batch(part: NDArray[np.int64]) -> _Batch:
            users = pairs.users_P[part]
            return _Batch(torch.from_numpy(users), torch.from_numpy(pairs.items_P[part]), pairs.seen(users))

        return count, (batch(part) for part in parts)

    def objective(self, batch: _Batch, loss: Loss) -> tuple[Tensor, int]:
        """How badly the items of the pairs are ranked, and the squared vectors behind them."""
        device, count = self.device, len(batch.items_M)
        users_M, items_M = batch.users_M.to(device), batch.items_M.to(device)
        people_UD, items_ID = self._spread()
        value = loss(F.embedding(users_M, people_UD), items_ID, None, items_M, batch.seen.to(device))
        if self.config.l2:
            for vectors, codes_M in ((self.users_UD, users_M), (self.items_ID, items_M)):
                share = torch.bincount(codes_M, minlength=len(vectors)) / count
                value = value + self.config.l2 * (share @ vectors.square().sum(1))
        return value, count

    def _spread(self) -> tuple[Tensor, Tensor]:
        """The vectors of users and of items after all layers."""
        if self._graph is None:
            raise ValueError("lightgcn: no data to train on; a model that was loaded can answer, not train")
        both_VD = torch.cat([self.users_UD, self.items_ID])
        spread_VD = self._graph.to(self.device).spread(both_VD, self.config.layers)
        return spread_VD[: self.domain.n_users], spread_VD[self.domain.n_users :]

    @torch.no_grad()
    def settle(self) -> None:
        """Spread the vectors once, for all answers until training goes on."""
        if self._graph is None:
            return
        people_UD, items_ID = self._spread()
        graph, below_VD = self._graph, torch.cat([self.users_UD, self.items_ID])
        sum_VD = below_VD.clone()
        for _ in range(self.config.layers - 1):
            below_VD = graph.step(below_VD)
            sum_VD += below_VD
        reach_I = self.met_I / graph.degrees_I.clamp_min(1.0).sqrt()
        self.spread_ID.copy_(sum_VD[self.domain.n_users :] * reach_I[:, None])
        self.final_ID.copy_(items_ID)
        self.people_UD.copy_(people_UD)
        self.newcomer_2D.copy_(torch.stack([self.users_UD[self.met_U].mean(0), people_UD[self.met_U].mean(0)]))

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """The mean over the layers, all but the first folded in from the history."""
        spread_ID, people_UD, (first_D, whole_D) = (
            table.numpy(force=True) for table in (self.spread_ID, self.people_UD, self.newcomer_2D)
        )
        known = np.flatnonzero(queries.known)
        known = known[self.met_U.numpy(force=True)[queries.users[known]]]
        users = queries.users[known]
        own_ND = np.tile(first_D, (len(queries), 1))
        own_ND[known] = self.users_UD.numpy(force=True)[users]
        trained_ND = np.tile(whole_D, (len(queries), 1))
        trained_ND[known] = people_UD[users]
        had_NI = queries.history.csr(self.domain.n_items)
        heard_N = had_NI @ self.met_I.numpy(force=True).astype(np.float32)
        folded_ND = (had_NI @ spread_ID) / np.sqrt(np.maximum(heard_N, 1.0))[:, None]
        encoded_ND: Scores = (own_ND + folded_ND) / np.float32(self.config.layers + 1)
        return np.where(heard_N[:, None] > 0, encoded_ND, trained_ND)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``(n_items, D)`` the mean over the layers."""
        return self.final_ID.numpy(force=True)

    @property
    def bias(self) -> NDArray[np.float32]:
        """``(n_items,)`` zeros."""
        return np.zeros(self.domain.n_items, np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """The product of person and item, in the scale of the loss."""
        scores_NI: Scores = self.encode(queries) @ self.vectors.T
        return pick_candidates(scores_NI, candidates)

    def similar(self, items: Codes) -> Scores:
        """The cosine between the items' vectors."""
        return cosine_likeness(self.vectors, items)
