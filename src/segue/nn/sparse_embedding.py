"""Rows of a large table of vectors, whose gradient is as small as the rows that were looked up.

Shapes: I items, D width; any shape of codes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["look_up"]


def look_up(codes: Tensor, vectors_ID: Tensor) -> Tensor:
    """``vectors_ID[codes]``.

    Where the vectors are a parameter, or its first rows, the parameter's gradient is sparse: it holds the rows that
    were looked up and nothing else. Otherwise it is as large as the table.
    """
    base = vectors_ID._base
    first = (
        base is not None
        and base.is_leaf
        and base.requires_grad
        and base.shape[1:] == vectors_ID.shape[1:]
        and base.stride() == vectors_ID.stride()
        and base.storage_offset() == vectors_ID.storage_offset()
    )
    return F.embedding(codes, base, sparse=True) if first and base is not None else F.embedding(codes, vectors_ID)
