"""Sample link vectors, by which sparse features shift the mean of factor rows.

Cf. Simm et al. 2015, arXiv:1509.04610.

A row is normal with mean ``m + sum_j w_r b_j`` over its features j and precision matrix L; each b_j is normal with mean
zero and precision s L. Given all others, b_j is normal with precision ``(s + sum_r w_r²) L``: no equations have to be
solved, and sampling the vectors of all features costs as much as one pass over the pairs.

Shapes: R rows, F features, E pairs of a row and a feature, D dimensions.
"""

from __future__ import annotations

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray

from segue.core.numba_kernels import fastmath_kernel, input_array, output_array
from segue.core.types import Codes, Scores

__all__ = ["sample_link_matrix"]


@fastmath_kernel(
    input_array(int64),
    input_array(int32),
    input_array(float32),
    float32,
    input_array(float32, 2),
    output_array(float32, 2),
    output_array(float32, 2),
)
def sample_link_matrix(
    offsets: NDArray[np.int64],
    rows: Codes,
    weights: Scores,
    prior_precision: np.float32,
    noise_FD: Scores,
    residuals_RD: Scores,
    links_FD: Scores,
) -> None:
    """Sample all b_j in turn, in place.

    Args:
        offsets: ``(F + 1,)`` the rows with feature j are ``rows[offsets[j]:offsets[j + 1]]``.
        rows: ``(E,)`` rows of each feature.
        weights: ``(R,)`` w.
        prior_precision: s.
        noise_FD: normal with precision L.
        residuals_RD: rows minus m minus the sum of their links; updated in place.
        links_FD: b; updated in place.
    """
    width = links_FD.shape[1]
    change_D = np.empty(width, np.float32)
    for j in range(len(offsets) - 1):
        begin, stop = offsets[j], offsets[j + 1]
        link_D = links_FD[j]
        squared_weights = np.float32(0.0)
        change_D[:] = np.float32(0.0)
        for e in range(begin, stop):
            weight, residual_D = weights[rows[e]], residuals_RD[rows[e]]
            squared_weights += weight * weight
            for d in range(width):
                change_D[d] += weight * residual_D[d]
        precision = squared_weights + prior_precision
        precision_root = np.sqrt(precision)
        for d in range(width):
            new_value = (change_D[d] + squared_weights * link_D[d]) / precision + noise_FD[j, d] / precision_root
            change_D[d] = new_value - link_D[d]
            link_D[d] = new_value
        for e in range(begin, stop):
            weight, residual_D = weights[rows[e]], residuals_RD[rows[e]]
            for d in range(width):
                residual_D[d] -= weight * change_D[d]
