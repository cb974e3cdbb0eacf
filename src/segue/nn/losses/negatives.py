"""Items that were drawn for a batch to stand against its targets.

Shapes: K negatives, M targets, D width, I items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Draw", "Negatives"]


@dataclass(frozen=True, eq=False)
class Negatives:
    """Some items, shared by all targets of a batch; an item may stand there more than once."""

    items_K: Tensor
    """``(K,)`` int64 item codes; one that is the target of a position does not count there."""
    log_q_K: Tensor
    """``(K,)`` natural logarithm of the chance of each to be drawn in one of the K draws."""


Draw = Callable[[int, Tensor, Tensor, Tensor | None, Tensor], Negatives]
"""``draw(K, hidden_MD, vectors_ID, bias_I, targets_M)``: negatives from torch's own random stream."""
