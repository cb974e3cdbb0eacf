"""GRU4Rec: a gated recurrent network over the history (Hidasi et al. 2016, arXiv:1511.06939).

Trained with full cross-entropy at every position by default, which beats the paper's pairwise losses.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import Domain
from segue.nn.layers.recurrent import Recurrent, RecurrentSettings
from segue.nn.streaming_model import Memory, StreamingModel

__all__ = ["GRU4Rec"]


class GRU4Rec(StreamingModel):
    """Layers of GRU, projected back to the width of the items."""

    class Config(RecurrentSettings):
        """Settings of GRU4Rec."""

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.encoder = Recurrent(nn.GRU, config)

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`."""
        hidden: Tensor = self.encoder(x_BLD, last_B)
        return hidden

    def empty(self, rows: int) -> Memory:
        """See :meth:`StreamingModel.empty`."""
        return self.encoder.empty(rows)

    def advance(self, x_BLD: Tensor, lengths_B: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """See :meth:`StreamingModel.advance`."""
        return self.encoder.advance(x_BLD, lengths_B, memory)
