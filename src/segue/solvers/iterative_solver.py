"""Run kernels that improve the solutions of many small ridge regressions in place.

The problem of each row is that of :func:`segue.solvers.ridge.solve_rows`, with the same regularization in all
dimensions.

Shapes: R rows, T events, C columns, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import input_array, output_array, parallel_rows
from segue.core.types import Codes, Scores

__all__ = ["KERNEL_SIGNATURE", "solve_rows_iteratively"]

KERNEL_SIGNATURE: tuple[Any, ...] = (
    int64,
    int64,
    input_array(int64),
    input_array(int32),
    input_array(float32),
    input_array(float32),
    input_array(float32, 2),
    input_array(float32),
    input_array(float32, 2),
    int64,
    output_array(float32, 2),
    output_array(float32),
)
"""Argument types of a kernel: first and last row, offsets, columns, weights, right-hand sides, vectors,
regularization of rows, what all rows share, an argument of the kernel's own, rows, gains.
"""


def solve_rows_iteratively(
    kernel: Callable[..., None],
    kernel_argument: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    weights_T: Scores,
    targets_T: Scores,
    vectors_CD: Scores,
    rows_RD: Scores,
    *,
    ridge_R: Scores,
    common: Scores,
) -> tuple[Scores, Scores]:
    """Improve ``rows_RD`` by a kernel, in parallel over rows.

    Returns:
        ``(R, D)`` improved rows, and ``(R,)`` gains: how far their objective is below that of x = 0.

    Args:
        kernel: compiled with :data:`KERNEL_SIGNATURE`.
        kernel_argument: the kernel's own argument.
        offsets: ``(R + 1,)`` the events of row r are ``offsets[r]:offsets[r + 1]``.
        columns: ``(T,)`` the column of each event.
        weights_T: weights, not negative.
        targets_T: right-hand sides.
        vectors_CD: vectors of the columns.
        rows_RD: initial rows.
        ridge_R: regularization of each row.
        common: what all rows share, in the form that the kernel expects.
    """
    out = np.array(rows_RD, np.float32, order="C")
    gains = np.empty(len(out), np.float32)
    vectors, ridges, shared = (np.ascontiguousarray(array, np.float32) for array in (vectors_CD, ridge_R, common))

    def process_rows(first: int, stop: int) -> None:
        kernel(
            first, stop, offsets, columns, weights_T, targets_T, vectors, ridges, shared, kernel_argument, out, gains
        )

    parallel_rows(process_rows, offsets)
    return out, gains
