"""Does a treatment change the mean per user? Statistics that hold at every moment of looking, however often one looks.

A confidence sequence covers the truth at all looks together with probability ``1 - alpha``; a test that looks at the
interval of one fixed number of users again and again does not. Users stand in the order in which they came.

* :func:`means`, for values of any size: the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and
  Ramdas (2021, arXiv:2103.06476), Robbins' normal mixture with estimated variances, for the difference of two means.
  As a test it is the mixture sequential probability ratio test of Johari, Koomen, Pekelis and Walsh (2022,
  doi:10.1287/opre.2021.2135). It holds as the number of users at the first look grows.
* :func:`bounded`, for proportions and other values between 0 and a bound: the empirical Bernstein confidence sequence
  of Howard, Ramdas, McAuliffe and Sekhon (2021, arXiv:1810.08240, corollary 2 with the gamma-exponential mixture of
  proposition 9). It holds from the first user on, for any distribution and for means that drift, given that each user
  was assigned by chance with the share that is told.
* :func:`mismatch`: were users assigned as they should be? The sequential multinomial test of Lindon and Malek (2020,
  arXiv:2011.03567).

Always-valid p-values are the infimum over the looks so far of one over the evidence.

Shapes: ... any leading axes (experiments side by side), N users, T looks, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ALPHA", "EXPECTED", "LEAST", "Path", "bounded", "grid", "means", "mismatch"]

ALPHA = 0.05
EXPECTED = 10_000
"""Users at whose number a sequence is tightest, unless told; ten times as many cost a tenth in width, a tenth of them a
quarter."""
LEAST = 100
"""Users of each group before an asymptotic sequence says anything."""
TYPICAL = 0.05
"""Variance of bounded values, as a share of the bound's square, for which a sequence is tightest: 5 in 100 convert."""
STEPS = 12
"""Newton steps to a boundary: the function is convex, and each step doubles the digits."""

Reals = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Path:
    """The difference of treatment and control as it was seen at each look."""

    looks: Counts
    """``(T,)`` users of both groups at each look."""
    difference: Reals
    """``(..., T)`` mean of the treated minus mean of the others; NaN while a group is empty."""
    low: Reals
    """``(..., T)`` lower end of the confidence sequence; may be minus infinity at first."""
    high: Reals
    """``(..., T)`` upper end."""
    p: Reals
    """``(..., T)`` always-valid p-value of "no difference": it never rises from look to look."""


def grid(n: int, dense: int = 1_000, step: float = 0.005) -> Counts:
    """Looks up to ``n`` users: at each of the first ``dense``, then at growing distances, and at ``n``.

    But for the last, more users do not move the looks: a p-value does not depend on how often it is asked for.
    """
    every = np.arange(1, min(n, dense) + 1)
    if n <= dense:
        return every
    apart = np.unique(np.ceil(dense * np.exp(step * np.arange(1, int(np.log(n / dense) / step) + 1))).astype(np.int64))
    return np.unique(np.concatenate([every, apart[apart <= n], [n]]))


def means(
    values: ArrayLike,
    treated: ArrayLike,
    *,
    looks: ArrayLike | None = None,
    alpha: float = ALPHA,
    expected: int = EXPECTED,
    least: int = LEAST,
) -> Path:
    """The difference of two means, of values with a finite variance; asymptotic in ``least``.

    With standard error ``e`` and ``x = n / expected * constant`` after ``n`` users the half-width is
    ``e sqrt((1 + 1/x) (log(1 + x) + 2 log(1/alpha)))``.

    Args:
        values: ``(..., N)`` one per user, oldest first.
        treated: ``(..., N)`` or ``(N,)`` whether the user is of the treatment, else of the control.
        looks: ``(T,)`` numbers of users after which to look, growing; ``None``: after each.
        expected: users at whose number the sequence is tightest; to be chosen before the first look.
        least: users in each group before anything is said: until then the interval is infinite and p is 1.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, an ``alpha`` outside 0 to 1.
    """
    values_N, treated_N, looks_T = _checked(values, treated, looks, alpha, expected)
    centre = values_N.mean() if values_N.size else 0.0  # sums of squares of what lies far from 0 lose their digits
    moments = [_moments(np.where(group, values_N - centre, 0.0), group, looks_T) for group in (~treated_N, treated_N)]
    (n0, mean0, variance0), (n1, mean1, variance1) = moments
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = mean1 - mean0
        squared = variance0 / n0 + variance1 / n1
        ready = (n0 >= max(2, least)) & (n1 >= max(2, least)) & (squared > 0)
        x = _constant(alpha) / expected * looks_T
        half = np.sqrt(squared * (1 + 1 / x) * (np.log1p(x) - 2 * np.log(alpha)))
        evidence = 0.5 * (difference**2 / squared * x / (1 + x) - np.log1p(x))
    half, evidence = np.where(ready, half, np.inf), np.where(ready, evidence, 0.0)
    low, high = (np.where(ready, difference + side * half, side * np.inf) for side in (-1, 1))
    return Path(looks_T, difference, low, high, _always(evidence))


def bounded(
    values: ArrayLike,
    treated: ArrayLike,
    share: float = 0.5,
    *,
    upper: float = 1.0,
    looks: ArrayLike | None = None,
    alpha: float = ALPHA,
    expected: int = EXPECTED,
) -> Path:
    """The difference of two means of values from 0 to ``upper``, such as proportions; valid at any number of users.

    Each user gives a number whose mean is the difference: his value against what was foreseen of his group from those
    before him, over the chance of being in that group. Their sum is bounded by the squares of what was not foreseen.

    Args:
        values: ``(..., N)`` one per user, oldest first.
        treated: ``(..., N)`` or ``(N,)`` whether the user is of the treatment, else of the control.
        share: chance of the treatment among users of the two groups.
        looks: ``(T,)`` numbers of users after which to look, growing; ``None``: after each.
        expected: users at whose number the sequence is tightest; to be chosen before the first look.

    Raises:
        ValueError: as :func:`means`; values outside 0 to ``upper``; a ``share`` outside 0 to 1.
    """
    values_N, treated_N, looks_T = _checked(values, treated, looks, alpha, expected)
    if not 0 < share < 1:
        raise ValueError(f"share: got {share}, expected a number between 0 and 1")
    if values_N.size and not (values_N.min() >= 0 and values_N.max() <= upper):
        raise ValueError(f"values: from {values_N.min()} to {values_N.max()}, expected from 0 to {upper}")
    sums, foreseen = [], []
    for group in (~treated_N, treated_N):
        total, n = np.cumsum(np.where(group, values_N, 0.0), axis=-1), np.cumsum(group, axis=-1)
        sums.append((total[..., looks_T - 1], n[..., looks_T - 1]))
        foreseen.append((total - np.where(group, values_N, 0.0) + upper / 2) / (n - group + 1))
    (total0, n0), (total1, n1) = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = total1 / n1 - total0 / n0
    weight_N = np.where(treated_N, 1 / share, -1 / (1 - share))
    surprise_N = weight_N * (values_N - np.where(treated_N, foreseen[1], foreseen[0]))
    sum_T = np.cumsum(foreseen[1] - foreseen[0] + surprise_N, axis=-1)[..., looks_T - 1]
    spent_T = np.cumsum(surprise_N**2, axis=-1)[..., looks_T - 1]
    scale = upper / min(share, 1 - share)
    rho = expected * TYPICAL * upper**2 / (share * (1 - share)) / _constant(alpha)
    half = _boundary(spent_T, scale, rho, np.log(2 / alpha)) / looks_T
    low, high = (np.clip(sum_T / looks_T + side * half, -upper, upper) for side in (-1, 1))
    evidence = _gamma_exponential(np.abs(sum_T), spent_T, scale, rho)[0] - np.log(2)  # the better of two sides
    return Path(looks_T, difference, low, high, _always(evidence))


def mismatch(groups: ArrayLike, shares: Sequence[float], expected: int = EXPECTED) -> Reals:
    """Were users assigned with these shares? The always-valid p-value after each user.

    The alternatives are a Dirichlet distribution around ``shares``, as wide as what ``expected`` users can tell.

    Args:
        groups: ``(..., N)`` the group of each user from 0, oldest first.
        shares: ``(G,)`` chances of the groups; what they sum to does not matter.

    Returns:
        ``(..., N)`` p-values that never rise.

    Raises:
        ValueError: groups outside 0 to G - 1, or shares that are not above 0.
    """
    from scipy.special import gammaln

    groups_N, shares_G = np.asarray(groups, np.int64), np.asarray(shares, np.float64)
    if len(shares_G) < 1 or not (np.isfinite(shares_G).all() and (shares_G > 0).all()):
        raise ValueError(f"shares: got {list(shares)}, expected numbers above 0")
    if groups_N.size and not (groups_N.min() >= 0 and groups_N.max() < len(shares_G)):
        raise ValueError(f"groups: from {groups_N.min()} to {groups_N.max()}, expected 0 to {len(shares_G) - 1}")
    shares_G = shares_G / shares_G.sum()
    strength = expected / _constant(ALPHA)
    n = np.arange(1, groups_N.shape[-1] + 1)
    evidence = np.broadcast_to(gammaln(strength) - gammaln(strength + n), groups_N.shape).copy()
    for group, share in enumerate(shares_G):
        count = np.cumsum(groups_N == group, axis=-1)
        evidence += gammaln(strength * share + count) - gammaln(strength * share) - count * np.log(share)
    return _always(evidence)


def _checked(
    values: ArrayLike, treated: ArrayLike, looks: ArrayLike | None, alpha: float, expected: int
) -> tuple[Reals, NDArray[np.bool_], Counts]:
    values_N, treated_N = np.asarray(values, np.float64), np.asarray(treated, np.bool_)
    if values_N.ndim == 0 or treated_N.shape not in (values_N.shape, values_N.shape[-1:]):
        raise ValueError(f"treated: shape {treated_N.shape} for values of shape {values_N.shape}")
    if not np.isfinite(values_N).all():
        raise ValueError("values: not all are finite numbers")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: got {alpha}, expected a number between 0 and 1")
    if expected < 1:
        raise ValueError(f"expected: got {expected} users, expected at least 1")
    n = values_N.shape[-1]
    looks_T = np.arange(1, n + 1) if looks is None else np.asarray(looks, np.int64)
    if looks_T.ndim != 1 or (np.diff(looks_T) <= 0).any() or (looks_T.size and not 1 <= looks_T[0] <= looks_T[-1] <= n):
        raise ValueError(f"looks: expected growing numbers from 1 to {n}, the number of users")
    return values_N, np.broadcast_to(treated_N, values_N.shape), looks_T


def _moments(values_N: Reals, group_N: NDArray[np.bool_], looks_T: Counts) -> tuple[Counts, Reals, Reals]:
    """Number, mean and variance of a group's values at each look; ``values_N`` is 0 outside the group."""
    n: Counts = np.cumsum(group_N, axis=-1, dtype=np.int64)[..., looks_T - 1]
    total = np.cumsum(values_N, axis=-1)[..., looks_T - 1]
    squares = np.cumsum(values_N**2, axis=-1)[..., looks_T - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / n
        variance = np.maximum(squares - n * mean**2, 0.0) / (n - 1)
    return n, mean, variance


def _constant(alpha: float) -> float:
    """``x`` at which ``(1 + 1/x) (log(1 + x) + 2 log(1/alpha))`` is least: 8.2 at 0.05; it solves
    ``x - log(1 + x) = 2 log(1/alpha)``."""
    from scipy.special import lambertw

    return float(-lambertw(-(alpha**2) / np.e, -1).real - 1)


def _always(evidence_T: Reals) -> Reals:
    """The infimum over time of one over the evidence, which comes as its logarithm."""
    return np.exp(-np.maximum.accumulate(np.maximum(evidence_T, 0.0), axis=-1))


def _gamma_exponential(s: Reals, v: Reals, scale: float, rho: float) -> tuple[Reals, Reals]:
    """Logarithm of the mixture of ``exp(lambda s - psi(lambda) v)`` over lambda, for ``s >= 0``; and its slope in s.

    ``psi`` is that of an exponential distribution with this scale; ``rho`` is the v at which it weighs most.
    """
    from scipy.special import gammainc, gammaln

    k, kv = rho / scale**2, (v + rho) / scale**2
    x = kv + s / scale
    share = gammainc(kv, x)
    log = k * np.log(k) - gammaln(k) - np.log(gammainc(k, k)) + gammaln(kv) + np.log(share) - kv * np.log(x) + x - k
    density = np.exp((kv - 1) * np.log(x) - x - gammaln(kv))
    return log, (1 - kv / x + density / share) / scale


def _boundary(v: Reals, scale: float, rho: float, level: float) -> Reals:
    """The s at which the mixture's logarithm is ``level``, by Newton's method from above."""
    normal = np.sqrt(2 * (v + rho) * (level + 0.5 * np.log1p(v / rho)))
    s = normal + scale * level
    for _ in range(STEPS):
        log, slope = _gamma_exponential(s, v, scale, rho)
        s = np.maximum(s - (log - level) / slope, 0.0)
    return s
