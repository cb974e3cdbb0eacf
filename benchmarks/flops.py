"""Operations that training one target requires.

Only matrix products count, two operations per multiply-add, once for the forward pass and twice for the backward pass
(one product for the gradient of each factor). Additional work of an implementation does not count: recomputed logits,
padding, positions above the causal diagonal, softmax, norms, dropout, the optimizer. The share of the machine's rate
therefore stays below 100 %.

Per target, with width D, inner width F (of GRU4Rec: of the state), I items, and a mean of C visible positions:

* output layer: ``2 D I``
* per attention block and position: ``8 D^2`` for query, key, value and output, ``4 D F`` for the feed-forward layer,
  ``4 D C`` for attention
* per recurrent layer and position: ``6 F (D + F)`` for the gates of a GRU, with F in place of D in later layers; and
  ``2 F D`` once for the output projection

SASRec and GRU4Rec have a target at every position. BERT4Rec has one at every masked position, so a target costs several
positions, and every position attends to its whole window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["needed", "visible"]


def visible(lengths: NDArray[np.int64], bidirectional: bool = False) -> float:
    """Compute the mean number of visible positions, including the position itself, in windows of ``lengths``."""
    seen = lengths**2 if bidirectional else lengths * (lengths + 1) / 2
    return float(seen.sum() / lengths.sum())


def needed(job: dict[str, Any], lengths: NDArray[np.int64]) -> dict[str, float]:
    """Count the operations to train one target, by part and in total (``"target"``).

    Args:
        job: ``model``, ``embedding_dim``, ``inner``, ``num_blocks``, ``items``, and ``mask_prob`` for BERT4Rec.
        lengths: of the training windows.
    """
    width, inner, blocks = job["embedding_dim"], job["inner"], job["num_blocks"]
    head = 3 * 2.0 * width * job["items"]
    context = 0.0
    if job["model"] == "gru4rec":
        dense = 3 * (6.0 * inner * (width + inner + (blocks - 1) * 2 * inner) + 2.0 * inner * width)
        attention = 0.0
    else:
        bidirectional = job["model"] == "bert4rec"
        context = visible(lengths, bidirectional)
        positions = 1.0 / job["mask_prob"] if bidirectional else 1.0
        dense = positions * 3 * blocks * (8.0 * width**2 + 4.0 * width * inner)
        attention = positions * 3 * blocks * 4.0 * width * context
    total = head + dense + attention
    return {"head": head, "dense": dense, "attention": attention, "target": total, "context": context}
