"""HSTU: hierarchical sequential transduction units over the history (Zhai et al. 2024, arXiv:2402.17152).

Attention whose weights do not compete, moved by relative positions and, where ``time_bias`` is on, by the time that
lies between. Times are those of the log: leave it off where they only keep the order. With ``query_time`` the model is
told when the next item is asked for, as in the authors' evaluation; that is a protocol of its own.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Gt
from pydantic import model_validator
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import Dataset, Domain
from segue.nn.inputs.event_embeddings import untimed
from segue.nn.layers.dropout import dropout
from segue.nn.layers.hstu_block import HSTUBlock
from segue.nn.layers.pointwise_attention import between
from segue.nn.layers.positional_embedding import places
from segue.nn.sequence_model import SequenceModel, SequenceSettings
from segue.nn.target_positions import Asked

__all__ = ["HSTU"]


class HSTU(SequenceModel):
    """Learned positions, then blocks of gated pointwise attention."""

    recurrent = False

    class Config(SequenceSettings):
        """Settings of HSTU."""

        blocks: Annotated[int, Gt(0)] = 2
        """Blocks, one on the other."""
        heads: Annotated[int, Gt(0)] = 2
        """Attention heads; they share the width evenly."""
        time_bias: bool = False
        """Whether the time between two events moves the attention; only for logs whose times are real."""
        query_time: bool = False
        """Whether the time of the question is known: at each position the time at which the next item is asked for
        stands in the place of the position's own. Needs ``time_bias``."""
        normalise: bool = True
        """Whether scores are cosines over ``temperature``, as the authors have it, and not products."""
        temperature: Annotated[float, Gt(0)] = 0.05
        """What cosines are divided by."""

        @model_validator(mode="after")
        def _all_is_used(self) -> HSTU.Config:
            if self.query_time and not self.time_bias:
                raise ValueError("query_time: true with time_bias false, expected both: nothing else reads times")
            usual = type(self).model_fields["temperature"].default
            if not self.normalise and self.temperature != usual:
                raise ValueError(f"temperature: {self.temperature} with normalise false, which looks at none")
            return self

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.positions = nn.Parameter(torch.empty(config.max_length, config.width))
        nn.init.xavier_normal_(self.positions)
        self.blocks = nn.ModuleList(
            HSTUBlock(config.width, config.heads, config.max_length, config.time_bias, config.dropout)
            for _ in range(config.blocks)
        )
        self.norm = None if config.normalise else nn.LayerNorm(config.width)

    def prepare(self, train: Dataset) -> None:
        """Take from the data what the inputs are made of.

        Raises:
            ValueError: the data has nothing to make one of them of, or no real times for ``time_bias``.
        """
        if self.config.time_bias and (lacking := untimed(train)):
            raise ValueError(f"model.time_bias: true, but {train.name} has {lacking}")
        super().prepare(train)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of the inputs, times where the attention uses them, and those of the questions."""
        own = ("times", "asked")[: self.config.time_bias + self.config.query_time]
        return tuple(dict.fromkeys((*super().columns, *own)))

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`; at most ``max_length`` positions."""
        length, asked = x_BLD.shape[1], Asked.of(read, last_B, False)
        times_BL = read.columns.get("times")
        now_BL = read.columns.get("asked", times_BL)
        relation = between(length, None, times_BL, now_BL, self.device)
        x_BLD = x_BLD * self.config.width**0.5 + places(self.positions, length, None)
        x_BLD = dropout(x_BLD, self.config.dropout, self.training)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, relation)
        if asked is not None:
            relation = between(length, asked, times_BL, now_BL, self.device)
        x: Tensor = self.blocks[-1](x_BLD, relation, asked)
        normed: Tensor = F.normalize(x, dim=-1) / self.config.temperature if self.norm is None else self.norm(x)
        return normed

    def vectors_ID(self) -> Tensor:  # noqa: N802
        """``(n_items, D)`` the vectors that hidden states are multiplied with; of length 1 where scores are cosines."""
        vectors_ID = super().vectors_ID()
        return F.normalize(vectors_ID, dim=-1) if self.config.normalise else vectors_ID
