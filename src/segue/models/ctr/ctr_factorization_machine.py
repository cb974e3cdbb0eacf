"""Factorization machine of the fields of labeled examples.

Rendle 2010, doi:10.1109/ICDM.2010.127.

    logit(x) = b + sum_f w_f + sum_{f < g} <v_f, v_g>

Shapes: B examples, F fields, D width of an embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segue.core.types import DataSchema
from segue.nn.ctr.click_network import ClickNetwork, ClickSettings
from segue.nn.ctr.field_embeddings import ExampleBatch
from segue.nn.ctr.field_sums import FactorizationSums
from segue.nn.ctr.layers import sum_of_products

__all__ = ["CTRFactorizationMachine"]


class CTRFactorizationMachine(ClickNetwork):
    """Add a linear model and products of pairs of fields."""

    class Config(ClickSettings):
        """Settings of ``ctr_factorization_machine``."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.embed = self.embeddings(init_std=0.01)
        self.linear = self.embeddings(1)
        self.bias = nn.Parameter(torch.zeros(1))

    def logits(self, batch: ExampleBatch) -> Tensor:
        """Return the logit of each example, ``(B,)``."""
        logits_B: Tensor = self.linear(batch).sum((1, 2)) + sum_of_products(self.embed(batch)).sum(1)
        return self.bias + logits_B

    def divided(self) -> FactorizationSums:
        """See :meth:`ClickNetwork.divided`."""
        return FactorizationSums(self.bias, self.linear, self.embed, True, None)
