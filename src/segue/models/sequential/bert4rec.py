"""BERT4Rec: predict masked items of a history from both sides.

Sun et al. 2019, arXiv:1904.06690. Positions count from the end, so that the mask token, which is last in prediction,
has the same position in every history. With ``objective=next_item`` the same layers are causal, and positions count
from the beginning.

Shapes: B sequences, L positions, D width, M target positions.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from segue.core.types import DataSchema
from segue.nn.layers.attention import AttentionBlock
from segue.nn.target_positions import TargetPositions
from segue.nn.transformer_model import TransformerModel, TransformerSettings

__all__ = ["BERT4Rec"]


class BERT4Rec(TransformerModel):
    """Learned positions, then blocks of bidirectional self-attention.

    Each block also has a feed-forward network with GELU.
    """

    class Config(TransformerSettings):
        """Settings of BERT4Rec."""

        objective: Literal["next_item", "all_action", "cloze"] = "cloze"
        """Training objective: predict masked items; or, with causal attention, predict the next item at every position,
        or a random later one."""
        item_bias: bool = True
        """Whether each item has a learned bias."""
        norm_first: bool = True
        """Whether blocks normalize their input; if false, their output, as in the paper."""
        output_transform: bool = False
        """Whether a GELU layer follows the blocks, as in the paper (eq. 7)."""

    config: Config

    def __init__(self, config: Config, schema: DataSchema) -> None:
        super().__init__(config, schema)
        if config.output_transform:
            self.norm = nn.Sequential(nn.Linear(config.embedding_dim, config.embedding_dim), nn.GELU(), self.norm)
        elif not config.norm_first:  # the last block normalizes its output
            self.norm = nn.Identity()

    def make_block(self) -> BertBlock:
        """Create a BERT block."""
        config = self.config
        return BertBlock(
            config.embedding_dim, config.num_heads, config.ffn_expansion, config.dropout, config.norm_first
        )


class BertBlock(AttentionBlock):
    """BERT block: self-attention, then a feed-forward network with GELU.

    Each sublayer f computes ``norm(x + f(x))``, or ``x + f(norm(x))`` with ``norm_first``.
    """

    def __init__(self, width: int, num_heads: int, expansion: float, dropout: float, norm_first: bool) -> None:
        super().__init__(width, num_heads, dropout)
        inner = int(width * expansion)
        self.norm_first = norm_first
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x_BLD: Tensor, targets: TargetPositions | None = None, lengths_B: Tensor | None = None) -> Tensor:
        """Return ``(B, L, D)``, or ``(M, D)`` for the targets only.

        See :meth:`AttentionBlock.attend`.
        """
        inputs = self.norm_attention(x_BLD) if self.norm_first else x_BLD
        x_BLD = (x_BLD if targets is None else targets.select(x_BLD)) + self.attend(inputs, targets, lengths_B)
        if self.norm_first:
            return x_BLD + self._feed_forward(self.norm_feed(x_BLD))
        x_BLD = self.norm_attention(x_BLD)
        normed: Tensor = self.norm_feed(x_BLD + self._feed_forward(x_BLD))
        return normed

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self._drop(self.down(F.gelu(self.up(x))))
