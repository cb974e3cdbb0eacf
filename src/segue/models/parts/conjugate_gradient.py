"""Small ridge regressions brought nearer to their solutions by conjugate gradients (Takács, Pilászy and Tikk 2011,
doi:10.1145/2043932.2043987).

For each row the problem is that of :func:`segue.models.parts.least_squares.solve_rows`. A few steps from where the row
stands cost D for each event instead of D², and never make the objective larger.

Shapes: R rows, T events, C columns, D width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.compiled import summing_kernel
from segue.core.types import Codes, Scores
from segue.models.parts.improvement import IMPROVES

__all__ = ["approach"]


@summing_kernel(*IMPROVES)
def approach(
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
    """Rows ``first:stop`` in place, for :func:`segue.models.parts.improvement.improved`.

    Args:
        steps: of conjugate gradients; after D of them, but for rounding, the solution is exact.
    """
    width = vectors.shape[1]
    longest = 1
    for row in range(first, stop):
        longest = max(longest, offsets[row + 1] - offsets[row])
    gathered = np.empty((longest, width), np.float32)
    side, left = np.empty(width, np.float32), np.empty(width, np.float32)
    step, bent = np.empty(width, np.float32), np.empty(width, np.float32)
    for row in range(first, stop):
        begin, count = offsets[row], offsets[row + 1] - offsets[row]
        own, ridge = out[row], ridges[row]
        np.dot(common, own, left)
        for d in range(width):
            left[d] = -left[d] - ridge * own[d]
            side[d] = 0.0
        for e in range(count):
            total = np.float32(0.0)
            for d in range(width):
                z = vectors[columns[begin + e], d]
                gathered[e, d] = z
                total += z * own[d]
            total = sides[begin + e] - weights[begin + e] * total
            for d in range(width):
                left[d] += total * gathered[e, d]
                side[d] += sides[begin + e] * gathered[e, d]
        square = np.float32(0.0)
        for d in range(width):
            step[d] = left[d]
            square += left[d] * left[d]
        for _ in range(steps):
            if square < np.float32(1e-20):
                break
            np.dot(common, step, bent)
            for d in range(width):
                bent[d] += ridge * step[d]
            for e in range(count):
                total = np.float32(0.0)
                for d in range(width):
                    total += gathered[e, d] * step[d]
                total *= weights[begin + e]
                for d in range(width):
                    bent[d] += total * gathered[e, d]
            curvature = np.float32(0.0)
            for d in range(width):
                curvature += step[d] * bent[d]
            far, before = square / curvature, square
            square = np.float32(0.0)
            for d in range(width):
                own[d] += far * step[d]
                left[d] -= far * bent[d]
                square += left[d] * left[d]
            for d in range(width):
                step[d] = left[d] + square / before * step[d]
        gain = np.float32(0.0)
        for d in range(width):
            gain += own[d] * (side[d] + left[d])
        gains[row] = gain
