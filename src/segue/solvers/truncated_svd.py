"""The truncated singular value decomposition of a sparse table, the same every time.

The greatest singular values with their right vectors: by ARPACK from a start that is drawn, to the precision of
float64, or of a table with a short side from the eigenvectors of that side's Gram matrix. Of the two signs of a vector,
that in which its entry of greatest magnitude is positive.

Shapes: U rows, I columns, D width, S the shorter of the sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = ["truncated"]

Numbers = NDArray[np.float64]

SHORT = 300
"""The shorter side of tables that are decomposed whole."""
NOTHING = 1e-7
"""Share of the greatest singular value below which one is 0: what float64 leaves of a Gram matrix."""


def truncated(table_UI: csr_array[Any], width: int, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
    """``(I, D)`` right singular vectors and ``(D,)`` singular values, greatest first; zeros where there are no more.

    Args:
        rng: gives ARPACK's start; the decomposition does not depend on it but for rounding.
    """
    table_UI = table_UI.astype(np.float64)
    short = min(table_UI.shape)
    vectors_ID, values_D = np.zeros((table_UI.shape[1], 0)), np.zeros(0)
    if table_UI.count_nonzero():
        whole = short <= max(SHORT, width + 1)
        vectors_ID, values_D = _whole(table_UI) if whole else _greatest(table_UI, width, rng.uniform(-1.0, 1.0, short))
    kept = min(width, int((values_D > NOTHING * values_D.max(initial=0.0)).sum()))
    found_ID, found_D = np.zeros((table_UI.shape[1], width)), np.zeros(width)
    found_ID[:, :kept], found_D[:kept] = vectors_ID[:, :kept], values_D[:kept]
    largest_D = np.take_along_axis(found_ID, np.abs(found_ID).argmax(axis=0)[None], axis=0)[0]
    return found_ID * np.where(largest_D < 0, -1.0, 1.0), found_D


def _greatest(table_UI: csr_array[Any], width: int, start_S: Numbers) -> tuple[Numbers, Numbers]:
    from scipy.sparse.linalg import svds

    _, found_D, rows_DI = svds(table_UI, k=width, v0=start_S)
    values_D = found_D.astype(np.float64)
    order = np.argsort(-values_D)
    return rows_DI[order].T, values_D[order]


def _whole(table_UI: csr_array[Any]) -> tuple[Numbers, Numbers]:
    """All right vectors that belong to something, from the eigenvectors of the smaller Gram matrix."""
    tall = table_UI.shape[0] >= table_UI.shape[1]
    gram_SS = (table_UI.T @ table_UI if tall else table_UI @ table_UI.T).toarray()
    squares_S, vectors_SS = np.linalg.eigh(gram_SS)
    values_S = np.sqrt(np.maximum(squares_S[::-1], 0.0))
    vectors_SS = vectors_SS[:, ::-1]
    if tall:
        return vectors_SS, values_S
    positive_S = values_S > NOTHING * values_S[0]
    return (table_UI.T @ vectors_SS[:, positive_S]) / values_S[positive_S], values_S[positive_S]
