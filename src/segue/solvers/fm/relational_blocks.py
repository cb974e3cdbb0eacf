"""Ratings whose features come from tables: who, what, when; a row of features is kept once, not for each rating.

In the terms of Rendle 2013 (doi:10.14778/2535573.2488340) a block is a relation. Rating t reads one row of each block,
and its features are these rows side by side.

Shapes: T ratings, B blocks, R rows of a block, S rows of all blocks, C columns, G groups of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import block_diag, csc_array, csr_array, hstack

from segue.core.types import Codes

__all__ = ["Block", "Relations", "flat"]


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
        if sum(self.groups) != self.design_RC.shape[1] or min(self.groups) < 1:
            raise ValueError(f"groups of {self.groups} columns for a table of {self.design_RC.shape[1]} columns")


class Relations:
    """Blocks as one table, each of them in its own corner of it."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        self.starts_B: NDArray[np.int64] = np.cumsum([0, *(block.design_RC.shape[0] for block in blocks)])
        """``(B + 1,)`` the first row of each block, and S."""
        self.columns_B: NDArray[np.int64] = np.cumsum([0, *(block.design_RC.shape[1] for block in blocks)])
        """``(B + 1,)`` the first column of each block, and C."""
        places = [block.rows_T + start for block, start in zip(blocks, self.starts_B[:-1], strict=True)]
        self.places_BT: Codes = np.stack(places).astype(np.int32)
        """``(B, T)`` the rows that each rating reads."""
        self.by_row: csr_array[Any] = csr_array(
            block_diag([block.design_RC for block in blocks], format="csr", dtype=np.float32)
        )
        """``(S, C)``"""
        self.by_column: csc_array[Any] = csc_array(self.by_row)
        """``(S, C)``"""
        self.sizes_G = tuple(size for block in blocks for size in block.groups)
        """Columns of each group."""
        self.groups_C: Codes = np.repeat(np.arange(len(self.sizes_G)), self.sizes_G).astype(np.int32)
        """``(C,)`` the group of each column."""
        self.counts_S: NDArray[np.int64] = np.bincount(self.places_BT.ravel(), minlength=int(self.starts_B[-1]))
        """``(S,)`` ratings that read each row."""
        self.met_C: NDArray[np.bool_] = np.asarray(abs(self.by_column).T @ (self.counts_S > 0).astype(np.float32) > 0)
        """``(C,)`` columns that some rating reads; of the others the ratings say nothing."""

    @property
    def columns(self) -> int:
        """C, of all blocks."""
        return len(self.groups_C)

    def part(self, block: int) -> slice:
        """The rows of a block among all."""
        return slice(int(self.starts_B[block]), int(self.starts_B[block + 1]))


def flat(blocks: Sequence[Block]) -> Block:
    """The same features as one block with a row for each rating: what relations save."""
    parts = [block.design_RC[block.rows_T] for block in blocks]
    design_TC = csr_array(hstack(parts, format="csr"))
    rows_T = np.arange(design_TC.shape[0], dtype=np.int32)
    return Block(rows_T, design_TC, tuple(size for block in blocks for size in block.groups))
