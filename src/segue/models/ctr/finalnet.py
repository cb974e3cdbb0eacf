"""FinalNet: factorized interactions in two blocks that learn from each other.

Zhu et al. 2023, doi:10.1145/3539618.3591988.

    x_{l + 1} = dropout(act(norm(u + u * w))),   [u, w] = W_l x_l + b_l

so that L layers have interactions of up to 2^L fields. With two blocks the logit is their mean, and each block also
learns from the probability of the mean. The first block reads gated embeddings v * (1 + g), where g is linear in the
same dimension of all fields.

Shapes: B examples, F fields, D width of an embedding, E = F D.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from segue.core.types import DataSchema
from segue.nn.ctr.click_network import ClickNetwork, TowerSettings
from segue.nn.ctr.field_embeddings import ExampleBatch
from segue.nn.ctr.layers import BatchNorm, TowerDropout

__all__ = ["FinalNet"]


class FinalNet(ClickNetwork):
    """Blocks of factorized interactions."""

    class Config(TowerSettings):
        """Settings of ``finalnet``."""

        num_blocks: Annotated[int, Gt(0), Le(2)] = 2
        """Number of blocks, 1 or 2."""
        is_gated: bool = True
        """Whether the first block reads gated embeddings."""
        distillation: Annotated[float, Ge(0)] = 1.0
        """Weight of the loss of each of two blocks on the probability of both, a part of ``objective=binary``."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        width = len(self.fields) * config.embedding_dim
        self.embed = self.embeddings()
        self.gate = nn.Linear(len(self.fields), len(self.fields)) if config.is_gated else None
        self.blocks = nn.ModuleList(self._block(width) for _ in range(config.num_blocks))

    def _block(self, width: int) -> nn.Module:
        config = self.config
        layers: list[nn.Module] = []
        for out in config.hidden:
            layers.append(_FactorizedInteraction(width, out))
            layers += [BatchNorm(out)] if config.batch_norm else []
            layers += [nn.ReLU(), *([TowerDropout(config.dropout)] if config.dropout else [])]
            width = out
        return nn.Sequential(*layers, nn.Linear(width, 1))

    def _block_logits(self, batch: ExampleBatch) -> list[Tensor]:
        """Return the logits of each block, ``(B,)``."""
        x_BFD = self.embed(batch)
        inputs = [x_BFD, x_BFD]
        if self.gate is not None:
            inputs[0] = x_BFD * (1 + self.gate(x_BFD.transpose(1, 2)).transpose(1, 2))
        return [block(x.flatten(1))[:, 0] for block, x in zip(self.blocks, inputs, strict=False)]

    def logits(self, batch: ExampleBatch) -> Tensor:
        """Return the logit of each example, ``(B,)``."""
        return torch.stack(self._block_logits(batch)).mean(0)

    def loss_of(self, batch: ExampleBatch) -> Tensor:
        """Return the loss of labels, and that of each block on the common prediction."""
        blocks = self._block_logits(batch)
        mean_B = torch.stack(blocks).mean(0)
        assert batch.labels_B is not None
        value = F.binary_cross_entropy_with_logits(mean_B, batch.labels_B, batch.weights_B)
        if len(blocks) > 1 and self.config.distillation:
            target_B = mean_B.detach().sigmoid()
            losses = [F.binary_cross_entropy_with_logits(one, target_B, batch.weights_B) for one in blocks]
            value = value + self.config.distillation * torch.stack(losses).sum()
        return value


class _FactorizedInteraction(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * out)

    def forward(self, x_BE: Tensor) -> Tensor:
        """Return a linear part plus its product with another one, ``(B, out)``."""
        u, w = self.linear(x_BE).chunk(2, 1)
        mixed: Tensor = u + u * w
        return mixed
