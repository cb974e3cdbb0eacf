"""Stacked GRU or LSTM layers between item vectors.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from torch import Tensor, nn

from segue.models.parts.attention import at
from segue.models.parts.dropout import dropout
from segue.models.parts.sequence import SequenceSettings

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
        self.out = nn.Linear(config.hidden_width, config.width)

    def forward(self, x_BLD: Tensor, last_B: Tensor | None = None) -> Tensor:
        """``(B, L, D)``, or ``(B, D)`` for the positions ``last`` alone."""
        # item vectors begin small, as they are also the last layer; scaled up, they move the gates from the first step
        states, _ = self.layers(dropout(x_BLD * x_BLD.shape[-1] ** 0.5, self.dropout, self.training))
        if last_B is not None:
            states = at(states, last_B)
        projected: Tensor = self.out(dropout(states, self.dropout, self.training))
        return projected
