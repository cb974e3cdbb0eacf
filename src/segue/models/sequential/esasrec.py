"""eSASRec: SASRec with LiGR layers and sampled softmax (Tikhonovich et al. 2025, arXiv:2508.06450).

The layers are those of Borisyuk et al. 2025 (arXiv:2502.03417). The loss belongs to the training, not to the model: the
authors train with ``loss=sampled_softmax`` and ``negatives=256``. Positions count from the beginning of the window, as
in SASRec here, where the authors count from its end.
"""

from __future__ import annotations

from segue.nn.layers.ligr_block import LiGRBlock
from segue.nn.transformer_model import AttentiveModel, AttentiveSettings

__all__ = ["ESASRec"]


class ESASRec(AttentiveModel):
    """Learned positions, then LiGR blocks: self-attention and a SwiGLU network, each behind a gate."""

    class Config(AttentiveSettings):
        """Settings of eSASRec."""

    def block(self) -> LiGRBlock:
        """A LiGR layer."""
        config = self.config
        return LiGRBlock(config.width, config.heads, config.expansion, config.dropout)
