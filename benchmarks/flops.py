"""The multiplications and additions that training one target of SASRec cannot do without.

Counted: matrix products only, two operations per multiply-add, forward once and backward twice (one product for the
gradient of each factor). Not counted: what an implementation does besides (logits computed anew, padding, positions
above the causal diagonal), softmax, norms, dropout, the optimiser. So the share of the machine's rate is of work that
is needed, and 100 % cannot be reached.

Per target, width D, inner width F, I items, a mean of C positions visible to a position:

* head: ``2 D I``
* per block: ``8 D^2`` for query, key, value and output, ``4 D F`` for the feed-forward, ``4 D C`` for attention
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sasrec", "visible"]


def visible(lengths: NDArray[np.int64]) -> float:
    """Mean number of positions that a position sees (itself included) in causal windows of ``lengths``."""
    return float((lengths * (lengths + 1) / 2).sum() / lengths.sum())


def sasrec(width: int, inner: int, blocks: int, items: int, context: float) -> dict[str, float]:
    """Operations to train one target, by part and in total (``"target"``)."""
    head = 3 * 2.0 * width * items
    dense = 3 * blocks * (8.0 * width**2 + 4.0 * width * inner)
    attention = 3 * blocks * 4.0 * width * context
    return {"head": head, "dense": dense, "attention": attention, "target": head + dense + attention}
