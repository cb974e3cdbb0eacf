"""HSTU: hierarchical sequential transduction units over the history.

Zhai et al. 2024, arXiv:2402.17152. Attention weights are not normalized over positions. They depend on relative
positions and, with ``time_bias``, on time differences; leave ``time_bias`` off for logs whose times only preserve the
order. With ``query_time`` the model also reads the time of the query, as in the authors' evaluation; compare it only
with models that read it too.

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
from segue.core.types import DataSchema, Dataset
from segue.nn.inputs.event_embeddings import missing_times
from segue.nn.layers.dropout import dropout
from segue.nn.layers.hstu_block import HSTUBlock
from segue.nn.layers.pointwise_attention import pair_relations
from segue.nn.layers.positional_embedding import position_vectors
from segue.nn.sequence_model import SequenceModel, SequenceSettings
from segue.nn.target_positions import TargetPositions

__all__ = ["HSTU"]


class HSTU(SequenceModel):
    """Learned positions, then blocks of gated pointwise attention."""

    reads_full_history = False

    class Config(SequenceSettings):
        """Settings of HSTU."""

        num_blocks: Annotated[int, Gt(0)] = 2
        """Number of blocks."""
        num_heads: Annotated[int, Gt(0)] = 2
        """Attention heads per block; must divide ``embedding_dim``."""
        time_bias: bool = False
        """Whether attention depends on the time between two events; only for logs with real times."""
        query_time: bool = False
        """Whether the time of the query is known: each position then uses the time at which the next item is requested
        instead of its own. Needs ``time_bias``."""
        normalize: bool = True
        """Whether scores are cosines divided by ``temperature``, as in the authors' code, instead of dot products."""
        temperature: Annotated[float, Gt(0)] = 0.05
        """Divisor of the cosines."""

        @model_validator(mode="after")
        def _all_used(self) -> HSTU.Config:
            if self.query_time and not self.time_bias:
                raise ValueError("query_time: got true with time_bias false, expected time_bias true: it needs times")
            default = type(self).model_fields["temperature"].default
            if not self.normalize and self.temperature != default:
                raise ValueError(f"temperature: got {self.temperature} with normalize false, which does not use it")
            return self

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.positions = nn.Parameter(torch.empty(config.max_length, config.embedding_dim))
        nn.init.xavier_normal_(self.positions)
        self.blocks = nn.ModuleList(
            HSTUBlock(config.embedding_dim, config.num_heads, config.max_length, config.time_bias, config.dropout)
            for _ in range(config.num_blocks)
        )
        self.norm = None if config.normalize else nn.LayerNorm(config.embedding_dim)

    def prepare(self, train: Dataset) -> None:
        """Compute what the inputs need from the data.

        Raises:
            ValueError: the data lacks what an input needs, or real times for ``time_bias``.
        """
        if self.config.time_bias and (reason := missing_times(train)):
            raise ValueError(f"model.time_bias: got true, but {train.name} has {reason}")
        super().prepare(train)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that the inputs and the attention read.

        The attention uses event times and query times.
        """
        of_attention = ("times", "query_times")[: self.config.time_bias + self.config.query_time]
        return tuple(dict.fromkeys((*super().columns, *of_attention)))

    def encode_sequence(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.encode_sequence`; at most ``max_length`` positions."""
        length, targets = x_BLD.shape[1], TargetPositions.for_batch(batch, last_B, False)
        times_BL = batch.columns.get("times")
        query_times_BL = batch.columns.get("query_times", times_BL)
        relations = pair_relations(length, None, times_BL, query_times_BL, self.device)
        x_BLD = x_BLD * self.config.embedding_dim**0.5 + position_vectors(self.positions, length, None)
        x_BLD = dropout(x_BLD, self.config.dropout, self.training)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, relations)
        if targets is not None:
            relations = pair_relations(length, targets, times_BL, query_times_BL, self.device)
        x: Tensor = self.blocks[-1](x_BLD, relations, targets)
        normed: Tensor = F.normalize(x, dim=-1) / self.config.temperature if self.norm is None else self.norm(x)
        return normed

    def item_vectors(self) -> Tensor:
        """Return the vectors that score items, ``(I, D)``.

        Unit vectors where scores are cosines.
        """
        vectors_ID = super().item_vectors()
        return F.normalize(vectors_ID, dim=-1) if self.config.normalize else vectors_ID
