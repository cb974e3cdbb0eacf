"""How alike two items are, from how many people have both; each function here is a choice by its name.

All take the same: ``both_BI`` people who have both items, ``own_B`` and ``other_I`` people who have either one, and
``shrink``, an amount added below the line that draws likeness resting on few people towards zero (Bell and Koren
2007, doi:10.1109/ICDM.2007.90). All return ``(B, I)``; nobody in common is 0, whatever else.

Shapes: B items of a block, I items.
"""

from __future__ import annotations

import numpy as np

from segue.core.types import Scores

__all__ = ["conditional", "cosine", "dice", "jaccard"]


def cosine(both_BI: Scores, own_B: Scores, other_I: Scores, shrink: float) -> Scores:
    """Cosine of the angle between two items' columns of people."""
    return _ratio(both_BI, np.sqrt(own_B)[:, None] * np.sqrt(other_I) + np.float32(shrink))


def jaccard(both_BI: Scores, own_B: Scores, other_I: Scores, shrink: float) -> Scores:
    """People who have both among those who have any of the two."""
    return _ratio(both_BI, own_B[:, None] + other_I - both_BI + np.float32(shrink))


def dice(both_BI: Scores, own_B: Scores, other_I: Scores, shrink: float) -> Scores:
    """People who have both against the mean of those who have one."""
    return _ratio(2 * both_BI, own_B[:, None] + other_I + np.float32(shrink))


def conditional(both_BI: Scores, own_B: Scores, other_I: Scores, shrink: float) -> Scores:
    """Share of the people who have the other item that have the block's item (Deshpande and Karypis 2004, eq. 2)."""
    return _ratio(both_BI, np.broadcast_to(other_I + np.float32(shrink), both_BI.shape))


def _ratio(above_BI: Scores, below_BI: Scores) -> Scores:
    return np.divide(above_BI, below_BI, out=np.zeros_like(above_BI), where=above_BI > 0)
