"""Small ridge regressions brought nearer to their solutions by conjugate gradients (Takács, Pilászy and Tikk 2011,
doi:10.1145/2043932.2043987), in the axes of what they have in common.

For each row the problem is that of :func:`segue.solvers.ridge.solve_rows`. A few steps from where the row
stands cost D for each event instead of D², and never make the objective larger; so many as it takes lead to the
solution. Where all rows share a matrix, its eigenvectors are taken for axes: there it is a diagonal, and with the ridge
the preconditioner (Golub and Van Loan 2013, section 11.5), which spares every second step.

Shapes: R rows, T events, C columns, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segue.core.numba_kernels import summing_kernel
from segue.core.types import Codes, Scores
from segue.solvers.iterative_solver import IMPROVES, improved

__all__ = ["Fixed", "approached", "reached"]

EPSILON = np.finfo(np.float32).eps

ENOUGH = np.float32(1e-12)
"""Of the square of what was missing in the beginning: less is not worth a step."""


@dataclass(frozen=True, eq=False)
class Fixed:
    """The side that is not solved: its vectors, and the matrix that all rows share, in that matrix's own axes."""

    vectors_CD: Scores
    diagonal_1D: Scores
    """``(1, D)`` what is left of the shared matrix."""
    axes_DD: Scores | None
    """One axis a column; none: those that the vectors came in."""

    @classmethod
    def of(cls, vectors_CD: Scores, common_DD: Scores | None = None) -> Fixed:
        """``common_DD`` is added to the matrix of every row; none: 0."""
        if common_DD is None:
            return cls(vectors_CD, np.zeros((1, vectors_CD.shape[1]), np.float32), None)
        lengths_D, axes_DD = np.linalg.eigh(common_DD)
        diagonal_1D = np.maximum(lengths_D, 0.0)[None]  # below zero by rounding alone
        return cls(np.ascontiguousarray(vectors_CD @ axes_DD), diagonal_1D, axes_DD)


def approached(
    steps: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    weights_T: Scores,
    sides_T: Scores,
    fixed: Fixed,
    rows_RD: Scores,
    *,
    ridge_R: Scores,
) -> tuple[Scores, Scores]:
    """``(R, D)`` better rows than ``rows_RD``, and ``(R,)`` what their objective is below that of zero.

    Args:
        steps: of conjugate gradients for each row, fewer where a row is there.
        offsets: ``(R + 1,)`` the events of row r are ``offsets[r]:offsets[r + 1]``.
        columns: ``(T,)`` the column of each event.
        weights_T: not negative.
        sides_T: right sides.
        ridge_R: of each row, in all dimensions.
    """
    begun_RD = rows_RD if fixed.axes_DD is None else rows_RD @ fixed.axes_DD
    problem = offsets, columns, weights_T, sides_T, fixed.vectors_CD, begun_RD
    found_RD, gains_R = improved(_approach, steps, *problem, ridge_R=ridge_R, common=fixed.diagonal_1D)
    return (found_RD if fixed.axes_DD is None else found_RD @ fixed.axes_DD.T), gains_R


def reached(
    offsets: NDArray[np.int64],
    columns: Codes,
    weights_T: Scores,
    sides_T: Scores,
    fixed: Fixed,
    *,
    ridge_R: Scores,
) -> Scores:
    """``(R, D)`` the solution of every row but for rounding: from zero, so many steps as it takes.

    A dozen are enough for a hundred dimensions where a matrix is shared. For the arguments see :func:`approached`.
    """
    width = fixed.vectors_CD.shape[1]
    begun_RD = np.zeros((len(offsets) - 1, width), np.float32)
    return approached(8 * width, offsets, columns, weights_T, sides_T, fixed, begun_RD, ridge_R=ridge_R)[0]


@summing_kernel(*IMPROVES)
def _approach(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    weights: Scores,
    sides: Scores,
    vectors: Scores,
    ridges: Scores,
    common: Scores,
    steps: int,
    out: Scores,
    gains: Scores,
) -> None:
    """Rows ``first:stop`` in place, for :func:`segue.solvers.iterative_solver.improved`.

    Args:
        common: ``(1, D)`` the diagonal of a matrix that has nothing else.
    """
    width = vectors.shape[1]
    longest = 1
    for row in range(first, stop):
        longest = max(longest, offsets[row + 1] - offsets[row])
    gathered = np.empty((longest, width), np.float32)
    products, along = np.empty(longest, np.float32), np.empty(longest, np.float32)
    here, left, near = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    step, bent = np.empty(width, np.float32), np.empty(width, np.float32)
    largest = common[0].max()
    for row in range(first, stop):
        begin, count = offsets[row], offsets[row + 1] - offsets[row]
        fours = count // 4 * 4
        # less than this is nothing beside the largest number
        ridge = max(ridges[row], largest * width * EPSILON)
        for d in range(width):
            here[d] = out[row, d]
            near[d] = common[0, d] + ridge
            left[d] = -near[d] * here[d]
        for e in range(count):
            z, seen = vectors[columns[begin + e]], gathered[e]
            total = np.float32(0.0)
            for d in range(width):
                seen[d] = z[d]
                total += z[d] * here[d]
            products[e] = total
            total = sides[begin + e] - weights[begin + e] * total
            for d in range(width):
                left[d] += total * z[d]
        square = np.float32(0.0)
        for d in range(width):
            step[d] = left[d] / near[d]
            square += left[d] * step[d]
        enough = max(ENOUGH * square, np.float32(1e-20))
        for _ in range(steps):
            if square <= enough:
                break
            for d in range(width):
                bent[d] = near[d] * step[d]
            for e in range(0, fours, 4):  # four at once, which spares three in four ways to memory
                z1, z2, z3, z4 = gathered[e], gathered[e + 1], gathered[e + 2], gathered[e + 3]
                t1, t2, t3, t4 = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
                for d in range(width):
                    t1 += z1[d] * step[d]
                    t2 += z2[d] * step[d]
                    t3 += z3[d] * step[d]
                    t4 += z4[d] * step[d]
                along[e], along[e + 1], along[e + 2], along[e + 3] = t1, t2, t3, t4
                at = begin + e
                t1, t2, t3, t4 = t1 * weights[at], t2 * weights[at + 1], t3 * weights[at + 2], t4 * weights[at + 3]
                for d in range(width):
                    bent[d] += t1 * z1[d] + t2 * z2[d] + t3 * z3[d] + t4 * z4[d]
            for e in range(fours, count):
                total = np.float32(0.0)
                for d in range(width):
                    total += gathered[e, d] * step[d]
                along[e] = total
                total *= weights[begin + e]
                for d in range(width):
                    bent[d] += total * gathered[e, d]
            curvature = np.float32(0.0)
            for d in range(width):
                curvature += step[d] * bent[d]
            far, before = square / curvature, square
            for e in range(count):
                products[e] += far * along[e]
            square = np.float32(0.0)
            for d in range(width):
                here[d] += far * step[d]
                left[d] -= far * bent[d]
                square += left[d] * left[d] / near[d]
            for d in range(width):
                step[d] = left[d] / near[d] + square / before * step[d]
        gain = np.float32(0.0)
        for e in range(count):
            gain += sides[begin + e] * products[e]
        for d in range(width):
            gain += here[d] * left[d]
            out[row, d] = here[d]
        gains[row] = gain
