"""Base of models with learned positions and self-attention blocks over a window.

A model only defines its block; see :mod:`segue.models.sequential.sasrec`.

Shapes: B sequences, L positions, D width, M target positions.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.config import Choices, Search
from segue.core.types import DataSchema
from segue.nn.layers.attention import AttentionBlock
from segue.nn.layers.dropout import dropout
from segue.nn.layers.positional_embedding import position_vectors
from segue.nn.sequence_model import SequenceModel, SequenceSettings
from segue.nn.target_positions import TargetPositions

__all__ = ["TransformerModel", "TransformerSettings"]


class TransformerSettings(SequenceSettings):
    """Settings of models with self-attention blocks."""

    num_blocks: Annotated[int, Gt(0), Search(1, 3)] = 2
    """Number of attention blocks."""
    num_heads: Annotated[int, Gt(0), Choices((1, 2, 4))] = 2
    """Attention heads per block; must divide ``embedding_dim``."""
    ffn_expansion: Annotated[float, Gt(0)] = 4.0
    """Inner width of the feed-forward network, as a multiple of ``embedding_dim``."""


class TransformerModel(SequenceModel):
    """Learned positions, then self-attention blocks.

    Attention is causal, or bidirectional for the cloze objective.

    Positions count from the beginning of the window, or, in a bidirectional encoder, from the end of each sequence
    (decision 0022).
    """

    reads_full_history = False
    is_bidirectional = True

    Config = TransformerSettings
    config: TransformerSettings

    def __init__(self, config: TransformerSettings, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.positions = nn.Parameter(torch.empty(config.max_length, config.embedding_dim))
        nn.init.xavier_normal_(self.positions)
        self.blocks = nn.ModuleList(self.make_block() for _ in range(config.num_blocks))
        self.norm: nn.Module = nn.LayerNorm(config.embedding_dim)

    @abstractmethod
    def make_block(self) -> AttentionBlock:
        """Create a block.

        A block is called with ``(B, L, D)``, the target positions, and lengths that make it bidirectional.
        """

    def encode_sequence(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.encode_sequence`; at most ``max_length`` positions."""
        lengths_B = batch.lengths_B if self.is_cloze else None
        x_BLD = x_BLD * self.config.embedding_dim**0.5 + position_vectors(self.positions, x_BLD.shape[1], lengths_B)
        x_BLD = dropout(x_BLD, self.config.dropout, self.training)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, None, lengths_B)
        targets = TargetPositions.for_batch(batch, last_B, self.is_cloze)
        normed: Tensor = self.norm(self.blocks[-1](x_BLD, targets, lengths_B))
        return normed
