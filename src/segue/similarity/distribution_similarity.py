"""Compare rows of a sparse matrix as probability distributions.

Values are divided by the sum of their row: for example how often an item got each rating, or the share of each genre
in a history. Each exported function is a similarity measure, selected by its name. A similarity is multiplied by
``n / (n + shrink)``, where n is the smaller of the sums of the two rows.

Shapes: P pairs of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Scores
from segue.similarity.row_pairs import CoOccurrencePairs

__all__ = ["bhattacharyya", "jensen_shannon", "kullback_leibler"]


def bhattacharyya(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute the Bhattacharyya coefficient, the sum of ``sqrt(p q)``.

    It is 1 for equal distributions (Bhattacharyya 1943; for ratings: Patra et al. 2015,
    doi:10.1016/j.knosys.2015.03.001).
    """
    return _shrink(pairs.products("sqrt_proportions", "sqrt_proportions"), pairs, shrink)


def jensen_shannon(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute 1 minus the Jensen-Shannon divergence in bits.

    Lin 1991, doi:10.1109/18.61115.
    """
    return _shrink(np.maximum(pairs.pairwise_sum("jensen_shannon", "proportions"), 0.0), pairs, shrink)


def kullback_leibler(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute ``exp(-d)``, where d is a symmetric Kullback-Leibler divergence.

    d is the mean of the divergences in both directions.

    Both distributions are first mixed with one tenth of the uniform distribution (Kullback and Leibler 1951,
    doi:10.1214/aoms/1177729694).
    """
    # an empty cell e adds log(p/e) = 0 and p - e = 0, so sums over the stored cells are enough
    cross_terms_P = pairs.products("smoothed_proportions", "log_proportions") + pairs.products(
        "log_proportions", "smoothed_proportions"
    )
    divergence_P = pairs.left("information") + pairs.right("information") - cross_terms_P
    return _shrink(np.exp(-0.5 * np.maximum(divergence_P, 0.0)), pairs, shrink)


def _shrink(similarity_P: NDArray[np.float64], pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Multiply by ``n / (n + shrink)``, with n the smaller sum of the two rows."""
    support_P: NDArray[Any] = np.minimum(pairs.left("sums"), pairs.right("sums"))
    weights_P = np.divide(support_P, support_P + shrink, out=np.zeros_like(support_P), where=support_P > 0)
    result: Scores = (similarity_P * weights_P).astype(np.float32)
    return result
