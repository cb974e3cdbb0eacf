"""What solvers have in common that bring the rows of many small ridge regressions nearer to their solutions, in place.

For each row the problem is that of :func:`segue.solvers.ridge.solve_rows`; a row's ridge is the same in
all dimensions.

Shapes: R rows, T events, C columns, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import over_rows, read, written
from segue.core.types import Codes, Scores

__all__ = ["IMPROVES", "improved"]

IMPROVES: tuple[Any, ...] = (
    int64,
    int64,
    read(int64),
    read(int32),
    read(float32),
    read(float32),
    read(float32, 2),
    read(float32),
    read(float32, 2),
    int64,
    written(float32, 2),
    written(float32),
)
"""Types of such a compiled loop's arguments: first and last row, offsets, columns, weights, right sides, vectors,
ridges, what is common to all rows, its own setting, rows, and gains."""


def improved(
    improve: Callable[..., None],
    setting: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    weights_T: Scores,
    sides_T: Scores,
    vectors_CD: Scores,
    rows_RD: Scores,
    *,
    ridge_R: Scores,
    common: Scores,
) -> tuple[Scores, Scores]:
    """``(R, D)`` better rows than ``rows_RD``, and ``(R,)`` what their objective is below that of zero.

    Args:
        improve: a compiled loop over :data:`IMPROVES`.
        setting: its own one.
        common: what all rows have in common, in the form that the loop expects.
    """
    out = np.array(rows_RD, np.float32, order="C")
    gains = np.empty(len(out), np.float32)
    vectors, ridges, shared = (np.ascontiguousarray(array, np.float32) for array in (vectors_CD, ridge_R, common))

    def work(first: int, stop: int) -> None:
        improve(first, stop, offsets, columns, weights_T, sides_T, vectors, ridges, shared, setting, out, gains)

    over_rows(work, offsets)
    return out, gains
