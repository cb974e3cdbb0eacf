"""Divide DLRM: dot products of embeddings, and a tower over numbers.

The first of the top layers is a sum over pairs of fields. Pairs of two fields of the item are a quantity of the item,
and pairs of two fields of the query are computed once per query. A pair of both is linear in the vector of the item,
with a matrix that depends on the query.

Shapes: B candidates, D width of an embedding, F vectors, I those of an item, Q those of a query, H width of the first
top layer, J width of the first bottom layer, K numbers of a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segue.core.examples.candidate_fields import CandidateFields
from segue.nn.ctr.candidate_scoring import DividedNetwork, apply_layers, fold
from segue.nn.ctr.field_embeddings import ExampleBatch, FieldEmbeddings
from segue.nn.ctr.layers import Tower

__all__ = ["DotProducts"]

QueryTerms = tuple[Tensor, Tensor, Tensor]
"""Terms of the first top layer (H) and of the first bottom layer (J), and the matrix of vectors of the item, of z and
of their products, ``(I D + D + I, H)``."""


WithinWeights = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Rows and columns of the pairs P of a group of fields, their weights ``(H, P)``, and those of the fields themselves,
``(H, E)``; ``None``: the tower does not read them."""


class DotProducts(DividedNetwork):
    """The layers of DLRM.

    The quantities are terms of the first top layer (H) and of the first bottom layer (J), and the vectors (I D).

    Args:
        embed: embeddings of categories, tags and sequences.
        embed_dense: those of numbers and vectors; ``None``: there are none.
        bottom: fully connected layers over them, whose output z is the last of the F vectors; ``None``: none.
        top: fully connected layers over z, or over all embeddings if there is none, and the dot products of all pairs.
    """

    def __init__(
        self, embed: FieldEmbeddings, embed_dense: FieldEmbeddings | None, bottom: Tower | None, top: Tower
    ) -> None:
        self.embed, self.embed_dense = embed, embed_dense
        self.fields = (*embed.fields, *(() if embed_dense is None else embed_dense.fields))
        self.dim = embed.table.embedding_dim
        self.bottom, self.top = [] if bottom is None else fold(bottom), fold(top)
        n_vectors = len(embed.fields) + (bottom is not None)
        weights_HN, self.bias_H, _ = self.top[0]
        n_direct = weights_HN.shape[1] - n_vectors * (n_vectors - 1) // 2
        self.direct_HFD = weights_HN[:, :n_direct].unflatten(1, (-1, self.dim))
        rows, columns = torch.triu_indices(n_vectors, n_vectors, 1)
        self.pairs_HFF = weights_HN.new_zeros(len(weights_HN), n_vectors, n_vectors)
        self.pairs_HFF[:, rows, columns] = weights_HN[:, n_direct:]
        self.pairs_HFF[:, columns, rows] = weights_HN[:, n_direct:]
        self.n_bottom = len(self.bottom[0][1]) if self.bottom else 0
        self.items: list[int] = []
        self.queries: list[int] = []
        self.dense_items: list[int] = []
        self.dense_queries: list[int] = []
        self.numbers_KJ = torch.zeros(0, self.n_bottom)

    @property
    def width(self) -> int:
        """Number of quantities of an item; at most, before the fields are divided."""
        return len(self.bias_H) + self.n_bottom + len(self.items or self.embed.fields) * self.dim

    def divide(self, fields: CandidateFields) -> None:
        """See :meth:`DividedNetwork.divide`."""
        self.items, self.queries, _ = fields.positions(self.embed.fields)
        self.within_items, self.within_queries = self._within_weights(self.items), self._within_weights(self.queries)
        self.pairs_IQH = self.pairs_HFF[:, self.items][:, :, self.queries].permute(1, 2, 0).contiguous()
        self.pairs_HQ = self.pairs_HFF[:, -1, self.queries]
        self.pairs_IH = self.pairs_HFF[:, -1, self.items].T.contiguous()
        if self.embed_dense is not None:
            self.dense_items, self.dense_queries, own = fields.positions(self.embed_dense.fields)
            weights_JKD = self.bottom[0][0].unflatten(1, (-1, self.dim))[:, own]
            numbers_KD = self.embed_dense.numbers_KD[len(self.embed_dense.numbers) - len(own) :]
            self.numbers_KJ = torch.einsum("jkd,kd->kj", weights_JKD, numbers_KD)

    def of_items(self, batch: ExampleBatch) -> Tensor:
        """Return the quantities of items, ``(I, X)``."""
        x_BID = self.embed(batch)[:, self.items]
        parts = [self._within(x_BID, self.within_items), self._dense(batch, self.dense_items), x_BID.flatten(1)]
        return torch.cat(parts, 1)

    def of_query(self, batch: ExampleBatch) -> QueryTerms:
        """Return what depends on the query alone."""
        x_1QD = self.embed(batch)[:, self.queries]
        first_1H = self._within(x_1QD, self.within_queries) + self.bias_H
        dense_1J = self._dense(batch, self.dense_queries)
        parts = [(x_1QD[0].T @ self.pairs_IQH).flatten(0, 1)]
        if self.bottom:
            dense_1J = dense_1J + self.bottom[0][1]
            parts += [(self.pairs_HQ @ x_1QD[0] + self.direct_HFD[:, 0]).T, self.pairs_IH]
        return first_1H, dense_1J, torch.cat(parts)

    def logits(self, items_BX: Tensor, query: QueryTerms, numbers_BK: Tensor | None) -> Tensor:
        """See :meth:`DividedNetwork.logits`."""
        first_1H, dense_1J, matrix_NH = query
        first_BH, dense_BJ, x_BE = items_BX.split([len(self.bias_H), self.n_bottom, len(self.items) * self.dim], 1)
        first_BH = first_BH.add_(first_1H)
        if self.bottom:
            dense_BJ = dense_BJ.add_(dense_1J)
            if numbers_BK is not None:
                dense_BJ.addmm_(numbers_BK, self.numbers_KJ)
            z_BD = apply_layers(self.bottom, dense_BJ)
            dots_BI = (x_BE.unflatten(1, (-1, self.dim)) * z_BD[:, None]).sum(2)
            x_BE = torch.cat([x_BE, z_BD, dots_BI], 1)
        return apply_layers(self.top, first_BH.addmm_(x_BE, matrix_NH))[:, 0]

    def _within_weights(self, group: Sequence[int]) -> WithinWeights:
        """Return what :meth:`_within` needs for a group of fields."""
        rows, columns = torch.triu_indices(len(group), len(group), 1)
        weights_HP = self.pairs_HFF[:, group][:, :, group][:, rows, columns]
        return rows, columns, weights_HP, None if self.bottom else self.direct_HFD[:, group].flatten(1)

    def _within(self, x_BGD: Tensor, weights: WithinWeights) -> Tensor:
        """Return the terms of the first top layer of a group of fields, ``(B, H)``.

        They are those of the fields and of their pairs.
        """
        rows, columns, weights_HP, direct_HE = weights
        terms_BH = torch.bmm(x_BGD, x_BGD.transpose(1, 2))[:, rows, columns] @ weights_HP.T
        return terms_BH if direct_HE is None else terms_BH + x_BGD.flatten(1) @ direct_HE.T

    def _dense(self, batch: ExampleBatch, group: Sequence[int]) -> Tensor:
        """Return the terms of the first bottom layer of some fields, ``(B, J)``."""
        if self.embed_dense is None:
            return torch.zeros(batch.size, 0)
        weights_JE = self.bottom[0][0].unflatten(1, (-1, self.dim))[:, group].flatten(1)
        terms_BJ: Tensor = self.embed_dense(batch)[:, group].flatten(1) @ weights_JE.T
        return terms_BJ
