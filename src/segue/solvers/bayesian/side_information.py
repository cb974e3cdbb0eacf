"""What sparse features say of rows of factors, drawn with the factors (cf. Simm et al. 2015, arXiv:1509.04610).

A row is normal about ``m + sum_j w_r b_j`` over the features j it has, with precision matrix L; each b_j is normal
about zero with precision s L. Given all others, b_j is normal too, with precision ``(s + sum_r w_r²) L``: no equations
need to be solved, and a draw of all features costs what a sum over them costs.

Shapes: R rows, F features, E pairs of a row and a feature it has, D width.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import read, summing_kernel, written
from segue.core.types import Codes, Scores

__all__ = ["draw_links"]


@summing_kernel(
    read(int64),
    read(int32),
    read(float32),
    float32,
    read(float32, 2),
    written(float32, 2),
    written(float32, 2),
)
def draw_links(
    offsets: NDArray[np.int64],
    rows: Codes,
    weights: Scores,
    ridge: np.float32,
    noise_FD: Scores,
    apart_RD: Scores,
    links_FD: Scores,
) -> None:
    """Draw every b_j in turn, in place.

    Args:
        offsets: ``(F + 1,)`` the rows that have feature j are ``rows[offsets[j]:offsets[j + 1]]``.
        rows: ``(E,)``
        weights: ``(R,)`` w.
        ridge: s.
        noise_FD: normal with precision L.
        apart_RD: the rows less m less what the features say; changed in place.
        links_FD: b; changed in place.
    """
    width = links_FD.shape[1]
    step = np.empty(width, np.float32)
    for j in range(len(offsets) - 1):
        begin, stop = offsets[j], offsets[j + 1]
        own = links_FD[j]
        total = np.float32(0.0)
        step[:] = np.float32(0.0)
        for e in range(begin, stop):
            weight, apart = weights[rows[e]], apart_RD[rows[e]]
            total += weight * weight
            for d in range(width):
                step[d] += weight * apart[d]
        precision = total + ridge
        root = np.sqrt(precision)
        for d in range(width):
            drawn = (step[d] + total * own[d]) / precision + noise_FD[j, d] / root
            step[d] = drawn - own[d]
            own[d] = drawn
        for e in range(begin, stop):
            weight, apart = weights[rows[e]], apart_RD[rows[e]]
            for d in range(width):
                apart[d] -= weight * step[d]
