"""Negatives of a batch, and the lookup of their vectors.

Shapes: K negatives, M targets, D width, I items; codes may have any shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

__all__ = ["Negatives", "SampleNegatives", "lookup_rows"]


@dataclass(frozen=True, eq=False)
class Negatives:
    """Sampled items, shared by all targets of a batch.

    An item may occur more than once.
    """

    items_K: Tensor
    """``(K,)`` int64 item codes. A negative that equals the target of a position is ignored there."""
    log_q_K: Tensor
    """``(K,)`` natural logarithm of each item's probability per draw."""


SampleNegatives = Callable[[int, Tensor, Tensor, Tensor | None, Tensor], Negatives]
"""``sample(K, hidden_MD, vectors_ID, bias_I, targets_M)``: draw negatives from torch's global random stream."""


def lookup_rows(codes: Tensor, vectors_ID: Tensor) -> Tensor:
    """Return ``vectors_ID[codes]``, with a sparse gradient where possible.

    If ``vectors_ID`` is a parameter or its first rows, the gradient of the parameter is sparse and holds only the rows
    looked up. Otherwise it has the size of the table.
    """
    base = vectors_ID._base
    is_parameter_prefix = (
        base is not None
        and base.is_leaf
        and base.requires_grad
        and base.shape[1:] == vectors_ID.shape[1:]
        and base.stride() == vectors_ID.stride()
        and base.storage_offset() == vectors_ID.storage_offset()
    )
    if is_parameter_prefix and base is not None:
        return F.embedding(codes, base, sparse=True)
    return F.embedding(codes, vectors_ID)
