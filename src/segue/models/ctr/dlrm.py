"""DLRM: dot products of the embeddings of categories and of a tower over numbers.

Naumov et al. 2019, arXiv:1906.00091.

    z = bottom(numbers and vectors)
    logit(x) = top([z, <a, b> for each pair a, b of z and the embeddings])

Without numbers and vectors, the top layers read the embeddings in place of z.

Shapes: B examples, F fields, D width of an embedding.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor

from segue.core.examples.fields import fields_of_kind
from segue.core.types import DataSchema
from segue.nn.ctr.click_network import ClickNetwork, TowerSettings
from segue.nn.ctr.dot_products import DotProducts
from segue.nn.ctr.field_embeddings import ExampleBatch
from segue.nn.ctr.layers import Tower, pairwise_interactions

__all__ = ["DLRM"]


class DLRM(ClickNetwork):
    """A tower over dot products."""

    class Config(TowerSettings):
        """Settings of ``dlrm``."""

        bottom: tuple[Annotated[int, Gt(0)], ...] = (64,)
        """Widths of the fully connected layers over numbers and vectors, before one of ``embedding_dim``."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        dim = config.embedding_dim
        sparse = fields_of_kind(self.fields, "category", "tags", "sequence")
        dense = fields_of_kind(self.fields, "number", "vector")
        self.embed = self.embeddings(fields=sparse) if sparse else None
        self.embed_dense = self.embeddings(fields=dense) if dense else None
        self.bottom = Tower(len(dense) * dim, config.bottom, config.dropout, config.batch_norm, dim) if dense else None
        count = len(sparse) + bool(dense)
        self.top = self.tower(count * (count - 1) // 2 + (dim if dense else count * dim))

    def logits(self, batch: ExampleBatch) -> Tensor:
        """Return the logit of each example, ``(B,)``."""
        parts = [] if self.embed is None else [self.embed(batch)]
        if self.embed_dense is not None and self.bottom is not None:
            parts.append(self.bottom(self.embed_dense(batch).flatten(1))[:, None])
        x_BFD = torch.cat(parts, 1)
        direct = x_BFD[:, -1] if self.bottom is not None else x_BFD.flatten(1)
        logits_B: Tensor = self.top(torch.cat([direct, pairwise_interactions(x_BFD)], 1))[:, 0]
        return logits_B

    def divided(self) -> DotProducts | None:
        """See :meth:`ClickNetwork.divided`."""
        return None if self.embed is None else DotProducts(self.embed, self.embed_dense, self.bottom, self.top)
