"""Learned positional embeddings.

Positions are counted from the beginning of a window or from its end.

Shapes: B sequences, L positions, D width, P embeddings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["position_vectors"]


def position_vectors(vectors_PD: Tensor, length: int, lengths_B: Tensor | None) -> Tensor:
    """Return the embedding of each of ``length`` positions.

    The result is ``(L, D)``, or ``(B, L, D)`` with ``lengths_B``.

    Args:
        lengths_B: count backwards: embedding 0 is that of the last position before these lengths. The mask token, which
            is always last in prediction, then has the same position in every history.
    """
    if lengths_B is None:
        return vectors_PD[:length]
    from_end_BL = lengths_B[:, None] - 1 - torch.arange(length, device=lengths_B.device)
    return F.embedding(from_end_BL.clamp_min(0), vectors_PD)
