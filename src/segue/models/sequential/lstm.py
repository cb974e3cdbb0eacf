"""LSTM: long short-term memory over the history (Hochreiter & Schmidhuber 1997).

The baseline of the recurrent family: what :mod:`segue.models.sequential.xlstm` has to beat.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import Domain
from segue.nn.layers.recurrent import Recurrent, RecurrentSettings
from segue.nn.streaming_model import Memory, StreamingModel

__all__ = ["LSTM"]


class LSTM(StreamingModel):
    """Layers of LSTM, projected back to the width of the items."""

    class Config(RecurrentSettings):
        """Settings of LSTM."""

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.encoder = Recurrent(nn.LSTM, config)

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
