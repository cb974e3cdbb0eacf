"""NextItNet: dilated causal convolutions over the history (Yuan et al. 2019, arXiv:1808.05163).

Blocks of two convolutions with a norm and ReLU each, around which the input is added (the paper's block b); dilations
grow, so that few blocks reach far back.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, MinLen
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import Domain
from segue.nn.layers.dilated_convolution import Dilated
from segue.nn.layers.dropout import dropout
from segue.nn.sequence_model import SequenceModel, SequenceSettings

__all__ = ["NextItNet"]


class NextItNet(SequenceModel):
    """Residual blocks of dilated convolutions; how far they reach is :attr:`receptive_field`."""

    recurrent = False

    class Config(SequenceSettings):
        """Settings of NextItNet."""

        blocks: Annotated[int, Gt(0)] = 2
        """Residual blocks, of two convolutions each."""
        dilations: Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)] = (1, 4)
        """Distance between the taps in the first convolution of each block, in turn, again and again; it is doubled in
        the second."""
        kernel: Annotated[int, Gt(1)] = 3
        """Taps of a convolution. An output depends on 1 + 3 (kernel - 1) times the sum of the blocks' dilations
        positions."""

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        first = [config.dilations[block % len(config.dilations)] for block in range(config.blocks)]
        both = [dilation for one in first for dilation in (one, 2 * one)]
        self.encoder = Dilated(config.width, config.kernel, both, config.dropout)
        self.norm = nn.LayerNorm(config.width)

    @property
    def receptive_field(self) -> int:
        """Newest positions, at most, that an answer depends on."""
        return min(self.encoder.receptive_field, int(self.config.max_length))

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`; at most ``max_length`` positions."""
        x_BLD = dropout(x_BLD * self.config.width**0.5, self.config.dropout, self.training)
        normed: Tensor = self.norm(self.encoder(x_BLD, last_B))
        return normed
