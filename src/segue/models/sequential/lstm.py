"""LSTM: long short-term memory over the history (Hochreiter & Schmidhuber 1997).

The baseline for :mod:`segue.models.sequential.xlstm`.
"""

from __future__ import annotations

from torch import nn

from segue.nn.recurrent_model import RecurrentModel, RecurrentSettings

__all__ = ["LSTM"]


class LSTM(RecurrentModel):
    """LSTM layers, projected back to the width of the item embeddings."""

    layer = nn.LSTM

    class Config(RecurrentSettings):
        """Settings of LSTM."""
