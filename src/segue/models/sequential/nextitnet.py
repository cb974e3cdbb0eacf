"""NextItNet: dilated causal convolutions over the history.

Yuan et al. 2019, arXiv:1808.05163. Residual blocks of two convolutions, each followed by a norm and ReLU (block b of
the paper). Growing dilations make the receptive field large with few blocks.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, MinLen
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import DataSchema
from segue.nn.layers.dilated_convolution import DilatedStack
from segue.nn.layers.dropout import dropout
from segue.nn.sequence_model import SequenceModel, SequenceSettings

__all__ = ["NextItNet"]


class NextItNet(SequenceModel):
    """Residual blocks of dilated convolutions with a limited :attr:`receptive_field`."""

    reads_full_history = False

    class Config(SequenceSettings):
        """Settings of NextItNet."""

        num_blocks: Annotated[int, Gt(0)] = 2
        """Number of residual blocks of two convolutions."""
        dilations: Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)] = (1, 4)
        """Dilation of the first convolution of each block, repeated cyclically; the second one has twice the
        dilation."""
        kernel_size: Annotated[int, Gt(1)] = 3
        """Kernel size of the convolutions. The receptive field is 1 + 3 (kernel_size - 1) times the sum of the blocks'
        dilations."""

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        first = [config.dilations[block % len(config.dilations)] for block in range(config.num_blocks)]
        dilations = [dilation for one in first for dilation in (one, 2 * one)]
        self.encoder = DilatedStack(config.embedding_dim, config.kernel_size, dilations, config.dropout)
        self.norm = nn.LayerNorm(config.embedding_dim)

    @property
    def receptive_field(self) -> int:
        """Return the maximum number of newest positions that a prediction depends on."""
        return min(self.encoder.receptive_field, int(self.config.max_length))

    def encode_sequence(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.encode_sequence`; at most ``max_length`` positions."""
        x_BLD = dropout(x_BLD * self.config.embedding_dim**0.5, self.config.dropout, self.training)
        normed: Tensor = self.norm(self.encoder(x_BLD, last_B))
        return normed
