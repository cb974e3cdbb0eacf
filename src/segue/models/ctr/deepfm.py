"""DeepFM: a factorization machine and a tower over the same embeddings.

Guo et al. 2017, arXiv:1703.04247.

    logit(x) = b + sum_f w_f + sum_{f < g} <v_f, v_g> + tower([v_1, ..., v_F])

Shapes: B examples, F fields, D width of an embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segue.core.types import DataSchema
from segue.nn.ctr.click_network import ClickNetwork, TowerSettings
from segue.nn.ctr.field_embeddings import ExampleBatch
from segue.nn.ctr.field_sums import FactorizationSums
from segue.nn.ctr.layers import sum_of_products

__all__ = ["DeepFM"]


class DeepFM(ClickNetwork):
    """Add a linear model, products of pairs of fields, and a tower."""

    class Config(TowerSettings):
        """Settings of ``deepfm``."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.embed = self.embeddings()
        self.linear = self.embeddings(1)
        self.bias = nn.Parameter(torch.zeros(1))
        self.deep = self.tower(len(self.fields) * config.embedding_dim)

    def logits(self, batch: ExampleBatch) -> Tensor:
        """Return the logit of each example, ``(B,)``."""
        x_BFD = self.embed(batch)
        first_B: Tensor = self.linear(batch).sum((1, 2))
        logits_B: Tensor = first_B + sum_of_products(x_BFD).sum(1) + self.deep(x_BFD.flatten(1))[:, 0]
        return self.bias + logits_B

    def divided(self) -> FactorizationSums:
        """See :meth:`ClickNetwork.divided`."""
        return FactorizationSums(self.bias, self.linear, self.embed, True, self.deep)
