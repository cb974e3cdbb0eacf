"""Deep interest network: attention of the candidate over the history.

Zhou et al. 2018, arXiv:1706.06978. Each sequence that shares its embeddings with a field of categories, such as the
history of items, is summed with weights that a small network computes from its element k and the category q:

    a_t = unit([q, k_t, q - k_t, q * k_t]),   interest(q) = sum_t a_t k_t
    logit(x) = b + sum_f w_f + tower([v_1, ..., v_F, interest])

As in the paper, the weights are not normalized, so that their sum tells the strength of an interest; ``softmax``
normalizes them. Other fields are those of ``wide_deep``; other sequences are averaged.

Shapes: B examples, F fields, D width of an embedding, L elements of all sequences.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from segue.core.examples.fields import Field
from segue.core.types import DataSchema
from segue.nn.ctr.click_network import ClickNetwork, TowerSettings
from segue.nn.ctr.field_embeddings import ExampleBatch
from segue.nn.ctr.layers import Dice, Tower

__all__ = ["DIN"]


class DIN(ClickNetwork):
    """Attention over sequences, a linear model and a tower."""

    class Config(TowerSettings):
        """Settings of ``din``."""

        attention_hidden: tuple[Annotated[int, Gt(0)], ...] = (64, 16)
        """Widths of the layers that compute the weight of an element of a sequence."""
        activation: Literal["dice", "prelu"] = "dice"
        """Activation of these layers and of the tower."""
        softmax: bool = False
        """Whether the weights of a sequence are normalized to a sum of 1."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.sequences = tuple(one for one in self.fields if one.kind == "sequence" and one.shares)
        others = [one for one in self.fields if one not in self.sequences]
        self.position_of = {one.name: index for index, one in enumerate(others)}
        self.embed = self.embeddings(fields=others, unpooled=self.sequences)
        self.linear = self.embeddings(1, fields=others)
        activation = Dice if config.activation == "dice" else nn.PReLU
        dim = config.embedding_dim
        self.units = nn.ModuleList(
            Tower(4 * dim, config.attention_hidden, 0.0, False, 1, activation) for _ in self.sequences
        )
        self.deep = Tower(
            len(self.fields) * dim, config.hidden, config.dropout, config.batch_norm, out=1, activation=activation
        )
        if not self.sequences:
            self.training_notes = (
                "din: no sequence shares its embeddings with a field of categories, so the model has no attention",
            )

    def logits(self, batch: ExampleBatch) -> Tensor:
        """Return the logit of each example, ``(B,)``."""
        x_BFD = self.embed(batch)
        interests = [
            self.interest(batch, one, unit, x_BFD[:, self.position_of[str(one.shares)]])
            for one, unit in zip(self.sequences, self.units, strict=True)
        ]
        logits_B: Tensor = (
            self.linear(batch).sum((1, 2)) + self.deep(torch.cat([x_BFD.flatten(1), *interests], 1))[:, 0]
        )
        return logits_B

    def interest(self, batch: ExampleBatch, sequence: Field, unit: nn.Module, query_BD: Tensor) -> Tensor:
        """Return the weighted sum of a sequence, ``(B, D)``; 0 of an empty one."""
        offsets = batch.lists[sequence.name][1]
        rows_L = torch.repeat_interleave(offsets.diff())
        keys_LD, queries_LD = self.embed.rows_of_list(batch, sequence), query_BD[rows_L]
        if not len(keys_LD):
            return torch.zeros_like(query_BD)
        inputs = [queries_LD, keys_LD, queries_LD - keys_LD, queries_LD * keys_LD]
        weights_L = unit(torch.cat(inputs, 1))[:, 0].to(keys_LD.dtype)
        if self.config.softmax:
            weights_L = _softmax_of_rows(weights_L, rows_L, batch.size)
        order = torch.arange(len(keys_LD), device=keys_LD.device)
        return nn.functional.embedding_bag(
            order, keys_LD, offsets, mode="sum", per_sample_weights=weights_L, include_last_offset=True
        )


def _softmax_of_rows(x_L: Tensor, rows_L: Tensor, n_rows: int) -> Tensor:
    """Normalize the exponentials of the elements of each row, ``(L,)``."""
    highest_B = x_L.detach().new_full((n_rows,), -torch.inf).scatter_reduce(0, rows_L, x_L.detach(), "amax")
    powers_L = (x_L - highest_B[rows_L]).exp()
    return powers_L / powers_L.new_zeros(n_rows).index_add(0, rows_L, powers_L)[rows_L]
