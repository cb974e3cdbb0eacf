"""Reproducible truncated singular value decomposition of a sparse matrix.

The largest singular values and their right vectors are computed by ARPACK from a random start, to float64 precision; if
one side is short, from the eigenvectors of its Gram matrix. Signs are chosen so that the entry of largest magnitude of
each vector is positive.

Shapes: U rows, I columns, D dimensions, S the shorter side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = ["truncated_svd"]

Numbers = NDArray[np.float64]

DENSE_SIZE = 300
"""Matrices whose shorter side is at most this long are decomposed through a dense Gram matrix."""
ROUNDING = 1e-7
"""Singular values below this share of the largest are rounding errors of the Gram matrix."""


def truncated_svd(matrix_UI: csr_array[Any], rank: int, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
    """Return ``(I, D)`` right singular vectors and ``(D,)`` singular values.

    The largest come first. Beyond the rank of the matrix, both are zero.

    Args:
        matrix_UI: the matrix.
        rank: D.
        rng: draws the start of ARPACK, which affects the result by rounding only.
    """
    matrix_UI = matrix_UI.astype(np.float64)
    short_side = min(matrix_UI.shape)
    vectors_ID, values_D = np.zeros((matrix_UI.shape[1], 0)), np.zeros(0)
    if matrix_UI.count_nonzero():
        is_small = short_side <= max(DENSE_SIZE, rank + 1)
        vectors_ID, values_D = (
            _dense_svd(matrix_UI) if is_small else _sparse_svd(matrix_UI, rank, rng.uniform(-1.0, 1.0, short_side))
        )
    n_kept = min(rank, int((values_D > ROUNDING * values_D.max(initial=0.0)).sum()))
    right_ID, singular_D = np.zeros((matrix_UI.shape[1], rank)), np.zeros(rank)
    right_ID[:, :n_kept], singular_D[:n_kept] = vectors_ID[:, :n_kept], values_D[:n_kept]
    largest_D = np.take_along_axis(right_ID, np.abs(right_ID).argmax(axis=0)[None], axis=0)[0]
    return right_ID * np.where(largest_D < 0, -1.0, 1.0), singular_D


def _sparse_svd(matrix_UI: csr_array[Any], rank: int, start_S: Numbers) -> tuple[Numbers, Numbers]:
    """Compute the largest singular values by ARPACK."""
    from scipy.sparse.linalg import svds

    _, singular_D, rows_DI = svds(matrix_UI, k=rank, v0=start_S)
    values_D = singular_D.astype(np.float64)
    order = np.argsort(-values_D)
    return rows_DI[order].T, values_D[order]


def _dense_svd(matrix_UI: csr_array[Any]) -> tuple[Numbers, Numbers]:
    """Compute all right vectors of nonzero singular values.

    They are computed from the smaller Gram matrix.
    """
    is_tall = matrix_UI.shape[0] >= matrix_UI.shape[1]
    gram_SS = (matrix_UI.T @ matrix_UI if is_tall else matrix_UI @ matrix_UI.T).toarray()
    squares_S, vectors_SS = np.linalg.eigh(gram_SS)
    values_S = np.sqrt(np.maximum(squares_S[::-1], 0.0))
    vectors_SS = vectors_SS[:, ::-1]
    if is_tall:
        return vectors_SS, values_S
    is_positive_S = values_S > ROUNDING * values_S[0]
    return (matrix_UI.T @ vectors_SS[:, is_positive_S]) / values_S[is_positive_S], values_S[is_positive_S]
