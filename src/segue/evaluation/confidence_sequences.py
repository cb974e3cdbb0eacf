"""Confidence sequences: statistics of A/B tests that are valid at any time.

A confidence sequence covers the true difference at all times together with probability ``1 - alpha``; an interval
designed for a single analysis, at one fixed number of users, does not. Users are ordered by their arrival.

* :func:`asymptotic_confidence_sequence`, for values of any size: the asymptotic confidence sequence of Waudby-Smith,
  Arbour, Sinha, Kennedy and Ramdas (2021, arXiv:2103.06476), Robbins' normal mixture with estimated variances, for the
  difference of two means. As a test it is the mixture sequential probability ratio test of Johari, Koomen, Pekelis and
  Walsh (2022, doi:10.1287/opre.2021.2135). It is valid as the number of users at the first analysis grows.
* :func:`bounded_confidence_sequence`, for proportions and other values between 0 and a bound: the empirical Bernstein
  confidence sequence of Howard, Ramdas, McAuliffe and Sekhon (2021, arXiv:1810.08240, corollary 2 with the
  gamma-exponential mixture of proposition 9). It is valid from the first user on, for any distribution and for drifting
  means, provided that each user was assigned at random with the stated share.
* :func:`sample_ratio_mismatch`: tests whether users were assigned with the intended shares, by the sequential
  multinomial test of Lindon and Malek (2020, arXiv:2011.03567).

Always-valid p-values are the infimum of 1 / evidence over the analyses so far.

Shapes: ... any leading axes (parallel experiments), N users, T analyses, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "ALPHA",
    "EXPECTED_USERS",
    "MIN_USERS",
    "SequentialEstimate",
    "asymptotic_confidence_sequence",
    "bounded_confidence_sequence",
    "look_schedule",
    "sample_ratio_mismatch",
]

ALPHA = 0.05
EXPECTED_USERS = 10_000
"""Default number of users at which a sequence is tightest. At ten times as many users it is a tenth wider than a
sequence tuned for them, at a tenth of them a quarter wider."""
MIN_USERS = 100
"""Users of each group before an asymptotic sequence is finite."""
TYPICAL_VARIANCE = 0.05
"""Variance of bounded values, as a share of the squared bound, for which a sequence is tightest: 5 in 100 convert."""
NEWTON_STEPS = 12
"""Newton steps to a boundary: the function is convex, and each step doubles the number of correct digits."""

Reals = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SequentialEstimate:
    """The difference between treatment and control at each analysis."""

    analysis_times: Counts
    """``(T,)`` users of both groups at each analysis."""
    difference: Reals
    """``(..., T)`` mean of the treatment minus mean of the control; NaN while a group is empty."""
    low: Reals
    """``(..., T)`` lower end of the confidence sequence; may be minus infinity at first."""
    high: Reals
    """``(..., T)`` upper end."""
    p: Reals
    """``(..., T)`` always-valid p-value of "no difference"; it never increases."""


def look_schedule(n: int, dense: int = 1_000, step: float = 0.005) -> Counts:
    """Return the numbers of users at which to analyze, up to ``n``.

    The schedule has every number up to ``dense``, then numbers at growing distances, and ``n`` itself. Apart from the
    last, the numbers do not depend on ``n``, so that a p-value does not depend on how often it is computed.
    """
    every = np.arange(1, min(n, dense) + 1)
    if n <= dense:
        return every
    spaced = np.unique(np.ceil(dense * np.exp(step * np.arange(1, int(np.log(n / dense) / step) + 1))).astype(np.int64))
    return np.unique(np.concatenate([every, spaced[spaced <= n], [n]]))


def asymptotic_confidence_sequence(
    values: ArrayLike,
    treated: ArrayLike,
    *,
    analysis_times: ArrayLike | None = None,
    alpha: float = ALPHA,
    expected_users: int = EXPECTED_USERS,
    min_users: int = MIN_USERS,
) -> SequentialEstimate:
    """Estimate the difference of two means of values with finite variance.

    The sequence is valid as ``min_users`` grows.

    With standard error ``e`` and ``x = n / expected_users * constant`` after ``n`` users the half-width is
    ``e sqrt((1 + 1/x) (log(1 + x) + 2 log(1/alpha)))``.

    Args:
        values: ``(..., N)`` one per user, oldest first.
        treated: ``(..., N)`` or ``(N,)`` whether the user is in the treatment group, else in the control group.
        analysis_times: ``(T,)`` increasing numbers of users at which to analyze; ``None``: after each user.
        expected_users: users at which the sequence is tightest; to be chosen before the first analysis.
        min_users: users in each group before which the interval is infinite and p is 1.

    Raises:
        ValueError: shapes that do not match, values that are not finite, or an ``alpha`` outside 0 to 1.
    """
    values_N, treated_N, times_T = _validate(values, treated, analysis_times, alpha, expected_users)
    center = values_N.mean() if values_N.size else 0.0  # sums of squares far from 0 lose digits
    moments = [_moments(np.where(group, values_N - center, 0.0), group, times_T) for group in (~treated_N, treated_N)]
    (n0, mean0, variance0), (n1, mean1, variance1) = moments
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = mean1 - mean0
        squared = variance0 / n0 + variance1 / n1
        is_ready = (n0 >= max(2, min_users)) & (n1 >= max(2, min_users)) & (squared > 0)
        x = _tightness_constant(alpha) / expected_users * times_T
        half = np.sqrt(squared * (1 + 1 / x) * (np.log1p(x) - 2 * np.log(alpha)))
        evidence = 0.5 * (difference**2 / squared * x / (1 + x) - np.log1p(x))
    half, evidence = np.where(is_ready, half, np.inf), np.where(is_ready, evidence, 0.0)
    low, high = (np.where(is_ready, difference + side * half, side * np.inf) for side in (-1, 1))
    return SequentialEstimate(times_T, difference, low, high, _always_valid_p(evidence))


def bounded_confidence_sequence(
    values: ArrayLike,
    treated: ArrayLike,
    treatment_share: float = 0.5,
    *,
    upper: float = 1.0,
    analysis_times: ArrayLike | None = None,
    alpha: float = ALPHA,
    expected_users: int = EXPECTED_USERS,
) -> SequentialEstimate:
    """Estimate the difference of two means of values between 0 and ``upper``.

    It is valid for any N; proportions have ``upper`` 1.

    Each user contributes a number whose mean is the difference: their value minus the value predicted for their group
    from earlier users, divided by the probability of their group. The sum is bounded by the squares of the prediction
    errors.

    Args:
        values: ``(..., N)`` one per user, oldest first.
        treated: ``(..., N)`` or ``(N,)`` whether the user is in the treatment group, else in the control group.
        treatment_share: probability of the treatment among users of the two groups.
        analysis_times: ``(T,)`` increasing numbers of users at which to analyze; ``None``: after each user.
        expected_users: users at which the sequence is tightest; to be chosen before the first analysis.

    Raises:
        ValueError: as :func:`asymptotic_confidence_sequence`; values outside 0 to ``upper``; a ``treatment_share``
            outside 0 to 1.
    """
    values_N, treated_N, times_T = _validate(values, treated, analysis_times, alpha, expected_users)
    if not 0 < treatment_share < 1:
        raise ValueError(f"treatment_share: got {treatment_share}, expected a number between 0 and 1")
    if values_N.size and not (values_N.min() >= 0 and values_N.max() <= upper):
        raise ValueError(f"values: got {values_N.min()} to {values_N.max()}, expected 0 to {upper}")
    sums, predicted = [], []
    for group in (~treated_N, treated_N):
        total, n = np.cumsum(np.where(group, values_N, 0.0), axis=-1), np.cumsum(group, axis=-1)
        sums.append((total[..., times_T - 1], n[..., times_T - 1]))
        predicted.append((total - np.where(group, values_N, 0.0) + upper / 2) / (n - group + 1))
    (total0, n0), (total1, n1) = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = total1 / n1 - total0 / n0
    weight_N = np.where(treated_N, 1 / treatment_share, -1 / (1 - treatment_share))
    residual_N = weight_N * (values_N - np.where(treated_N, predicted[1], predicted[0]))
    sum_T = np.cumsum(predicted[1] - predicted[0] + residual_N, axis=-1)[..., times_T - 1]
    variance_T = np.cumsum(residual_N**2, axis=-1)[..., times_T - 1]
    scale = upper / min(treatment_share, 1 - treatment_share)
    shares = treatment_share * (1 - treatment_share)
    rho = expected_users * TYPICAL_VARIANCE * upper**2 / shares / _tightness_constant(alpha)
    half = _mixture_boundary(variance_T, scale, rho, np.log(2 / alpha)) / times_T
    low, high = (np.clip(sum_T / times_T + side * half, -upper, upper) for side in (-1, 1))
    evidence = _gamma_exponential(np.abs(sum_T), variance_T, scale, rho)[0] - np.log(2)  # the better of two sides
    return SequentialEstimate(times_T, difference, low, high, _always_valid_p(evidence))


def sample_ratio_mismatch(groups: ArrayLike, shares: Sequence[float], expected_users: int = EXPECTED_USERS) -> Reals:
    """Test whether users were assigned with these shares.

    The alternatives are a Dirichlet distribution around ``shares``, as wide as ``expected_users`` users can detect.

    Args:
        groups: ``(..., N)`` the group of each user from 0, oldest first.
        shares: ``(G,)`` probabilities of the groups; their sum does not matter.

    Returns:
        ``(..., N)`` p-values that never increase.

    Raises:
        ValueError: groups outside 0 to G - 1, or shares that are not above 0.
    """
    from scipy.special import gammaln

    groups_N, shares_G = np.asarray(groups, np.int64), np.asarray(shares, np.float64)
    if len(shares_G) < 1 or not (np.isfinite(shares_G).all() and (shares_G > 0).all()):
        raise ValueError(f"shares: got {list(shares)}, expected numbers above 0")
    if groups_N.size and not (groups_N.min() >= 0 and groups_N.max() < len(shares_G)):
        raise ValueError(f"groups: got {groups_N.min()} to {groups_N.max()}, expected 0 to {len(shares_G) - 1}")
    shares_G = shares_G / shares_G.sum()
    strength = expected_users / _tightness_constant(ALPHA)
    n = np.arange(1, groups_N.shape[-1] + 1)
    evidence = np.broadcast_to(gammaln(strength) - gammaln(strength + n), groups_N.shape).copy()
    for group, share in enumerate(shares_G):
        count = np.cumsum(groups_N == group, axis=-1)
        evidence += gammaln(strength * share + count) - gammaln(strength * share) - count * np.log(share)
    return _always_valid_p(evidence)


def _validate(
    values: ArrayLike, treated: ArrayLike, analysis_times: ArrayLike | None, alpha: float, expected_users: int
) -> tuple[Reals, NDArray[np.bool_], Counts]:
    values_N, treated_N = np.asarray(values, np.float64), np.asarray(treated, np.bool_)
    if values_N.ndim == 0 or treated_N.shape not in (values_N.shape, values_N.shape[-1:]):
        raise ValueError(f"treated: got shape {treated_N.shape}, expected {values_N.shape} or {values_N.shape[-1:]}")
    if not np.isfinite(values_N).all():
        raise ValueError("values: got some that are not finite, expected numbers")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: got {alpha}, expected a number between 0 and 1")
    if expected_users < 1:
        raise ValueError(f"expected_users: got {expected_users}, expected at least 1")
    n = values_N.shape[-1]
    times_T = np.arange(1, n + 1) if analysis_times is None else np.asarray(analysis_times, np.int64)
    is_increasing = times_T.ndim == 1 and (np.diff(times_T) > 0).all()
    if not is_increasing or (times_T.size and not 1 <= times_T[0] <= times_T[-1] <= n):
        raise ValueError(f"analysis_times: expected increasing numbers from 1 to {n}, the number of users")
    return values_N, np.broadcast_to(treated_N, values_N.shape), times_T


def _moments(values_N: Reals, group_N: NDArray[np.bool_], times_T: Counts) -> tuple[Counts, Reals, Reals]:
    """Return number, mean and variance of a group's values at each analysis.

    ``values_N`` is 0 outside the group.
    """
    n: Counts = np.cumsum(group_N, axis=-1, dtype=np.int64)[..., times_T - 1]
    total = np.cumsum(values_N, axis=-1)[..., times_T - 1]
    squares = np.cumsum(values_N**2, axis=-1)[..., times_T - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        variance = np.maximum(squares - n * mean**2, 0.0) / (n - 1)
    return n, mean, variance


def _tightness_constant(alpha: float) -> float:
    """Return the ``x`` at which a sequence is tightest: 8.2 at alpha 0.05.

    It minimizes ``(1 + 1/x) (log(1 + x) + 2 log(1/alpha))``.

    It solves ``x - log(1 + x) = 2 log(1/alpha)``.
    """
    from scipy.special import lambertw

    return float(-lambertw(-(alpha**2) / np.e, -1).real - 1)


def _always_valid_p(log_evidence_T: Reals) -> Reals:
    """Return the infimum over time of 1 / evidence."""
    return np.exp(-np.maximum.accumulate(np.maximum(log_evidence_T, 0.0), axis=-1))


def _gamma_exponential(s: Reals, v: Reals, scale: float, rho: float) -> tuple[Reals, Reals]:
    """Return the log of the gamma-exponential mixture and its slope in ``s``.

    The mixture of ``exp(lambda s - psi(lambda) v)`` over lambda, for ``s >= 0``.

    ``psi`` is that of an exponential distribution with this scale; ``rho`` is the v at which the mixture is tightest.
    """
    from scipy.special import gammainc, gammaln

    k, kv = rho / scale**2, (v + rho) / scale**2
    x = kv + s / scale
    share = gammainc(kv, x)
    log = k * np.log(k) - gammaln(k) - np.log(gammainc(k, k)) + gammaln(kv) + np.log(share) - kv * np.log(x) + x - k
    density = np.exp((kv - 1) * np.log(x) - x - gammaln(kv))
    return log, (1 - kv / x + density / share) / scale


def _mixture_boundary(v: Reals, scale: float, rho: float, level: float) -> Reals:
    """Find the s at which the log of the mixture equals ``level``.

    Newton's method approaches it from above.
    """
    normal = np.sqrt(2 * (v + rho) * (level + 0.5 * np.log1p(v / rho)))
    s = normal + scale * level
    for _ in range(NEWTON_STEPS):
        log, slope = _gamma_exponential(s, v, scale, rho)
        s = np.maximum(s - (log - level) / slope, 0.0)
    return s
