"""Power of a paired comparison: what difference a number of queries can show.

The test is Student's two-sided paired t-test, of which the randomization test has nearly the same power for the many
queries of an evaluation. With n queries, a true mean difference d and the standard deviation s of the differences per
query, t² follows the noncentral F distribution with 1 and n - 1 degrees of freedom and noncentrality n (d / s)² (Cohen
1988, "Statistical Power Analysis for the Behavioral Sciences", 2nd edition).

The power at the difference that was observed says nothing beyond the p-value (Hoenig and Heisey 2001,
doi:10.1198/000313001300339897). These functions are for a difference that matters, chosen before.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

__all__ = ["POWER", "power", "required_queries", "smallest_difference"]

POWER = 0.8
"""Probability with which a difference should be found, by convention."""

LEVEL = 0.05
"""Level of a test of one pair."""

MAX_QUERIES = 10**12


def power(difference: float, std: float, n: int, level: float = LEVEL) -> float:
    """Return the probability that ``n`` queries show a true difference.

    Args:
        difference: the true mean difference; its sign does not matter.
        std: standard deviation of the differences per query, above 0.
        n: number of queries, at least 2.
        level: level of the two-sided test; for a family of m tests with Holm's correction, ``level / m`` gives a lower
            bound.

    Raises:
        ValueError: a number outside its range.
    """
    _check_number("difference", difference, -np.inf, np.inf)
    _check_number("std", std, 0.0, np.inf)
    _check_number("level", level, 0.0, 1.0)
    return _power(abs(difference) / std * _check_count(n) ** 0.5, n, level)


def required_queries(difference: float, std: float, power: float = POWER, level: float = LEVEL) -> int:
    """Return how many queries show a true difference with probability ``power``.

    Args:
        difference: the true mean difference, not 0; its sign does not matter.
        std: standard deviation of the differences per query, above 0.
        power: above ``level`` and below 1.
        level: as for :func:`power`.

    Raises:
        ValueError: a number outside its range, or a difference so small that 10¹² queries are too few.
    """
    _check_number("difference", difference, -np.inf, np.inf)
    _check_number("std", std, 0.0, np.inf)
    _check_number("level", level, 0.0, 1.0)
    _check_number("power", power, level, 1.0)
    effect = abs(difference) / std

    def is_enough(n: int) -> bool:
        return _power(effect * n**0.5, n, level) >= power

    if not is_enough(MAX_QUERIES):
        raise ValueError(
            f"difference: got {difference!r} with a standard deviation of {std!r}, expected one that {MAX_QUERIES:,} "
            "queries can show"
        )
    return 2 + bisect_left(range(2, MAX_QUERIES), True, key=is_enough)


def smallest_difference(std: float, n: int, power: float = POWER, level: float = LEVEL) -> float:
    """Return the smallest difference that ``n`` queries show with that ``power``.

    Args:
        std: standard deviation of the differences per query, above 0.
        n: number of queries, at least 2.
        power: above ``level`` and below 1.
        level: as for :func:`power`.

    Raises:
        ValueError: a number outside its range.
    """
    from scipy.optimize import brentq

    _check_number("std", std, 0.0, np.inf)
    _check_number("level", level, 0.0, 1.0)
    _check_number("power", power, level, 1.0)
    n, high = _check_count(n), 1.0
    while _power(high, n, level) < power:
        high *= 2
    noncentrality = brentq(lambda one: _power(one, n, level) - power, 0.0, high)
    return float(noncentrality) * std / float(np.sqrt(n))


def _power(noncentrality: float, n: int, level: float) -> float:
    """Return the power of the t-test at the noncentrality sqrt(n) difference / std."""
    from scipy.special import chdtr, fdtri, ncfdtr

    critical = float(fdtri(1, n - 1, 1.0 - level))
    found = 1.0 - float(ncfdtr(1, n - 1, noncentrality**2, critical))
    # NaN at a large noncentrality, where only the estimated variance matters: the power is 1 but for very few queries
    if np.isnan(found):
        found = float(chdtr(n - 1, (n - 1) * noncentrality**2 / critical))
    return max(found, level)  # the series is inaccurate for a noncentrality close to 0


def _check_number(name: str, value: float, low: float, high: float) -> None:
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not is_number or not low < value < high:
        limits = f"above {low:g}" if high == np.inf else f"above {low:g} and below {high:g}"
        expected = f"number {limits}" if low > -np.inf else "finite number"
        raise ValueError(f"{name}: got {value!r}, expected a {expected}")


def _check_count(n: int) -> int:
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 2:
        raise ValueError(f"n: got {n!r}, expected a whole number of at least 2 queries")
    return int(n)
