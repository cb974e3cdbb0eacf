"""Self-attention blocks over right-padded sequences, causal or bidirectional.

Shapes: B sequences, L positions, D width, M target positions, K maximum number of them in one sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.attention_kernels import causal_attention, length_masked_attention
from segue.nn.layers.dropout import dropout
from segue.nn.target_positions import TargetPositions

__all__ = ["AttentionBlock", "TransformerBlock", "gather_positions"]


def gather_positions(x_BLD: Tensor, index_B: Tensor) -> Tensor:
    """Return one position of each sequence, ``(B, D)``."""
    return x_BLD[torch.arange(x_BLD.shape[0], device=x_BLD.device), index_B]


class AttentionBlock(nn.Module):
    """The attention of a residual block.

    A subclass adds the feed-forward network and combines them.
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"embedding_dim {width} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def attend(self, x_BLD: Tensor, targets: TargetPositions | None, lengths_B: Tensor | None) -> Tensor:
        """Compute attention for every position, or for the targets only.

        The result is ``(B, L, D)``, or ``(M, D)`` for the targets.

        Args:
            lengths_B: bidirectional attention to all positions before these lengths; ``None``: causal attention.
        """
        dropout_p = self.dropout if self.training else 0.0
        key, value = self._split_heads(self.key_value(x_BLD).chunk(2, -1))
        flat_query = self.query(x_BLD) if targets is None else targets.scatter(self.query(targets.select(x_BLD)))
        (query,) = self._split_heads((flat_query,))
        if lengths_B is not None:
            mixed = length_masked_attention(query, key, value, dropout_p, lengths_B)
        elif targets is None:
            mixed = causal_attention(query, key, value, dropout_p)
        else:
            positions_BK = targets.scatter(targets.positions_M)
            visible_BKL = torch.arange(x_BLD.shape[1], device=x_BLD.device) <= positions_BK[..., None]
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=visible_BKL[:, None], dropout_p=dropout_p
            )
        mixed = mixed.transpose(1, 2).flatten(2)
        return self._drop(self.out(mixed if targets is None else targets.gather(mixed)))

    def _split_heads(self, parts: tuple[Tensor, ...]) -> list[Tensor]:
        return [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts]

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class TransformerBlock(AttentionBlock):
    """Pre-norm transformer block: self-attention, then a feed-forward network.

    The feed-forward network uses ReLU. Both have a residual connection.
    """

    def __init__(self, width: int, num_heads: int, expansion: float, dropout: float) -> None:
        super().__init__(width, num_heads, dropout)
        inner = int(width * expansion)
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x_BLD: Tensor, targets: TargetPositions | None = None, lengths_B: Tensor | None = None) -> Tensor:
        """Return ``(B, L, D)``, or ``(M, D)`` for the targets only.

        See :meth:`AttentionBlock.attend`.
        """
        mixed = self.attend(self.norm_attention(x_BLD), targets, lengths_B)
        x_BLD = (x_BLD if targets is None else targets.select(x_BLD)) + mixed
        fed = self.down(self._drop(F.relu(self.up(self.norm_feed(x_BLD)))))
        return x_BLD + self._drop(fed)
