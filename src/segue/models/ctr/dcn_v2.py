"""DCN V2: explicit crosses, and a tower, over the same embeddings.

Wang et al. 2021, arXiv:2008.13535.

    x_{l + 1} = x_0 * (W_l x_l + b_l) + x_l

``rank`` replaces each W by a product of two narrow matrices (eq. 2).

Shapes: B examples, F fields, D width of an embedding, E = F D.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from segue.core.types import DataSchema
from segue.nn.ctr.click_network import ClickNetwork, TowerSettings
from segue.nn.ctr.field_embeddings import ExampleBatch
from segue.nn.ctr.field_sums import CrossSums

__all__ = ["DCNV2"]


class DCNV2(ClickNetwork):
    """Crosses and a tower, side by side or one after the other."""

    class Config(TowerSettings):
        """Settings of ``dcn_v2``."""

        num_crosses: Annotated[int, Gt(0)] = 3
        """Number of cross layers."""
        rank: Annotated[int, Ge(0)] = 0
        """Rank of the matrix of a cross layer; 0: full."""
        structure: Literal["parallel", "stacked"] = "parallel"
        """Whether the tower reads the embeddings (``parallel``) or the output of the crosses (``stacked``)."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        width = len(self.fields) * config.embedding_dim
        self.embed = self.embeddings()
        self.crosses = nn.ModuleList(_cross_matrix(width, config.rank) for _ in range(config.num_crosses))
        self.deep = self.tower(width, out=None)
        self.out = nn.Linear(self.deep.width + (width if config.structure == "parallel" else 0), 1)

    def logits(self, batch: ExampleBatch) -> Tensor:
        """Return the logit of each example, ``(B,)``."""
        first_BE = self.embed(batch).flatten(1)
        x_BE = first_BE
        for cross in self.crosses:
            x_BE = first_BE * cross(x_BE) + x_BE
        is_parallel = self.config.structure == "parallel"
        logits_B: Tensor = self.out(torch.cat([x_BE, self.deep(first_BE)], 1) if is_parallel else self.deep(x_BE))[:, 0]
        return logits_B

    def divided(self) -> CrossSums:
        """See :meth:`ClickNetwork.divided`."""
        is_parallel = self.config.structure == "parallel"
        return CrossSums(self.embed, self.crosses, self.deep, self.out, is_parallel)


def _cross_matrix(width: int, rank: int) -> nn.Module:
    if not rank:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
