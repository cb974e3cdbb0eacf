"""Stacked GRU or LSTM layers between item vectors.

Shapes: B sequences, L positions, D width, N layers, W width of the recurrent state.
"""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from segue.nn.layers.attention import at
from segue.nn.layers.dropout import dropout
from segue.nn.sequence_model import SequenceSettings
from segue.nn.streaming_model import Memory

__all__ = ["Recurrent", "RecurrentSettings"]


class RecurrentSettings(SequenceSettings):
    """Settings that plain recurrent models share."""

    layers: Annotated[int, Gt(0)] = 1
    """Recurrent layers, one on the other."""
    hidden_width: Annotated[int, Gt(0)] = 128
    """Width of the recurrent state."""


class Recurrent(nn.Module):
    """Dropout, recurrent layers of the given kind, and a projection to the width of the items."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM], config: RecurrentSettings) -> None:
        super().__init__()
        self.dropout = config.dropout
        between = config.dropout if config.layers > 1 else 0.0
        self.layers = kind(config.width, config.hidden_width, config.layers, batch_first=True, dropout=between)
        self.names = ("h", "c") if kind is nn.LSTM else ("h",)
        self.out = nn.Linear(config.hidden_width, config.width)

    def forward(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """``(B, L, D)``, or ``(B, D)`` for the positions ``last`` alone."""
        states, _ = self.layers(self._scaled(x_BLD))
        if last_B is not None:
            states = at(states, last_B)
        projected: Tensor = self.out(dropout(states, self.dropout, self.training))
        return projected

    def empty(self, rows: int) -> Memory:
        """``(B, N, W)`` zeros: ``h``, and ``c`` where the layers are LSTM."""
        shape = rows, self.layers.num_layers, self.layers.hidden_size
        return {name: self.out.weight.new_zeros(shape) for name in self.names}

    def advance(self, x_BLD: Tensor, lengths_B: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """``(B, L, D)`` from ``memory`` on, and the memory after each row's own length."""
        before = tuple(memory[name].transpose(0, 1).contiguous() for name in self.names)
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
        # item vectors begin small, as they are also the last layer; scaled up, they move the gates from the first step
        return dropout(x_BLD * x_BLD.shape[-1] ** 0.5, self.dropout, self.training)
