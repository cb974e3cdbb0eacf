"""Learned positions: one vector per place of a window, counted from its beginning or from its end.

Shapes: B sequences, L positions, D width, P places.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["places"]


def places(vectors_PD: Tensor, length: int, lengths_B: Tensor | None) -> Tensor:
    """What to add at each of ``length`` positions: ``(L, D)``, from the beginning on, or ``(B, L, D)``.

    Args:
        lengths_B: where given, vector 0 is that of the last position before these lengths, and so on backwards: a
            question that always stands at the end has the same position in every history.
    """
    if lengths_B is None:
        return vectors_PD[:length]
    ago_BL = lengths_B[:, None] - 1 - torch.arange(length, device=lengths_B.device)
    return F.embedding(ago_BL.clamp_min(0), vectors_PD)
