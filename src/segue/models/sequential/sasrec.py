"""SASRec: causal self-attention over the history.

Kang & McAuley 2018, arXiv:1808.09781. Trained with full cross-entropy by default, which makes it strong (Klenitskiy &
Vasilev 2023, arXiv:2309.07602). With ``objective=cloze`` its blocks are bidirectional, and positions count from the
end.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from segue.nn.layers.attention import TransformerBlock
from segue.nn.transformer_model import TransformerModel, TransformerSettings

__all__ = ["SASRec"]


class SASRec(TransformerModel):
    """Learned positions, then blocks of causal self-attention.

    Each block also has a feed-forward network with ReLU.
    """

    class Config(TransformerSettings):
        """Settings of SASRec."""

        ffn_expansion: Annotated[float, Gt(0)] = 1.0
        """Inner width of the feed-forward network, as a multiple of ``embedding_dim``."""

    def make_block(self) -> TransformerBlock:
        """Create a SASRec block."""
        config = self.config
        return TransformerBlock(config.embedding_dim, config.num_heads, config.ffn_expansion, config.dropout)
