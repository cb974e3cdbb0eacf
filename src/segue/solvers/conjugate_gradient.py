"""Preconditioned conjugate gradients for many small ridge regressions.

Takács, Pilászy and Tikk 2011, doi:10.1145/2043932.2043987. The problem of each row is that of
:func:`segue.solvers.ridge.solve_rows`. A step costs D operations for each event instead of D², and never increases the
objective; with enough steps, the solution is exact up to rounding. If all rows share a matrix, the problem is rotated
to its eigenvectors. There the matrix is diagonal, and with the regularization it is the preconditioner (Golub and Van
Loan 2013, section 11.5), which halves the number of steps.

Shapes: R rows, T events, C columns, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import float32
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array
from segue.core.types import Codes, Scores
from segue.solvers.iterative_solver import KERNEL_SIGNATURE, solve_rows_iteratively

__all__ = ["FixedSide", "cg_solve", "cg_steps"]

EPSILON = np.finfo(np.float32).eps

TOLERANCE = np.float32(1e-12)
"""Squared residual at convergence, relative to that at the start."""


@dataclass(frozen=True, eq=False)
class FixedSide:
    """Vectors of the side that is not solved.

    The matrix shared by all rows is in its eigenbasis.
    """

    vectors_CD: Scores
    diagonal_1D: Scores
    """``(1, D)`` eigenvalues of the shared matrix."""
    axes_DD: Scores | None
    """Eigenvectors as columns; none: the vectors are not rotated."""

    @classmethod
    def of(cls, vectors_CD: Scores, common_DD: Scores | None = None) -> FixedSide:
        """Rotate the vectors to the eigenbasis of ``common_DD``.

        ``common_DD`` is the matrix that is added to that of every row; ``None`` stands for 0.
        """
        if common_DD is None:
            return cls(vectors_CD, np.zeros((1, vectors_CD.shape[1]), np.float32), None)
        eigenvalues_D, axes_DD = np.linalg.eigh(common_DD)
        diagonal_1D = np.maximum(eigenvalues_D, 0.0)[None]  # negative values are rounding errors
        return cls(np.ascontiguousarray(vectors_CD @ axes_DD), diagonal_1D, axes_DD)


def cg_steps(
    steps: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    weights_T: Scores,
    targets_T: Scores,
    fixed: FixedSide,
    rows_RD: Scores,
    *,
    ridge_R: Scores,
) -> tuple[Scores, Scores]:
    """Improve ``rows_RD`` by a few steps of conjugate gradients.

    Returns:
        ``(R, D)`` improved rows, and ``(R,)`` gains: how far their objective is below that of x = 0.

    Args:
        steps: maximum number of steps for each row; a converged row takes fewer.
        offsets: ``(R + 1,)`` the events of row r are ``offsets[r]:offsets[r + 1]``.
        columns: ``(T,)`` the column of each event.
        weights_T: weights, not negative.
        targets_T: right-hand sides.
        fixed: vectors of the columns and the shared matrix.
        rows_RD: initial rows.
        ridge_R: regularization of each row, the same in all dimensions.
    """
    start_RD = rows_RD if fixed.axes_DD is None else rows_RD @ fixed.axes_DD
    problem = offsets, columns, weights_T, targets_T, fixed.vectors_CD, start_RD
    solution_RD, gains_R = solve_rows_iteratively(
        _cg_kernel, steps, *problem, ridge_R=ridge_R, common=fixed.diagonal_1D
    )
    return (solution_RD if fixed.axes_DD is None else solution_RD @ fixed.axes_DD.T), gains_R


def cg_solve(
    offsets: NDArray[np.int64],
    columns: Codes,
    weights_T: Scores,
    targets_T: Scores,
    fixed: FixedSide,
    *,
    ridge_R: Scores,
) -> Scores:
    """Solve all rows up to rounding, starting from zero: ``(R, D)``.

    With a shared matrix, about a dozen steps suffice for a hundred dimensions. For the arguments see :func:`cg_steps`.
    """
    width = fixed.vectors_CD.shape[1]
    start_RD = np.zeros((len(offsets) - 1, width), np.float32)
    return cg_steps(8 * width, offsets, columns, weights_T, targets_T, fixed, start_RD, ridge_R=ridge_R)[0]


@fastmath_kernel(
    input_array(float32, 2),
    input_array(float32),
    input_array(float32),
    input_array(float32),
    output_array(float32),
    output_array(float32),
)
def _multiply_by_matrix(
    row_vectors: Scores, weights: Scores, diagonal_D: Scores, x_D: Scores, products: Scores, out_D: Scores
) -> None:
    """Compute ``(diagonal + sum_e weight_e z_e z_e') x``.

    Also compute the ``products`` of x and the vectors z of the events.
    """
    n_events, width = row_vectors.shape
    n_unrolled = n_events // 4 * 4
    for d in range(width):
        out_D[d] = diagonal_D[d] * x_D[d]
    for e in range(0, n_unrolled, 4):  # unrolled by four to save memory accesses
        z1, z2, z3, z4 = row_vectors[e], row_vectors[e + 1], row_vectors[e + 2], row_vectors[e + 3]
        t1, t2, t3, t4 = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for d in range(width):
            t1 += z1[d] * x_D[d]
            t2 += z2[d] * x_D[d]
            t3 += z3[d] * x_D[d]
            t4 += z4[d] * x_D[d]
        products[e], products[e + 1], products[e + 2], products[e + 3] = t1, t2, t3, t4
        t1, t2, t3, t4 = t1 * weights[e], t2 * weights[e + 1], t3 * weights[e + 2], t4 * weights[e + 3]
        for d in range(width):
            out_D[d] += t1 * z1[d] + t2 * z2[d] + t3 * z3[d] + t4 * z4[d]
    for e in range(n_unrolled, n_events):
        total = np.float32(0.0)
        for d in range(width):
            total += row_vectors[e, d] * x_D[d]
        products[e] = total
        total *= weights[e]
        for d in range(width):
            out_D[d] += total * row_vectors[e, d]


@fastmath_kernel(*KERNEL_SIGNATURE)
def _cg_kernel(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    weights: Scores,
    targets: Scores,
    vectors: Scores,
    ridges: Scores,
    common: Scores,
    steps: int,
    out: Scores,
    gains: Scores,
) -> None:
    """Update rows ``first:stop`` in place.

    This is a kernel of :func:`.solve_rows_iteratively`.

    Args:
        common: ``(1, D)`` the diagonal of the shared matrix.
    """
    width = vectors.shape[1]
    max_length = 1
    for row in range(first, stop):
        max_length = max(max_length, offsets[row + 1] - offsets[row])
    row_vectors = np.empty((max_length, width), np.float32)
    predictions, p_products = np.empty(max_length, np.float32), np.empty(max_length, np.float32)
    x_D, residual_D = np.empty(width, np.float32), np.empty(width, np.float32)
    p_D, A_p_D = np.empty(width, np.float32), np.empty(width, np.float32)
    preconditioner_D = np.empty(width, np.float32)
    largest = common[0].max()
    for row in range(first, stop):
        begin, end = offsets[row], offsets[row + 1]
        n_events = end - begin
        # the smallest regularization that has an effect in float32
        ridge = max(ridges[row], largest * width * EPSILON)
        for d in range(width):
            x_D[d] = out[row, d]
            preconditioner_D[d] = common[0, d] + ridge
            residual_D[d] = -preconditioner_D[d] * x_D[d]
        for e in range(n_events):
            vector, row_vector = vectors[columns[begin + e]], row_vectors[e]
            total = np.float32(0.0)
            for d in range(width):
                row_vector[d] = vector[d]
                total += vector[d] * x_D[d]
            predictions[e] = total
            total = targets[begin + e] - weights[begin + e] * total
            for d in range(width):
                residual_D[d] += total * vector[d]
        residual_norm = np.float32(0.0)
        for d in range(width):
            p_D[d] = residual_D[d] / preconditioner_D[d]
            residual_norm += residual_D[d] * p_D[d]
        stop_norm = max(TOLERANCE * residual_norm, np.float32(1e-20))
        for _ in range(steps):
            if residual_norm <= stop_norm:
                break
            _multiply_by_matrix(row_vectors[:n_events], weights[begin:end], preconditioner_D, p_D, p_products, A_p_D)
            curvature = np.float32(0.0)
            for d in range(width):
                curvature += p_D[d] * A_p_D[d]
            alpha, previous = residual_norm / curvature, residual_norm
            for e in range(n_events):
                predictions[e] += alpha * p_products[e]
            residual_norm = np.float32(0.0)
            for d in range(width):
                x_D[d] += alpha * p_D[d]
                residual_D[d] -= alpha * A_p_D[d]
                residual_norm += residual_D[d] * residual_D[d] / preconditioner_D[d]
            for d in range(width):
                p_D[d] = residual_D[d] / preconditioner_D[d] + residual_norm / previous * p_D[d]
        gain = np.float32(0.0)
        for e in range(n_events):
            gain += targets[begin + e] * predictions[e]
        for d in range(width):
            gain += x_D[d] * residual_D[d]
            out[row, d] = x_D[d]
        gains[row] = gain
