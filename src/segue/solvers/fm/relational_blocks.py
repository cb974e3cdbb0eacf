"""Relational blocks: rating features stored once per user, item or time.

The features come from tables of users, items and times.

A block is a relation in the terms of Rendle 2013 (doi:10.14778/2535573.2488340). Each rating reads one row of each
block, and its features are these rows side by side.

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

__all__ = ["RelationBlock", "Relations", "flatten"]


@dataclass(frozen=True, eq=False)
class RelationBlock:
    """A table of features, and the row of it that each rating reads."""

    rows_T: Codes
    """``(T,)``"""
    features_RC: csr_array[Any]
    """Sparse features."""
    groups: tuple[int, ...]
    """Number of columns of each group, in order; they sum to C. The columns of a group share a prior."""

    def __post_init__(self) -> None:
        if sum(self.groups) != self.features_RC.shape[1] or min(self.groups) < 1:
            raise ValueError(
                f"relational block: got groups of {self.groups} columns, expected positive sizes that sum to "
                f"{self.features_RC.shape[1]}"
            )


class Relations:
    """Blocks combined in a block-diagonal matrix."""

    def __init__(self, blocks: Sequence[RelationBlock]) -> None:
        self.blocks = tuple(blocks)
        self.row_starts_B: NDArray[np.int64] = np.cumsum([0, *(block.features_RC.shape[0] for block in blocks)])
        """``(B + 1,)`` first row of each block, and S."""
        self.column_starts_B: NDArray[np.int64] = np.cumsum([0, *(block.features_RC.shape[1] for block in blocks)])
        """``(B + 1,)`` first column of each block, and C."""
        rows = [block.rows_T + start for block, start in zip(blocks, self.row_starts_B[:-1], strict=True)]
        self.rows_BT: Codes = np.stack(rows).astype(np.int32)
        """``(B, T)`` rows that each rating reads."""
        self.by_row: csr_array[Any] = csr_array(
            block_diag([block.features_RC for block in blocks], format="csr", dtype=np.float32)
        )
        """``(S, C)``"""
        self.by_column: csc_array[Any] = csc_array(self.by_row)
        """``(S, C)``"""
        self.sizes_G = tuple(size for block in blocks for size in block.groups)
        """Number of columns of each group."""
        self.groups_C: Codes = np.repeat(np.arange(len(self.sizes_G)), self.sizes_G).astype(np.int32)
        """``(C,)`` group of each column."""
        self.counts_S: NDArray[np.int64] = np.bincount(self.rows_BT.ravel(), minlength=int(self.row_starts_B[-1]))
        """``(S,)`` number of ratings that read each row."""
        self.is_used_C: NDArray[np.bool_] = np.asarray(
            abs(self.by_column).T @ (self.counts_S > 0).astype(np.float32) > 0
        )
        """``(C,)`` whether any rating reads the column."""

    @property
    def columns(self) -> int:
        """Return C, the number of columns of all blocks."""
        return len(self.groups_C)

    def row_range(self, block: int) -> slice:
        """Return the rows of a block among all rows."""
        return slice(int(self.row_starts_B[block]), int(self.row_starts_B[block + 1]))


def flatten(blocks: Sequence[RelationBlock]) -> RelationBlock:
    """Combine blocks into one block that has a row for each rating."""
    blocks_TC = [block.features_RC[block.rows_T] for block in blocks]
    design_TC = csr_array(hstack(blocks_TC, format="csr"))
    rows_T = np.arange(design_TC.shape[0], dtype=np.int32)
    return RelationBlock(rows_T, design_TC, tuple(size for block in blocks for size in block.groups))
