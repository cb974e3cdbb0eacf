"""SASRec: self-attention over the history, one item after another (Kang & McAuley 2018, arXiv:1808.09781).

Trained with full cross-entropy by default, which is what makes it strong (Klenitskiy & Vasilev 2023,
arXiv:2309.07602). With ``objective=cloze`` its blocks read in both directions, and positions count from the end.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from segue.nn.layers.attention import CausalBlock
from segue.nn.transformer_model import AttentiveModel, AttentiveSettings

__all__ = ["SASRec"]


class SASRec(AttentiveModel):
    """Learned positions, then blocks of self-attention with a ReLU network."""

    class Config(AttentiveSettings):
        """Settings of SASRec."""

        expansion: Annotated[float, Gt(0)] = 1.0
        """Inner width of the position-wise network, as a multiple of the width."""

    def block(self) -> CausalBlock:
        """A layer of SASRec."""
        config = self.config
        return CausalBlock(config.width, config.heads, config.expansion, config.dropout)
