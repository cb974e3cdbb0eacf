"""Count the users that each pair of items has in common.

Shapes: U users, I items, B items of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from segue.core.types import Scores

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["cooccurrence"]

BLOCK_CELLS = 4_000_000
"""Cells of a dense block: 16 MB as float32."""


def cooccurrence(seen_UI: csr_array, cells: int = BLOCK_CELLS) -> Iterator[tuple[slice, Scores]]:
    """Yield the rows of ``seen_UI.T @ seen_UI`` in dense blocks ``(B, I)``.

    A block has at most ``cells`` cells, but at least one row.
    """
    n_items = seen_UI.shape[1]
    seen_IU = seen_UI.T.tocsr()
    step = max(1, cells // max(n_items, 1))
    for start in range(0, n_items, step):
        rows = slice(start, min(start + step, n_items))
        yield rows, (seen_IU[rows] @ seen_UI).toarray()
