"""Wide & Deep: a linear model and fully connected layers.

Cheng et al. 2016, arXiv:1606.07792. The wide part has a weight for each value of a field; it is trained with the
optimizer of the deep part.

    logit(x) = b + sum_f w_f + tower([v_1, ..., v_F])

Shapes: B examples, F fields, D width of an embedding.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segue.core.types import DataSchema
from segue.nn.ctr.click_network import ClickNetwork, TowerSettings
from segue.nn.ctr.field_embeddings import ExampleBatch
from segue.nn.ctr.field_sums import FactorizationSums

__all__ = ["WideDeep"]


class WideDeep(ClickNetwork):
    """Add a linear model and a tower."""

    class Config(TowerSettings):
        """Settings of ``wide_deep``."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.embed = self.embeddings()
        self.linear = self.embeddings(1)
        self.deep = self.tower(len(self.fields) * config.embedding_dim)

    def logits(self, batch: ExampleBatch) -> Tensor:
        """Return the logit of each example, ``(B,)``."""
        logits_B: Tensor = self.linear(batch).sum((1, 2)) + self.deep(self.embed(batch).flatten(1))[:, 0]
        return logits_B

    def divided(self) -> FactorizationSums:
        """See :meth:`ClickNetwork.divided`."""
        return FactorizationSums(None, self.linear, self.embed, False, self.deep)
