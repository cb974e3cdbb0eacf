"""The multiplications and additions that training one target cannot do without.

Counted: matrix products only, two operations per multiply-add, forward once and backward twice (one product for the
gradient of each factor). Not counted: what an implementation does besides (logits computed anew, padding, positions
above the causal diagonal), softmax, norms, dropout, the optimiser. So the share of the machine's rate is of work that
is needed, and 100 % cannot be reached.

Per target, width D, inner width F (of GRU4Rec: of the state), I items, a mean of C positions visible to a position:

* head: ``2 D I``
* per attention block and position: ``8 D^2`` for query, key, value and output, ``4 D F`` for the feed-forward,
  ``4 D C`` for attention
* per recurrent layer and position: ``6 F (D + F)`` for the gates of a GRU, the later layers with F in place of D; and
  ``2 F D`` once for what leaves them

SASRec and GRU4Rec have a target at every position. BERT4Rec has one where an item is hidden, so a target costs as many
positions as there are to each hidden one; and every position sees all of its window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["needed", "visible"]


def visible(lengths: NDArray[np.int64], both_ways: bool = False) -> float:
    """Mean number of positions that a position sees (itself included) in windows of ``lengths``."""
    seen = lengths**2 if both_ways else lengths * (lengths + 1) / 2
    return float(seen.sum() / lengths.sum())


def needed(ask: dict[str, Any], lengths: NDArray[np.int64]) -> dict[str, float]:
    """Operations to train one target, by part and in total (``"target"``), in windows of ``lengths``.

    Args:
        ask: ``model``, ``width``, ``inner``, ``blocks``, ``items``, and ``hidden_share`` of BERT4Rec.
    """
    width, inner, blocks = ask["width"], ask["inner"], ask["blocks"]
    head = 3 * 2.0 * width * ask["items"]
    context = 0.0
    if ask["model"] == "gru4rec":
        dense = 3 * (6.0 * inner * (width + inner + (blocks - 1) * 2 * inner) + 2.0 * inner * width)
        attention = 0.0
    else:
        both_ways = ask["model"] == "bert4rec"
        context = visible(lengths, both_ways)
        positions = 1.0 / ask["hidden_share"] if both_ways else 1.0
        dense = positions * 3 * blocks * (8.0 * width**2 + 4.0 * width * inner)
        attention = positions * 3 * blocks * 4.0 * width * context
    total = head + dense + attention
    return {"head": head, "dense": dense, "attention": attention, "target": total, "context": context}
