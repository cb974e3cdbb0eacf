"""Models of stacked GRU or LSTM layers between the item embeddings.

Shapes: B sequences, L positions, D width, N layers, H width of the recurrent state.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from annotated_types import Gt
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from segue.core.batches import Sequences
from segue.core.config import Choices
from segue.core.types import DataSchema
from segue.nn.layers.attention import gather_positions
from segue.nn.layers.dropout import dropout
from segue.nn.sequence_model import SequenceSettings
from segue.nn.streaming_model import RecurrentState, StreamingModel

__all__ = ["RecurrentModel", "RecurrentSettings"]


class RecurrentSettings(SequenceSettings):
    """Settings of recurrent models."""

    num_layers: Annotated[int, Gt(0)] = 1
    """Number of recurrent layers."""
    hidden_dim: Annotated[int, Gt(0), Choices((64, 128, 256))] = 128
    """Width of the recurrent state."""


class RecurrentModel(StreamingModel):
    """Recurrent layers, projected back to the width of the item embeddings.

    A subclass names the kind of layer.
    """

    layer: ClassVar[type[nn.GRU | nn.LSTM]]

    Config = RecurrentSettings

    def __init__(self, config: RecurrentSettings, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.encoder = _Encoder(self.layer, config)

    def encode_sequence(self, x_BLD: Tensor, batch: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.encode_sequence`."""
        hidden: Tensor = self.encoder(x_BLD, last_B)
        return hidden

    def initial_state(self, rows: int) -> RecurrentState:
        """See :meth:`StreamingModel.initial_state`."""
        return self.encoder.initial_state(rows)

    def advance(
        self, x_BLD: Tensor, lengths_B: Tensor, recurrent_state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        """See :meth:`StreamingModel.advance`."""
        return self.encoder.advance(x_BLD, lengths_B, recurrent_state)


class _Encoder(nn.Module):
    """Dropout, recurrent layers and a linear projection."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM], config: RecurrentSettings) -> None:
        super().__init__()
        self.dropout = config.dropout
        between = config.dropout if config.num_layers > 1 else 0.0
        self.layers = kind(
            config.embedding_dim, config.hidden_dim, config.num_layers, batch_first=True, dropout=between
        )
        self.names = ("h", "c") if kind is nn.LSTM else ("h",)
        self.out = nn.Linear(config.hidden_dim, config.embedding_dim)

    def forward(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """Return ``(B, L, D)``, or ``(B, D)`` for the positions ``last_B`` only."""
        states, _ = self.layers(self._scaled(x_BLD))
        if last_B is not None:
            states = gather_positions(states, last_B)
        projected: Tensor = self.out(dropout(states, self.dropout, self.training))
        return projected

    def initial_state(self, rows: int) -> RecurrentState:
        """Return zeros ``(B, N, H)``: ``h``, and ``c`` for LSTM layers."""
        shape = rows, self.layers.num_layers, self.layers.hidden_size
        return {name: self.out.weight.new_zeros(shape) for name in self.names}

    def advance(
        self, x_BLD: Tensor, lengths_B: Tensor, recurrent_state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        """Continue from a recurrent state.

        Return ``(B, L, D)``, and the state after each row's own length.
        """
        before = tuple(recurrent_state[name].transpose(0, 1).contiguous() for name in self.names)
        inputs: Any = self._scaled(x_BLD)
        if x_BLD.shape[1] > 1:
            inputs = pack_padded_sequence(inputs, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
        states, after = self.layers(inputs, before if len(before) > 1 else before[0])
        if x_BLD.shape[1] > 1:
            states, _ = pad_packed_sequence(states, batch_first=True, total_length=x_BLD.shape[1])
        after = after if isinstance(after, tuple) else (after,)
        projected: Tensor = self.out(dropout(states, self.dropout, self.training))
        return projected, {name: tensor.transpose(0, 1) for name, tensor in zip(self.names, after, strict=True)}

    def _scaled(self, x_BLD: Tensor) -> Tensor:
        # item embeddings start small because they are also the output layer; scaled up, they affect the gates at once
        return dropout(x_BLD * x_BLD.shape[-1] ** 0.5, self.dropout, self.training)
