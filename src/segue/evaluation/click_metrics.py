"""Metrics of predicted labels, such as clicks or likes: areas under the ROC curve.

The area under the ROC curve (AUC) is the probability that a positive event has a higher score than a negative one; ties
count half. Over all events it also rewards knowing which users like more. Averages over users do not: each user's area
is computed from their own events, and users without both labels are left out.

Shapes: T events, U users with both labels.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = [
    "auc",
    "average_precision",
    "best_threshold",
    "calibration_error",
    "f1",
    "gauc",
    "log_loss",
    "reliability",
    "uauc",
    "user_aucs",
]

Values: TypeAlias = NDArray[np.float64]


def auc(labels_T: NDArray[Any], scores_T: NDArray[Any]) -> float:
    """Compute the area under the ROC curve of all events.

    Raises:
        ValueError: the lengths differ, a label is not 0 or 1, a score is not finite, or all labels are equal.
    """
    labels_T = _check(labels_T, scores_T)
    if labels_T.all() or not labels_T.any():
        raise ValueError(f"labels: all {len(labels_T)} are equal, expected positive and negative ones")
    return float(_areas(labels_T, scores_T, np.zeros(len(labels_T), np.int64))[1][0])


def user_aucs(
    users_T: NDArray[Any], labels_T: NDArray[Any], scores_T: NDArray[Any]
) -> tuple[NDArray[Any], Values, NDArray[np.int64]]:
    """Compute the AUC of each user with both labels.

    Returns:
        the users in ascending order ``(U,)``, their AUC, and their number of events.

    Raises:
        ValueError: as :func:`auc`, but all labels may be equal.
    """
    labels_T = _check(labels_T, scores_T)
    if len(users_T) != len(labels_T):
        raise ValueError(f"users: got {len(users_T)} for {len(labels_T)} labels, expected one per label")
    users, rows_T = np.unique(users_T, return_inverse=True)
    has_both, areas, counts = _areas(labels_T, scores_T, rows_T)
    return users[has_both], areas, counts[has_both]


def uauc(users_T: NDArray[Any], labels_T: NDArray[Any], scores_T: NDArray[Any]) -> float:
    """Compute the mean AUC of users, each counting equally.

    Users without both labels are left out.

    It is the UAUC of CoLLM (Zhang et al. 2023, arXiv:2310.19488; ``uAUC_me`` in its code).

    Raises:
        ValueError: as :func:`user_aucs`, or no user has both labels.
    """
    return float(_some(user_aucs(users_T, labels_T, scores_T)[1]).mean())


def gauc(users_T: NDArray[Any], labels_T: NDArray[Any], scores_T: NDArray[Any]) -> float:
    """Compute the mean AUC of users, weighted by their number of events.

    Users without both labels are left out.

    It is the GAUC of DIN (Zhou et al. 2018, arXiv:1706.06978).

    Raises:
        ValueError: as :func:`user_aucs`, or no user has both labels.
    """
    _, areas, counts = user_aucs(users_T, labels_T, scores_T)
    return float(np.average(_some(areas), weights=counts))


def log_loss(labels_T: NDArray[Any], probabilities_T: NDArray[Any]) -> float:
    """Compute the mean negative log-likelihood of the labels, in nats.

    It is infinite if a label has probability 0.

    Raises:
        ValueError: as :func:`user_aucs`, there is no label, or a probability is outside 0 to 1.
    """
    labels_T = _check(labels_T, probabilities_T)
    if not len(labels_T):
        raise ValueError("labels: got none, expected at least one")
    outside = np.flatnonzero((probabilities_T < 0) | (probabilities_T > 1))
    if len(outside):
        raise ValueError(f"probabilities: got {probabilities_T[outside[0]]} at index {outside[0]}, expected 0 to 1")
    likelihoods_T = np.where(labels_T, probabilities_T, 1.0 - np.asarray(probabilities_T, np.float64))
    with np.errstate(divide="ignore"):
        return float(-np.log(likelihoods_T).mean())


def average_precision(labels_T: NDArray[Any], scores_T: NDArray[Any]) -> float:
    """Compute the area under the curve of precision and recall.

    It is the mean precision at the positive events.

    Events with equal scores count as one step. The area of random scores is the share of positive events.

    Raises:
        ValueError: as :func:`auc`, or no label is positive.
    """
    labels_T = _check(labels_T, scores_T)
    if not labels_T.any():
        raise ValueError(f"labels: none of {len(labels_T)} is positive, expected at least one")
    hits, counts = _steps(labels_T, scores_T)
    return float((np.diff(hits, prepend=0) * hits / counts).sum() / hits[-1])


def f1(labels_T: NDArray[Any], scores_T: NDArray[Any], threshold: float) -> float:
    """Compute the harmonic mean of precision and recall at a threshold.

    Events with at least a score of ``threshold`` are predicted as positive.

    It is 0 if no positive event is found.
    """
    labels_T = _check(labels_T, scores_T)
    is_found_T = np.asarray(scores_T) >= threshold
    return float(2 * (labels_T & is_found_T).sum() / max(1, labels_T.sum() + is_found_T.sum()))


def best_threshold(labels_T: NDArray[Any], scores_T: NDArray[Any]) -> float:
    """Return the score from which :func:`f1` is highest; the highest such score."""
    labels_T = _check(labels_T, scores_T)
    hits, counts = _steps(labels_T, scores_T)
    values = 2 * hits / np.maximum(1, labels_T.sum() + counts)
    return float(np.unique(scores_T)[::-1][int(np.argmax(values))])


def reliability(labels_T: NDArray[Any], probabilities_T: NDArray[Any], bins: int = 15) -> NDArray[np.float64]:
    """Return what was predicted and observed in bins of probability, ``(B, 3)``.

    The columns are the number of events, their mean probability and their share of positive ones.

    Bins hold equally many events in the order of their probability, as far as equal probabilities allow.
    """
    labels_T = _check(labels_T, probabilities_T)
    p_T = np.asarray(probabilities_T, np.float64)
    edges = np.unique(np.quantile(p_T, np.linspace(0, 1, bins + 1)[1:-1]))
    rows_T = np.searchsorted(edges, p_T, side="right")
    counts = np.bincount(rows_T)
    used = counts > 0
    sums = np.stack([np.bincount(rows_T, p_T), np.bincount(rows_T, labels_T)], axis=1)[used]
    return np.column_stack([counts[used], sums / counts[used, None]])


def calibration_error(labels_T: NDArray[Any], probabilities_T: NDArray[Any], bins: int = 15) -> float:
    """Compute the expected calibration error.

    It is the mean distance of predicted and observed shares of positive events in the bins of :func:`reliability`.

    It is the expected calibration error with bins of equal mass (Nixon et al. 2019, arXiv:1904.01685).
    """
    counts, predicted, observed = reliability(labels_T, probabilities_T, bins).T
    return float(np.average(np.abs(predicted - observed), weights=counts))


def _steps(labels_T: NDArray[np.bool_], scores_T: NDArray[Any]) -> tuple[Values, Values]:
    """Return the numbers of positive events and of all events by score.

    They are those with at least each distinct score, from the highest.
    """
    order = np.argsort(-np.asarray(scores_T), kind="stable")
    is_last = np.append(np.diff(np.asarray(scores_T)[order]) != 0, True)
    counts = np.arange(1, len(order) + 1)[is_last]
    return np.cumsum(labels_T[order])[is_last].astype(np.float64), counts.astype(np.float64)


def _check(labels_T: NDArray[Any], scores_T: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the labels as booleans."""
    if len(labels_T) != len(scores_T):
        raise ValueError(f"scores: got {len(scores_T)} for {len(labels_T)} labels, expected one per label")
    invalid = np.flatnonzero((labels_T != 0) & (labels_T != 1))
    if len(invalid):
        raise ValueError(f"labels: got {labels_T[invalid[0]]} at index {invalid[0]}, expected 0 or 1")
    if not np.isfinite(scores_T).all():
        at = int(np.argmin(np.isfinite(scores_T)))
        raise ValueError(f"scores: got {scores_T[at]} at index {at}, expected a finite number")
    return np.asarray(labels_T).astype(np.bool_)


def _some(areas_U: Values) -> Values:
    if not len(areas_U):
        raise ValueError("users: none has both positive and negative labels, expected at least one")
    return areas_U


def _areas(
    labels_T: NDArray[np.bool_], scores_T: NDArray[Any], rows_T: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], Values, NDArray[np.int64]]:
    """Compute the areas of rows with both labels by the Mann-Whitney statistic.

    Returns:
        which rows have both labels, their areas, and the sizes of all rows.
    """
    counts = np.bincount(rows_T)
    positives = np.bincount(rows_T, labels_T, minlength=len(counts))
    negatives = counts - positives
    order = np.lexsort((scores_T, rows_T))
    starts = np.cumsum(counts) - counts
    # ranks in all rows together, minus the events of earlier rows, are ranks within the row; ties get their mean rank
    distinct = np.ones(len(order), np.bool_)
    distinct[1:] = (np.diff(rows_T[order]) != 0) | (np.diff(np.asarray(scores_T)[order]) != 0)
    ranks = np.empty(len(order))
    ranks[order] = rankdata(np.cumsum(distinct))
    sums = np.bincount(rows_T, (ranks - starts[rows_T]) * labels_T, minlength=len(counts))
    has_both = (positives > 0) & (negatives > 0)
    pairs = np.where(has_both, positives * negatives, 1.0)
    areas = (sums - positives * (positives + 1) / 2) / pairs
    return has_both, areas[has_both], counts
