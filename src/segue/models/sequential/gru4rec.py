"""GRU4Rec: gated recurrent units over the history.

Hidasi et al. 2016, arXiv:1511.06939. Trained with full cross-entropy at every position by default, which beats the
pairwise losses of the paper.
"""

from __future__ import annotations

from torch import nn

from segue.nn.recurrent_model import RecurrentModel, RecurrentSettings

__all__ = ["GRU4Rec"]


class GRU4Rec(RecurrentModel):
    """GRU layers, projected back to the width of the item embeddings."""

    layer = nn.GRU

    class Config(RecurrentSettings):
        """Settings of GRU4Rec."""
