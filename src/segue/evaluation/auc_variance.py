"""Intervals and paired tests of the area under the ROC curve.

DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595; computed from ranks as by Sun and Xu 2014,
doi:10.1109/LSP.2014.2337313.

Shapes: T examples, M models, P positive and Q negative examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from segue.evaluation.bootstrap import CONFIDENCE, Estimate

__all__ = ["auc_difference", "auc_estimate", "mean_auc_estimate"]

ROUNDING = 1e-15
"""Differences and variances up to this size are rounding errors."""


def auc_estimate(labels_T: NDArray[Any], scores_T: NDArray[Any]) -> Estimate:
    """Return the AUC with its interval over independent examples.

    Raises:
        ValueError: all labels are equal.
    """
    areas_M, covariance_MM = _delong(labels_T, np.asarray(scores_T)[None])
    return _estimate(float(areas_M[0]), float(covariance_MM[0, 0]), 0.0, 1.0)


def mean_auc_estimate(labels_T: NDArray[Any], scores_MT: NDArray[Any]) -> Estimate:
    """Return the mean AUC of several models, such as those of several seeds.

    The interval is over the examples.

    The models scored the same examples, ``(M, T)``.

    Raises:
        ValueError: all labels are equal.
    """
    areas_M, covariance_MM = _delong(labels_T, np.asarray(scores_MT))
    return _estimate(float(areas_M.mean()), float(covariance_MM.mean()), 0.0, 1.0)


def auc_difference(labels_T: NDArray[Any], first_T: NDArray[Any], second_T: NDArray[Any]) -> tuple[Estimate, float]:
    """Return the difference of the AUC of two models, and its p-value.

    The difference is that of the first model minus that of the second, with its interval; the p-value is that of
    equality. Both models scored the same examples. Either may be several models, ``(M, T)``, such as those of several
    seeds, whose mean AUC is compared.

    Raises:
        ValueError: all labels are equal.
    """
    first_MT, second_MT = np.atleast_2d(first_T), np.atleast_2d(second_T)
    areas_M, covariance_MM = _delong(labels_T, np.concatenate([first_MT, second_MT]))
    weights_M = np.repeat([1 / len(first_MT), -1 / len(second_MT)], [len(first_MT), len(second_MT)])
    variance = float(weights_M @ covariance_MM @ weights_M)
    difference = float(areas_M[: len(first_MT)].mean() - areas_M[len(first_MT) :].mean())
    found = _estimate(difference, variance, -1.0, 1.0)
    if variance <= ROUNDING:
        return found, 1.0 if abs(difference) <= ROUNDING else 0.0
    return found, float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def _estimate(mean: float, variance: float, lowest: float, highest: float) -> Estimate:
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(max(0.0, variance)))
    return Estimate(mean, max(lowest, mean - half), min(highest, mean + half))


def _delong(labels_T: NDArray[Any], scores_MT: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the areas ``(M,)`` and their covariance ``(M, M)``."""
    is_positive_T = np.asarray(labels_T).astype(np.bool_)
    n_positive, n_negative = int(is_positive_T.sum()), int((~is_positive_T).sum())
    if not n_positive or not n_negative:
        raise ValueError(f"labels: all {len(labels_T)} are equal, expected positive and negative ones")
    ranks_MT = rankdata(scores_MT, axis=1)
    # the share of negative examples below each positive one, and of positive examples above each negative one
    above_MP = (ranks_MT[:, is_positive_T] - rankdata(scores_MT[:, is_positive_T], axis=1)) / n_negative
    below_MQ = 1 - (ranks_MT[:, ~is_positive_T] - rankdata(scores_MT[:, ~is_positive_T], axis=1)) / n_positive
    covariance_MM = np.zeros((len(scores_MT), len(scores_MT)))
    for values, count in ((above_MP, n_positive), (below_MQ, n_negative)):
        if count > 1:
            covariance_MM += np.atleast_2d(np.cov(values)) / count
    return above_MP.mean(1), covariance_MM
