"""Multiply a sparse matrix of ones by a dense matrix: sums of dense rows.

The dense matrix is processed in tiles of columns that fit in the processor's cache, which takes less than half the time
of SciPy's product. Terms are added in the same order, so the result is bit-identical.

Shapes: N sparse rows, I rows of the dense matrix, J columns, T columns of a tile.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.numba_kernels import kernel, parallel_rows
from segue.core.types import Scores

__all__ = ["sum_rows"]

SCIPY_ROWS = 64
"""Number of sparse rows up to which SciPy's product is as fast."""

TILE = 256
"""Number of columns of a tile."""


def sum_rows(ones_NI: csr_array[Any], dense_IJ: Scores) -> Scores:
    """Compute ``ones_NI @ dense_IJ``, where every entry of ``ones_NI`` is 1."""
    n, n_columns = ones_NI.shape[0], dense_IJ.shape[1]
    if n <= SCIPY_ROWS:
        small: Scores = ones_NI @ dense_IJ
        return small
    offsets, columns = ones_NI.indptr.astype(np.int64), ones_NI.indices.astype(np.int32)
    product_NJ = np.empty((n, n_columns), np.float32)
    for start in range(0, n_columns, TILE):
        tile_IT = np.ascontiguousarray(dense_IJ[:, start : start + TILE])
        sums_NT = np.empty((n, tile_IT.shape[1]), np.float32)

        def process_rows(first: int, stop: int, tile_IT: Scores = tile_IT, sums_NT: Scores = sums_NT) -> None:
            _add_rows(first, stop, offsets, columns, tile_IT, sums_NT)

        parallel_rows(process_rows, offsets)
        product_NJ[:, start : start + TILE] = sums_NT
    return product_NJ


@kernel
def _add_rows(
    first: int, stop: int, offsets: NDArray[np.int64], columns: NDArray[np.int32], dense_IT: Any, out_NT: Any
) -> None:
    """Sum the dense rows of sparse rows ``first:stop``."""
    width = out_NT.shape[1]
    for row in range(first, stop):
        out_T = out_NT[row]
        for j in range(width):
            out_T[j] = 0
        entry, end = offsets[row], offsets[row + 1]
        while entry + 4 <= end:  # four additions per load and store of the sum
            a_T, b_T = dense_IT[columns[entry]], dense_IT[columns[entry + 1]]
            c_T, d_T = dense_IT[columns[entry + 2]], dense_IT[columns[entry + 3]]
            for j in range(width):
                out_T[j] = (((out_T[j] + a_T[j]) + b_T[j]) + c_T[j]) + d_T[j]
            entry += 4
        while entry < end:
            a_T = dense_IT[columns[entry]]
            for j in range(width):
                out_T[j] += a_T[j]
            entry += 1
