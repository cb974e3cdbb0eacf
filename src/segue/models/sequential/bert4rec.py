"""BERT4Rec: items of a history are hidden, and found again from both sides (Sun et al. 2019, arXiv:1904.06690).

Positions count from the end, so that the question, which always stands at the end, has the same position in every
history. Trained with ``objective=next_item`` the same layers read in one direction, and positions count from the
beginning.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from segue.core.types import Domain
from segue.nn.layers.bert_block import BertBlock
from segue.nn.transformer_model import AttentiveModel, AttentiveSettings

__all__ = ["BERT4Rec"]


class BERT4Rec(AttentiveModel):
    """Learned positions, then blocks of self-attention in both directions with a GELU network."""

    class Config(AttentiveSettings):
        """Settings of BERT4Rec."""

        objective: Literal["next_item", "all_following", "cloze"] = "cloze"
        """What is asked in training: items that are hidden; or, reading in one direction, at every position the next
        item or one of all that follow."""
        item_bias: bool = True
        """Whether each item has a learned offset beside its vector."""
        norm_first: bool = True
        """Whether a block normalises what it reads, or, as in the paper, what it gives."""
        transform: bool = False
        """Whether a GELU layer stands between the blocks and the item vectors, as in the paper (eq. 7)."""

    config: Config

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        if config.transform:
            self.norm = nn.Sequential(nn.Linear(config.width, config.width), nn.GELU(), self.norm)
        elif not config.norm_first:  # the last block has normalised what it gives
            self.norm = nn.Identity()

    def block(self) -> BertBlock:
        """A layer of BERT."""
        config = self.config
        return BertBlock(config.width, config.heads, config.expansion, config.dropout, config.norm_first)
