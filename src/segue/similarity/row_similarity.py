"""Compare rows of a sparse matrix: items by their users, or users by their items.

Each exported function is a similarity measure, selected by its name. Rows without a common column have similarity 0
by every measure; so have orthogonal rows by cosine, tanimoto and correlations, although their sums of products have
rounding errors. A distance d becomes the similarity ``1 / (1 + d)``. ``shrink`` reduces similarities with little
support (Bell and Koren 2007, doi:10.1109/ICDM.2007.90): it is added to the denominator of cosine, tanimoto, jaccard,
dice, conditional and log_likelihood; other measures are multiplied by ``n / (n + shrink)``, with n the number of common
columns.

Shapes: P pairs of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Scores
from segue.similarity.row_pairs import CoOccurrencePairs, zero_rounding_errors

__all__ = [
    "adjusted_cosine",
    "conditional",
    "cosine",
    "dice",
    "euclidean",
    "hamming",
    "jaccard",
    "log_likelihood",
    "manhattan",
    "msd",
    "pearson",
    "spearman",
    "tanimoto",
]

FLAT = 1e-9
"""Variances below this share of the mean square are rounding errors."""


def cosine(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute the cosine of two rows, with absent cells as 0."""
    return _ratio(pairs.dot, pairs.left("l2_norms") * pairs.right("l2_norms") + np.float32(shrink))


def adjusted_cosine(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute the cosine over common columns of values minus their column mean.

    For items this removes differences in how generously users rate (Sarwar et al. 2001, eq. 2,
    doi:10.1145/371920.372071).
    """
    sums = pairs.moments("centered")
    norms_P = np.sqrt(sums.xx * sums.yy)
    return _ratio(zero_rounding_errors(sums.xy, norms_P), norms_P) * _shrinkage(pairs.n_common, shrink)


def pearson(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute the correlation over common columns; 0 where a row is constant there."""
    return _correlation(pairs, "values", shrink)


def spearman(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute the rank correlation over common columns.

    Ranks are taken among all values of a row; equal values share their mean rank.
    """
    return _correlation(pairs, "ranks", shrink)


def jaccard(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Divide the number of common columns by that of columns of either row."""
    n_common = pairs.n_common
    return _ratio(n_common, pairs.left("counts") + pairs.right("counts") - n_common + np.float32(shrink))


def dice(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Divide the number of common columns by the mean number of columns of both rows."""
    return _ratio(2 * pairs.n_common, pairs.left("counts") + pairs.right("counts") + np.float32(shrink))


def tanimoto(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute ``x.y / (|x|² + |y|² - x.y)``, Jaccard similarity for real values.

    After Rogers and Tanimoto 1960, doi:10.1126/science.132.3434.1115.
    """
    return _ratio(pairs.dot, pairs.left("squared_norms") + pairs.right("squared_norms") - pairs.dot + shrink)


def conditional(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Divide the number of common columns by that of the reference row's columns.

    This is the only asymmetric measure (Deshpande and Karypis 2004, eq. 2).
    """
    return _ratio(pairs.n_common, pairs.right("counts") + np.float32(shrink))


def log_likelihood(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute ``G / (1 + G)``, with G the log-likelihood ratio of co-occurrence.

    It is 0 where rows share no more columns than expected by chance (Dunning 1993, aclanthology.org/J93-1003).
    """
    n_common = pairs.n_common.astype(np.float64)
    left_counts, right_counts = pairs.left("counts").astype(np.float64), pairs.right("counts").astype(np.float64)
    # query rows may have columns that no reference row has
    total: NDArray[np.float64] = np.maximum(
        float(pairs.query_rows.n_nonempty_columns), left_counts + right_counts - n_common
    )
    joint_entropy = _n_log_n(
        n_common, left_counts - n_common, right_counts - n_common, total - left_counts - right_counts + n_common
    )
    marginal_entropy = (
        _n_log_n(left_counts, total - left_counts) + _n_log_n(right_counts, total - right_counts) - _n_log_n(total)
    )
    g = np.maximum(2.0 * (joint_entropy - marginal_entropy), 0.0)
    g[n_common * total <= left_counts * right_counts] = 0.0
    return _ratio(g, 1.0 + g + shrink)


def euclidean(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute a similarity from the Euclidean distance, with absent cells as 0."""
    squares = pairs.left("squared_norms") + pairs.right("squared_norms") - 2.0 * pairs.dot
    return _similarity_of_distance(np.sqrt(np.maximum(squares, 0.0)), pairs.n_common, shrink)


def manhattan(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute a similarity from the sum of absolute differences.

    Absent cells count as 0.
    """
    distance = pairs.left("l1_norms") + pairs.right("l1_norms") - pairs.pairwise_sum("overlap", "values")
    return _similarity_of_distance(np.maximum(distance, 0.0), pairs.n_common, shrink)


def hamming(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute a similarity from the number of columns in which the rows differ.

    A stored cell differs from an absent one, even if it holds 0.
    """
    n_equal = (
        pairs.n_common
        if pairs.query_rows.is_binary and pairs.reference_rows.is_binary
        else pairs.pairwise_sum("matches", "values")
    )
    return _similarity_of_distance(
        pairs.left("counts") + pairs.right("counts") - pairs.n_common - n_equal, pairs.n_common, shrink
    )


def msd(pairs: CoOccurrencePairs, shrink: float) -> Scores:
    """Compute a similarity from the mean squared difference over common columns.

    Shardanand and Maes 1995, doi:10.1145/223904.223931.
    """
    return _similarity_of_distance(
        pairs.pairwise_sum("squared_difference", "values") / pairs.n_common, pairs.n_common, shrink
    )


def _correlation(pairs: CoOccurrencePairs, transform: Any, shrink: float) -> Scores:
    sums, n = pairs.moments(transform), pairs.n_common.astype(np.float64)
    variance_x, variance_y = sums.xx - sums.x * sums.x / n, sums.yy - sums.y * sums.y / n
    variance_x[variance_x <= FLAT * sums.xx] = 0.0
    variance_y[variance_y <= FLAT * sums.yy] = 0.0
    norms_P = np.sqrt(variance_x * variance_y)
    covariance_P = zero_rounding_errors(sums.xy - sums.x * sums.y / n, norms_P)
    clipped: Scores = np.clip(_ratio(covariance_P, norms_P) * _shrinkage(pairs.n_common, shrink), -1.0, 1.0)
    return clipped


def _n_log_n(*counts: NDArray[np.float64]) -> Any:
    """Return the sum of n ln n."""
    return sum(n * np.log(np.maximum(n, 1.0)) for n in counts)


def _similarity_of_distance(distance: NDArray[Any], n_common: Scores, shrink: float) -> Scores:
    """Compute ``1 / (1 + distance)``, shrunk by the number of common columns."""
    return (1.0 / (1.0 + distance)).astype(np.float32) * _shrinkage(n_common, shrink)


def _shrinkage(n_common: Scores, shrink: float) -> Scores:
    """Return ``n / (n + shrink)``."""
    shrinkage: Scores = n_common / (n_common + np.float32(shrink))
    return shrinkage


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Scores:
    """Divide, and return 0 where the denominator is not positive."""
    ratio: Scores = np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0).astype(
        np.float32
    )
    return ratio
