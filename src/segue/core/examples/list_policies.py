"""Compute with which probability a policy shows a candidate at a position.

Shapes: Q queries, C candidates, K positions, X nodes of an integral.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from segue.core.numba_kernels import kernel

__all__ = ["plackett_luce", "top_k"]

STEP = 0.25
"""Distance of the nodes. The error of the trapezoidal rule is about ``exp(-pi ** 2 / STEP)``, 1e-17."""
LEFT, RIGHT = 36.0, 4.0
"""Range of the integral beyond the logarithms of the smallest and largest rate: the density is below 1e-15 there."""

MAX_SPREAD = 10_000.0
"""Largest difference of the scores of a query, in units of the temperature: the number of nodes grows with it."""

Values = NDArray[np.float64]


def top_k(scores_QC: NDArray[Any], k: int) -> Values:
    """Return the probabilities of the ``k`` best candidates in order, ``(Q, C, K)``.

    They are 0 and 1.

    Equal scores keep the order of the candidates; candidates with a score of minus infinity are not shown.
    """
    order_QC = np.argsort(-scores_QC, axis=1, kind="stable")[:, :k]
    found_QCK = np.zeros((*scores_QC.shape, k))
    rows, ranks = np.nonzero(np.take_along_axis(scores_QC, order_QC, axis=1) > -np.inf)
    found_QCK[rows, order_QC[rows, ranks], ranks] = 1.0
    return found_QCK


def plackett_luce(scores_QC: NDArray[Any], k: int, temperature: float = 1.0) -> Values:
    """Return the probabilities of lists that are drawn by softmax, ``(Q, C, K)``.

    Lists are drawn without replacement: the first item with probabilities proportional to ``exp(score / temperature)``,
    the next from the other candidates likewise (Plackett 1975, doi:10.2307/2346567). Candidates with a score of minus
    infinity are never drawn.

    The order of independent exponential times with these rates is such a list, so that the probability of position k is
    an integral over the time of the candidate: that k - 1 others are earlier.

    Raises:
        ValueError: the temperature is far below the differences of the scores.
    """
    scaled_QC = np.asarray(scores_QC, np.float64) / temperature
    is_empty_Q = scaled_QC.max(axis=1) == -np.inf
    log_rates_QC = log_softmax(np.where(is_empty_Q[:, None], 0.0, scaled_QC), axis=1)
    log_rates_QC[is_empty_Q] = -np.inf
    if k == 1:
        return np.exp(log_rates_QC)[:, :, None]
    spread = float(-log_rates_QC.min(where=log_rates_QC > -np.inf, initial=0.0))
    if spread > MAX_SPREAD:
        raise ValueError(
            f"temperature: got {temperature:g}, with which scores of a query differ by {spread:,.0f}, expected at most "
            f"{MAX_SPREAD:,.0f}; leave it out to show the best items in order"
        )
    found_QCK = np.zeros((*log_rates_QC.shape, k))
    _integrate(log_rates_QC, found_QCK)
    return found_QCK


@kernel
def _integrate(log_rates_QC: Values, found_QCK: Values) -> None:
    n_queries, n_candidates, n_positions = found_QCK.shape
    before = np.zeros((n_candidates + 1, n_positions))  # probability of n earlier ones among the first candidates
    after = np.zeros((n_candidates + 1, n_positions))  # and among the last ones
    for q in range(n_queries):
        low, high = np.inf, -np.inf
        for c in range(n_candidates):
            if log_rates_QC[q, c] > -np.inf:
                low, high = min(low, log_rates_QC[q, c]), max(high, log_rates_QC[q, c])
        if high == -np.inf:
            continue
        for x in range(int((LEFT + RIGHT + high - low) / STEP) + 1):
            log_time = -high - LEFT + x * STEP
            before[0, :] = 0.0
            before[0, 0] = 1.0
            after[n_candidates, :] = 0.0
            after[n_candidates, 0] = 1.0
            for c in range(n_candidates):
                is_later = np.exp(-np.exp(log_rates_QC[q, c] + log_time))
                for n in range(n_positions):
                    before[c + 1, n] = before[c, n] * is_later
                    if n:
                        before[c + 1, n] += before[c, n - 1] * (1.0 - is_later)
            for c in range(n_candidates - 1, -1, -1):
                is_later = np.exp(-np.exp(log_rates_QC[q, c] + log_time))
                for n in range(n_positions):
                    after[c, n] = after[c + 1, n] * is_later
                    if n:
                        after[c, n] += after[c + 1, n - 1] * (1.0 - is_later)
            for c in range(n_candidates):
                if log_rates_QC[q, c] + log_time > RIGHT:
                    continue
                rate = np.exp(log_rates_QC[q, c] + log_time)
                density = STEP * rate * np.exp(-rate)
                for n in range(n_positions):
                    for m in range(n + 1):
                        found_QCK[q, c, n] += density * before[c, m] * after[c + 1, n - m]
