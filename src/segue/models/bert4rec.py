"""BERT4Rec: items of a history are hidden, and found again from both sides (Sun et al. 2019, arXiv:1904.06690).

Positions count from the end, so that the question, which always stands at the end, has the same position in every
history. Trained with ``objective=next_item`` the same layers read in one direction, and positions count from the
beginning.

Shapes: B sequences, L positions, D width.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Gt
from torch import Tensor, nn

from segue.core.batches import Sequences
from segue.core.types import Domain
from segue.models.parts.asked import Asked
from segue.models.parts.bert import BertBlock
from segue.models.parts.dropout import dropout
from segue.models.parts.positions import places
from segue.models.parts.sequence import SequenceModel, SequenceSettings

__all__ = ["BERT4Rec"]


class BERT4Rec(SequenceModel):
    """Learned positions, then blocks of self-attention in both directions."""

    recurrent = False
    both_ways = True

    class Config(SequenceSettings):
        """Settings of BERT4Rec."""

        objective: Literal["next_item", "all_following", "cloze"] = "cloze"
        """What is asked in training: items that are hidden; or, reading in one direction, at every position the next
        item or one of all that follow."""
        item_bias: bool = True
        """Whether each item has a learned offset beside its vector."""
        blocks: Annotated[int, Gt(0)] = 2
        """Attention blocks, one on the other."""
        heads: Annotated[int, Gt(0)] = 2
        """Attention heads; they share the width evenly."""
        expansion: Annotated[float, Gt(0)] = 4.0
        """Inner width of the position-wise network, as a multiple of the width."""
        norm_first: bool = True
        """Whether a block normalises what it reads, or, as in the paper, what it gives."""
        transform: bool = False
        """Whether a GELU layer stands between the blocks and the item vectors, as in the paper (eq. 7)."""

    def __init__(self, config: Config, domain: Domain) -> None:
        super().__init__(config, domain)
        self.positions = nn.Parameter(torch.empty(config.max_length, config.width))
        nn.init.xavier_normal_(self.positions)
        self.blocks = nn.ModuleList(
            BertBlock(config.width, config.heads, config.expansion, config.dropout, config.norm_first)
            for _ in range(config.blocks)
        )
        self.transform = nn.Linear(config.width, config.width) if config.transform else None
        normed = not (config.norm_first or config.transform)
        self.norm = nn.Identity() if normed else nn.LayerNorm(config.width)

    def hidden(self, x_BLD: Tensor, read: Sequences, last_B: Tensor | None = None) -> Tensor:
        """See :meth:`SequenceModel.hidden`; at most ``max_length`` positions."""
        lengths_B = read.lengths_B if self.cloze else None
        x_BLD = x_BLD * self.config.width**0.5 + places(self.positions, x_BLD.shape[1], lengths_B)
        x_BLD = dropout(x_BLD, self.config.dropout, self.training)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, None, lengths_B)
        x = self.blocks[-1](x_BLD, Asked.of(read, last_B, self.cloze), lengths_B)
        if self.transform is not None:
            x = F.gelu(self.transform(x))
        normed: Tensor = self.norm(x)
        return normed
