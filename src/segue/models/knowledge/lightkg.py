"""LightKG: linear propagation over one graph of users, items and entities.

Each relation has one weight.

"LightKG: Efficient Knowledge-Aware Recommendations with Simplified GNN Architecture" (KDD 2025,
doi:10.1145/3711896.3737026). Every user, item and entity has an embedding. A layer replaces each vector by the
normalized sum of its neighbors' vectors times the weight of the relation, a learned number. There are no matrices, no
attention and no nonlinearities. Scores are dot products of the means over the layers. With no triples and all weights 1
this is LightGCN.

A contrastive term pushes the embeddings of the users and of the items of a batch apart, before propagation: the less,
the more neighbors two of them share. It needs no second view of the graph.

Differences from the published code: the weights of the relations start at a setting, the contrastive term is a mean
over pairs instead of a sum, and any loss and sampler works (the paper's is ``pairwise_negatives``). Users are folded in
from the history of the query, see :mod:`segue.nn.graph_model`. Items without events are scored by their triples.

Shapes: U users, I items, V = U + I + entities, R relations of the graph with inverses, D width, M pairs of a batch, K
sampled items of a pair, B distinct users or items of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from scipy.sparse import csr_array
from torch import Tensor, nn

from segue.core.config import Settings
from segue.core.examples.interaction_pairs import InteractionPairs, PairBatch, pair_batches
from segue.core.network import Loss
from segue.core.types import Codes, DataSchema, Dataset, Scores
from segue.nn.graph_model import LinearGraphModel, exclude_cold_items
from segue.nn.graph_propagation import RelationGraph, collaborative_graph
from segue.nn.layers.dropout import dropout
from segue.solvers.biased_factor_model import cosine_similarity

__all__ = ["LightKG"]


class LightKG(LinearGraphModel):
    """Linear propagation over users, items and entities."""

    required_features = ("knowledge",)

    class Config(Settings):
        """Settings of ``lightkg``."""

        embedding_dim: Annotated[int, Gt(0)] = 64
        """Width of the embeddings of users, items and entities."""
        num_layers: Annotated[int, Gt(0)] = 2
        """Propagation steps: 1 reaches the items of a user, 2 the other users and the entities of these items, 3 the
        items that share an entity with them."""
        l2: Annotated[float, Ge(0)] = 1e-4
        """Weight of the squared embeddings, before propagation, of the user and the item of each pair."""
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
        """Fraction of the numbers in the embeddings that are dropped before propagation."""
        initial_weight: Annotated[float, Ge(0)] = 1.0
        """Weight of the relations of triples at the start; that of interactions is 1."""
        learn_weights: bool = True
        """Whether the weights of the relations are learned, as in the paper, or stay as they are at the start."""
        normalization: Literal["joint", "separate"] = "joint"
        """Number of neighbors by which a vector is divided: ``joint``, as in the paper: all of them; ``separate``: of
        interactions those in interactions, of triples those in triples, so that items with many triples receive as much
        from their users as without. With fixed weights of 0, ``separate`` is LightGCN."""
        contrast: Annotated[float, Ge(0)] = 0.0
        """Weight of the contrastive term; 0: none."""
        contrast_temperature: Annotated[float, Gt(0)] = 0.6
        """Divisor of the cosines in the contrastive term."""
        pairwise_negatives: Annotated[int, Ge(0)] = 0
        """Unseen items that are sampled for each pair and compared with its item by BPR, as in the paper, which has 10
        on Last.FM; 0: the loss of the training settings, whose negatives the pairs of a batch share."""
        cold_negatives: bool = False
        """Whether items without events in training are negatives too. Nothing speaks against them, and their own
        embedding would learn nothing but to be ranked low."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        n_vertices = schema.n_items + schema.n_entities
        self.entities_VD = nn.Parameter(torch.randn(n_vertices, config.embedding_dim).mul_(0.1))
        weights_R = torch.full((2 + 2 * schema.n_relations,), config.initial_weight)
        weights_R[:2] = 1.0  # users and items
        self.relation_weights_R = nn.Parameter(weights_R, requires_grad=config.learn_weights)
        self._graph: RelationGraph | None = None
        self._negative_bias_I: Tensor | None = None
        self._seen_UI: csr_array[Any] | None = None
        self._pairs: InteractionPairs | None = None
        if config.pairwise_negatives:
            self.training_notes = (
                f"lightkg: each pair is compared with {config.pairwise_negatives} unseen items (BPR); the loss of the "
                "training settings is not used",
            )

    @classmethod
    def schema_for(cls, config: Any, data: Dataset) -> DataSchema:
        """Return the schema with the sizes of the graph."""
        return data.knowledge_schema("lightkg")

    def prepare(self, train: Dataset) -> None:
        """Build the graph, which training needs and prediction does not."""
        self._graph = collaborative_graph(
            train.histories,
            train.knowledge_for("lightkg").graph,
            self.schema.n_relations,
            self.config.normalization == "separate",
        )
        self._seen_UI = train.histories.csr(self.schema.n_items)
        self._pairs = InteractionPairs(train.histories, self.schema.n_items)
        if not self.config.cold_negatives:
            self._negative_bias_I = exclude_cold_items(train.histories, self.schema.n_items)
        self.is_training_user_U.copy_(torch.from_numpy(train.histories.lengths > 0))
        self.is_training_item_I.copy_(self._items(self._graph.degrees_GV.T).sum(1) > 0)

    def batches(self, train: Dataset, size: int, rng: np.random.Generator) -> tuple[int, Iterator[PairBatch]]:
        """Return the number of batches and all pairs in random order.

        A batch has as many pairs as ``size`` users have on average.
        """
        count, batches = pair_batches(train.histories, self.schema.n_items, size, rng)
        if not self.config.pairwise_negatives:
            return count, batches
        return count, (self._with_negatives(batch, rng) for batch in batches)

    def _with_negatives(self, batch: PairBatch, rng: np.random.Generator) -> PairBatch:
        """Sample unseen items for each pair, and say which are negatives."""
        assert self._pairs is not None
        negatives_MK, is_seen_MK = self._pairs.sample_unseen(batch.users_M.numpy(), self.config.pairwise_negatives, rng)
        is_negative_MK = torch.from_numpy(~is_seen_MK)
        negatives = torch.from_numpy(negatives_MK)
        if self._negative_bias_I is not None:
            is_negative_MK &= self._negative_bias_I[negatives] == 0
        return replace(batch, negatives_MK=negatives, is_negative_MK=is_negative_MK)

    def objective(self, batch: PairBatch, loss: Loss) -> tuple[Tensor, int]:
        """Return the loss of a batch, and its number of pairs.

        The loss is that of the pairs, the L2 penalty of their embeddings, and the contrastive term.
        """
        device, count = self.device, len(batch.items_M)
        users_M, items_M = batch.users_M.to(device), batch.items_M.to(device)
        layers = self._propagate()
        final_VD = torch.stack(layers).mean(0)
        users_UD, items_ID = final_VD[: self.schema.n_users], self._items(final_VD)
        bias_I = None if self._negative_bias_I is None else self._negative_bias_I.to(device)
        hidden_MD = F.embedding(users_M, users_UD)
        if batch.negatives_MK is None or batch.is_negative_MK is None:
            value = loss(hidden_MD, items_ID, bias_I, items_M, batch.seen.to(device))
        else:
            value = _bpr(hidden_MD, items_ID, items_M, batch.negatives_MK.to(device), batch.is_negative_MK.to(device))
        for vectors, codes_M in ((self.users_UD, users_M), (self.entities_VD, items_M)):
            if self.config.l2:
                frequency = torch.bincount(codes_M, minlength=len(vectors)) / count
                value = value + self.config.l2 * (frequency @ vectors.square().sum(1))
        if self.config.contrast:
            assert self._seen_UI is not None
            of_users = self._contrast(self.users_UD, batch.users_M, self._seen_UI)
            of_items = self._contrast(self.entities_VD, batch.items_M, self._seen_UI.T.tocsr())
            value = value + self.config.contrast * (of_users + of_items)
        return value, count

    def _items(self, x_VD: Tensor) -> Tensor:
        return x_VD[self.schema.n_users : self.schema.n_users + self.schema.n_items]

    def _propagate(self) -> list[Tensor]:
        """Return the vectors of all layers, ``(V, D)`` each."""
        if self._graph is None:
            raise ValueError("lightkg: a loaded model has no graph and cannot be trained further; train a new model")
        graph = self._graph.to(self.device)
        embeddings_VD = torch.cat([self.users_UD, self.entities_VD])
        embeddings_VD = dropout(embeddings_VD, self.config.dropout, self.training)
        return graph.propagate(embeddings_VD, graph.edge_weights(self.relation_weights_R), self.config.num_layers)

    def _contrast(self, vectors_VD: Tensor, codes_M: Tensor, seen: csr_array[Any]) -> Tensor:
        """Return the contrastive term of a batch.

        It is the mean of ``(1 - n_i n_j) exp(cos(i, j) (1 - s_ij) / temperature)`` over pairs.

        ``n`` is 1 / sqrt(degree), and ``s`` the number of shared neighbors times ``n_i n_j``.
        """
        codes_B = torch.unique(codes_M)
        if len(codes_B) < 2:
            return vectors_VD.new_zeros(())
        rows = seen[codes_B.numpy()]
        norms_B = 1.0 / np.sqrt(np.maximum(np.diff(rows.indptr), 1))
        products_BB = norms_B[:, None] * norms_B
        shared_BB = (rows @ rows.T).toarray() * products_BB
        unit_BD = F.normalize(F.embedding(codes_B.to(self.device), vectors_VD), dim=1)
        weights_BB, distinct_BB = (
            torch.from_numpy(part.astype(np.float32)).to(self.device) for part in (1 - products_BB, 1 - shared_BB)
        )
        pairs_BB = weights_BB * torch.exp(unit_BD @ unit_BD.T * distinct_BB / self.config.contrast_temperature)
        off_diagonal = pairs_BB.sum() - pairs_BB.diagonal().sum()
        return off_diagonal / (len(codes_B) * (len(codes_B) - 1))

    @torch.no_grad()
    def finalize(self) -> None:
        """Precompute the propagated vectors and what folding in needs."""
        if self._graph is None:
            return
        was_training = self.training
        layers = self.eval()._propagate()
        self.train(was_training)
        final_VD = torch.stack(layers).mean(0)
        sums_ID = self._items(torch.stack(layers[:-1]).sum(0))
        degrees_I = self._items(self._graph.degrees_GV.T)[:, 0]  # of the group with the interactions
        normalization_I = self.relation_weights_R[0] / degrees_I.clamp_min(1.0).sqrt()
        self.set_vectors(final_VD[: self.schema.n_users], self._items(final_VD), sums_ID * normalization_I[:, None])

    def similar(self, items: Codes) -> Scores:
        """Return the cosine similarity of item vectors."""
        return cosine_similarity(self.vectors, items)


def _bpr(users_MD: Tensor, items_ID: Tensor, items_M: Tensor, negatives_MK: Tensor, is_negative_MK: Tensor) -> Tensor:
    """Return the mean of ``-log sigmoid(positive - negative)``."""
    positive_M = (users_MD * F.embedding(items_M, items_ID)).sum(1)
    negative_MK = torch.einsum("md,mkd->mk", users_MD, F.embedding(negatives_MK, items_ID))
    losses_MK = F.softplus(negative_MK - positive_M[:, None]) * is_negative_MK
    return losses_MK.sum() / is_negative_MK.sum().clamp_min(1)
