"""Estimate the value of a target policy from impressions of a logging policy.

The value is the expected reward of a query: the sum of the rewards of all positions of its list. The weight of an
impression is ``pi(item at position | query) / propensity``: the probability that the target policy shows the item at
this position, divided by the probability that the logging policy did. With one position this is a contextual bandit.
With several, the estimators assume that the reward of an item depends on the query, the item and its position, and not
on the other items of the list: the item-position model (Li et al. 2018, arXiv:1804.10488).

- ``ips``: inverse propensity scoring (Horvitz and Thompson 1952, doi:10.1080/01621459.1952.10483446). It is unbiased if
  the logging policy can show all that the target policy shows.
- ``clipped_ips``: with weights of at most a limit (Ionides 2008, doi:10.1198/106186008X320456), which adds a bias
  downwards for less variance.
- ``snips``: self-normalized, divided by the mean weight of the position (Swaminathan and Joachims 2015, "The
  self-normalized estimator for counterfactual learning"). It is consistent, and shifts with all rewards.
- ``dm``: the direct method, the predicted reward of what the target policy shows. It is as biased as the predictions,
  which an interval would not show.
- ``dr``: doubly robust (Dudik, Langford and Li 2011, arXiv:1103.4601), the direct method plus the weighted errors of
  the predictions. It is unbiased if the propensities are right, and of small variance if the predictions are good.
- ``pbm``: the position-based model (Li et al. 2018). A click is an examination of the position times an attraction by
  the item. The weight is the ratio of the probabilities that the item is examined under each policy, so that an item
  may have been shown at another position.

Shapes: Q queries, K positions, P parts of an estimator, B resamples, U units of the resampling (users or queries).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segue.evaluation.bootstrap import CONFIDENCE, RESAMPLES, Estimate, resample_means

__all__ = [
    "ESTIMATORS",
    "PolicyTerms",
    "clipped_ips",
    "default_clip",
    "direct_method",
    "doubly_robust",
    "estimate_policy_values",
    "examination_weights",
    "ips",
    "on_policy",
    "resample_values",
    "snips",
    "to_estimate",
]

ESTIMATORS = ("ips", "clipped_ips", "snips", "dm", "dr", "pbm")

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PolicyTerms:
    """An estimator as a sum of ratios of sums over queries, for resampling."""

    numerator_QP: Values
    denominator_QP: Values
    scale_P: Values
    """The estimate is ``sum over p of scale[p] * sum(numerator[:, p]) / sum(denominator[:, p])``."""

    @property
    def value(self) -> float:
        """The estimate; NaN if a denominator is 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float((self.scale_P * self.numerator_QP.sum(0) / self.denominator_QP.sum(0)).sum())


def _mean(values_Q: Values) -> PolicyTerms:
    return PolicyTerms(values_Q[:, None], np.ones((len(values_Q), 1)), np.ones(1))


def on_policy(rewards_QK: Values) -> PolicyTerms:
    """Return the mean reward per query of the logging policy."""
    return _mean(rewards_QK.sum(1))


def ips(rewards_QK: Values, weights_QK: Values) -> PolicyTerms:
    """Return inverse propensity scoring.

    Args:
        rewards_QK: 0 where a query has no impression at a position.
        weights_QK: ``pi / propensity`` of the impression, likewise.
    """
    return _mean((rewards_QK * weights_QK).sum(1))


def default_clip(rows: int) -> float:
    """Return the limit of weights, the square root of the number of impressions.

    With it, bias and variance both vanish as the log grows (Ionides 2008).
    """
    return float(np.sqrt(rows))


def clipped_ips(rewards_QK: Values, weights_QK: Values, clip: float) -> PolicyTerms:
    """Return inverse propensity scoring with weights of at most ``clip``."""
    return ips(rewards_QK, np.minimum(weights_QK, clip))


def snips(rewards_QK: Values, weights_QK: Values, mass_QK: Values) -> PolicyTerms:
    """Return self-normalized inverse propensity scoring.

    Each position is divided by its own mean weight.

    Args:
        mass_QK: probability that the target policy shows any item at a position, usually 1, which is the expectation of
            the weight; 0 where a query has no impression.
    """
    return PolicyTerms(rewards_QK * weights_QK, weights_QK, mass_QK.mean(0))


def direct_method(expected_Q: Values) -> PolicyTerms:
    """Return the direct method.

    Args:
        expected_Q: predicted reward of the list of the target policy: the sum over items and positions of the
            probability that the policy shows the item there times its predicted reward.
    """
    return _mean(expected_Q)


def doubly_robust(rewards_QK: Values, weights_QK: Values, predicted_QK: Values, expected_Q: Values) -> PolicyTerms:
    """Return the doubly robust estimator.

    Predictions must not depend on the rewards of their own query: they are cross-fitted.

    Args:
        predicted_QK: predicted reward of each impression.
        expected_Q: as in :func:`direct_method`.
    """
    return _mean(expected_Q + (weights_QK * (rewards_QK - predicted_QK)).sum(1))


def examination_weights(target_QKK: Values, logged_QKK: Values, examination_K: Values) -> Values:
    """Return the weights of the position-based model, ``(Q, K)``.

    They are 0 where nothing is shown.

    Args:
        target_QKK: probability that the target policy shows the item of an impression (first K) at each position
            (second K); 0 where nothing is shown.
        logged_QKK: the same of the logging policy.
        examination_K: how likely users examine each position; only ratios matter.
    """
    target_QK, logged_QK = target_QKK @ examination_K, logged_QKK @ examination_K
    return np.divide(target_QK, logged_QK, out=np.zeros_like(target_QK), where=logged_QK > 0)


def estimate_policy_values(
    terms: Sequence[PolicyTerms], units_Q: NDArray[np.int64] | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> list[Estimate]:
    """Estimate values with their 95 % percentile bootstrap intervals.

    Args:
        units_Q: user of each query, if queries of a user are resampled together.
    """
    values_BT = resample_values(terms, units_Q, seed, resamples)
    return [to_estimate(one.value, values_B) for one, values_B in zip(terms, values_BT.T, strict=True)]


def to_estimate(value: float, values_B: Values) -> Estimate:
    """Return a value with the interval of its resampled values.

    A resample in which a self-normalized estimator is not defined does not count.
    """
    tail = 50.0 * (1.0 - CONFIDENCE)
    known_B = values_B[np.isfinite(values_B)]
    if not len(known_B):
        return Estimate(value, np.nan, np.nan)
    low, high = np.percentile(known_B, [tail, 100.0 - tail])
    return Estimate(value, min(float(low), value), max(float(high), value))


def resample_values(
    terms: Sequence[PolicyTerms], units_Q: NDArray[np.int64] | None, seed: int, resamples: int = RESAMPLES
) -> Values:
    """Return resampled values of all estimators, ``(B, estimators)``.

    All of them share their resamples, so that differences of columns are paired.
    """
    columns_QM = np.concatenate([part for one in terms for part in (one.numerator_QP, one.denominator_QP)], axis=1)
    if units_Q is not None:
        columns_QM = _sum_by_unit(columns_QM, units_Q)
    means_BM = resample_means(columns_QM, np.random.default_rng(seed), resamples)
    values_BT, start = np.empty((resamples, len(terms))), 0
    for column, one in enumerate(terms):
        middle, end = start + len(one.scale_P), start + 2 * len(one.scale_P)
        with np.errstate(invalid="ignore", divide="ignore"):
            values_BT[:, column] = (one.scale_P * means_BM[:, start:middle] / means_BM[:, middle:end]).sum(1)
        start = end
    return values_BT


def _sum_by_unit(columns_QM: Values, units_Q: NDArray[np.int64]) -> Values:
    """Return the sums over the queries of each unit, ``(U, M)``."""
    _, units_Q = np.unique(units_Q, return_inverse=True)
    return np.stack([np.bincount(units_Q, weights=column_Q) for column_Q in columns_QM.T], axis=1)
