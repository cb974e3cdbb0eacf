"""Power, required queries and smallest differences against published values, simulation and each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segue.evaluation.power import power, required_queries, smallest_difference
from segue.evaluation.significance import compare_all


@pytest.mark.parametrize(("effect", "target", "n"), [(0.2, 0.8, 199), (0.5, 0.8, 34), (0.8, 0.8, 15), (0.3, 0.9, 119)])
def test_required_pairs_of_cohen(effect: float, target: float, n: int) -> None:
    """Cohen's small, medium and large effects, two-sided at the level 0.05, as G*Power computes them."""
    assert required_queries(effect, 1.0, target) == n
    assert required_queries(-3 * effect, 3.0, target) == n


@settings(deadline=None, max_examples=80)
@given(n=st.integers(2, 5000), effect=st.floats(0.0, 3.0), level=st.sampled_from([0.05, 0.01, 0.001]))
def test_power_is_that_of_the_noncentral_t_distribution(n: int, effect: float, level: float) -> None:
    critical, shift = stats.t.isf(level / 2, n - 1), effect * n**0.5
    upper, lower = stats.nct.sf(critical, n - 1, shift), stats.nct.cdf(-critical, n - 1, shift)
    if np.isfinite(upper):  # SciPy's series does not always converge where the power is 1
        assert power(2 * effect, 2.0, n, level) == pytest.approx(upper + np.nan_to_num(lower), abs=1e-9)


def test_power_is_the_share_of_significant_tests() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0.4, 1.0, (4000, 30))
    share = np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05)
    assert power(0.4, 1.0, 30) == pytest.approx(share, abs=0.025)


def test_power_of_no_difference_is_the_level_and_of_a_large_one_1() -> None:
    assert power(0.0, 1.0, 50) == pytest.approx(0.05)
    for n in (2, 100, 10**6, 10**12):
        assert power(1e6, 1.0, n) == pytest.approx(1.0, abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(2, 10**7),
    std=st.floats(1e-3, 10.0),
    target=st.sampled_from([0.5, 0.8, 0.95]),
    level=st.sampled_from([0.05, 0.05 / 45]),
)
def test_the_functions_are_inverse(n: int, std: float, target: float, level: float) -> None:
    smallest = smallest_difference(std, n, target, level)
    assert power(smallest, std, n, level) == pytest.approx(target, abs=1e-6)
    assert required_queries(smallest * (1 + 1e-9), std, target, level) <= n
    assert required_queries(smallest * (1 - 1e-6), std, target, level) >= n


def test_the_smallest_difference_is_found_as_often_as_it_says() -> None:
    """A true difference of that size is significant in 80 % of the comparisons."""
    rng = np.random.default_rng(1)
    smallest = smallest_difference(1.0, 50)
    found = [
        compare_all({"a": rng.normal(smallest, 1.0, 50), "b": np.zeros(50)}, permutations=499)[0].significant
        for _ in range(500)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (power, (0.1, 0.0, 10), "std: got 0.0, expected a number above 0"),
        (power, (float("nan"), 1.0, 10), "difference: got nan, expected a finite number"),
        (power, (0.1, 1.0, 1), "n: got 1, expected a whole number of at least 2 queries"),
        (power, (0.1, 1.0, 10.0), "n: got 10.0, expected a whole number"),
        (power, (0.1, 1.0, 10, 1.0), "level: got 1.0, expected a number above 0 and below 1"),
        (power, (True, 1.0, 10), "difference: got True, expected a finite number"),
        (required_queries, (0.0, 1.0), "difference: got 0.0 with a standard deviation of 1.0, expected one that"),
        (required_queries, (1e-9, 1.0), "difference: got 1e-09"),
        (required_queries, (0.1, 1.0, 0.05), "power: got 0.05, expected a number above 0.05 and below 1"),
        (required_queries, (0.1, "x"), "std: got 'x', expected a number above 0"),
        (smallest_difference, (1.0, True), "n: got True, expected a whole number"),
        (smallest_difference, (1.0, 10, 1.0), "power: got 1.0, expected a number above 0.05 and below 1"),
        (smallest_difference, (float("inf"), 10), "std: got inf, expected a number above 0"),
    ],
)
def test_wrong_arguments(function: Callable[..., float], arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        function(*arguments)
