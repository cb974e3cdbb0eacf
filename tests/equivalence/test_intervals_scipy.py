"""Confidence intervals and paired tests against SciPy."""

import numpy as np
import pytest
from scipy import stats

from segue.evaluation.bootstrap import estimate
from segue.evaluation.significance import compare_pair


@pytest.mark.parametrize("kind", ["hits", "reciprocal_ranks"])
def test_bootstrap_intervals_equal_those_of_scipy(kind: str) -> None:
    rng = np.random.default_rng(0)
    values = (rng.random(300) < 0.2).astype(float) if kind == "hits" else 1 / rng.integers(1, 40, 300)
    found = estimate(values[:, None], resamples=20_000)[0]
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng).confidence_interval
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.high, abs=0.03 * width)


@pytest.mark.parametrize("n", [12, 200])
def test_paired_tests_equal_those_of_scipy(n: int) -> None:
    """SciPy enumerates all 4,096 sign assignments of 12 queries, and draws from those of 200."""
    rng = np.random.default_rng(1)
    first = rng.random(n)
    second = first + rng.normal(0.08 if n == 12 else 0.02, 0.15, n)
    expected = stats.permutation_test(
        (first, second), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", vectorized=True,
        n_resamples=9_999, rng=rng,
    )  # fmt: skip
    found = compare_pair(first, second)
    assert found.difference == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, abs=0.015)
    assert found.p_t == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-9)
