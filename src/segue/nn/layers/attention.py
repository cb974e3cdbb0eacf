"""Self-attention over sequences padded on the right, in one direction or both.

Shapes: B sequences, L positions, D width, M positions asked about, K the most of them in one sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.nn.layers.attention_kernels import causal_attention, open_attention
from segue.nn.layers.dropout import dropout
from segue.nn.target_positions import Asked

__all__ = ["AttentionBlock", "CausalBlock", "at"]


def at(x_BLD: Tensor, last_B: Tensor) -> Tensor:
    """``(B, D)`` the positions ``last`` of each sequence."""
    return x_BLD[torch.arange(x_BLD.shape[0], device=x_BLD.device), last_B]


class AttentionBlock(nn.Module):
    """The attention of a residual block; a block inherits it and says how its parts are put together."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be shared evenly by {heads} heads")
        self.heads = heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def attend(self, x_BLD: Tensor, asked: Asked | None, lengths_B: Tensor | None) -> Tensor:
        """What each position, or those asked about alone, gathers from the positions that it may see.

        Args:
            lengths_B: where given, all positions before these lengths are seen from everywhere; else a position sees
                itself and those before it.
        """
        share = self.dropout if self.training else 0.0
        key, value = self._split(self.key_value(x_BLD).chunk(2, -1))
        question = self.query(x_BLD) if asked is None else asked.spread(self.query(asked.pick(x_BLD)))
        (query,) = self._split((question,))
        if lengths_B is not None:
            mixed = open_attention(query, key, value, share, lengths_B)
        elif asked is None:
            mixed = causal_attention(query, key, value, share)
        else:
            places_BK = asked.spread(asked.places_M)
            seen_BKL = torch.arange(x_BLD.shape[1], device=x_BLD.device) <= places_BK[..., None]
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_BKL[:, None], dropout_p=share)
        mixed = mixed.transpose(1, 2).flatten(2)
        return self._drop(self.out(mixed if asked is None else asked.gather(mixed)))

    def _split(self, parts: tuple[Tensor, ...]) -> list[Tensor]:
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class CausalBlock(AttentionBlock):
    """Self-attention and a position-wise network, each on its normalised input and added to it."""

    def __init__(self, width: int, heads: int, expansion: float, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        inner = int(width * expansion)
        self.norm_feed = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)

    def forward(self, x_BLD: Tensor, asked: Asked | None = None, lengths_B: Tensor | None = None) -> Tensor:
        """``(B, L, D)``, or ``(M, D)`` of the positions asked about alone; ``lengths`` opens both directions."""
        mixed = self.attend(self.norm_attention(x_BLD), asked, lengths_B)
        x_BLD = (x_BLD if asked is None else asked.pick(x_BLD)) + mixed
        fed = self.down(self._drop(F.relu(self.up(self.norm_feed(x_BLD)))))
        return x_BLD + self._drop(fed)
