"""Ratings whose features come from tables: who, what, when; a row of features is kept once, not for each rating.

In the terms of Rendle 2013 (doi:10.14778/2535573.2488340) a block is a relation. Rating t reads row ``rows_T[t]`` of
each block, and its features are these rows side by side.

Shapes: T ratings, R rows of a block, C columns of a block, G groups of columns, B blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, hstack

from segue.core.types import Codes, Mask

__all__ = ["Block", "flat"]


@dataclass(frozen=True, eq=False)
class Block:
    """A table of features, and which of its rows each rating reads."""

    rows_T: Codes
    """``(T,)``"""
    design_RC: csr_array[Any]
    """The features, sparse."""
    groups: tuple[int, ...]
    """Columns of each group, in their order; together all C. The columns of a group share a prior."""

    def __post_init__(self) -> None:
        if sum(self.groups) != self.design_RC.shape[1]:
            raise ValueError(f"groups of {self.groups} columns for a table of {self.design_RC.shape[1]} columns")

    @property
    def columns(self) -> int:
        """C."""
        return int(self.design_RC.shape[1])

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """``(R,)`` ratings that read each row."""
        return np.bincount(self.rows_T, minlength=self.design_RC.shape[0])

    @cached_property
    def by_column(self) -> csc_array[Any]:
        """The features, column by column."""
        return csc_array(self.design_RC)

    @cached_property
    def met(self) -> Mask:
        """``(C,)`` columns that some rating reads; of the others the ratings say nothing."""
        read_R = (self.counts > 0).astype(np.float64)
        return np.asarray(abs(self.by_column).T @ read_R > 0)


def flat(blocks: Sequence[Block]) -> Block:
    """The same features as one block with a row for each rating: what relations save."""
    parts = [block.design_RC[block.rows_T] for block in blocks]
    design_TC = csr_array(hstack(parts, format="csr"))
    rows_T = np.arange(design_TC.shape[0], dtype=np.int32)
    return Block(rows_T, design_TC, tuple(size for block in blocks for size in block.groups))
