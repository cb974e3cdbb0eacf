"""Standard deviations, t intervals and t-tests against numbers computed by hand; the order of models by an error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segue.evaluation.bootstrap import Estimate, estimate
from segue.evaluation.significance import compare_all, compare_pair, holm_correction
from segue.experiment.compare import ComparisonResult, compare_values
from segue.experiment.cross_validate import CrossValidationResult


def test_the_interval_over_folds_uses_the_sample_standard_deviation() -> None:
    """1, 2, 3, 4, 5 have the standard deviation sqrt(10 / 4); t(0.975; 4 degrees) is 2.776445."""
    result = CrossValidationResult(("rmse",), {"a": {"rmse": (1.0, 2.0, 3.0, 4.0, 5.0)}})
    row = result.table.row(0, named=True)
    assert row["std"] == pytest.approx(1.5811388)
    assert (row["low"], row["mean"], row["high"]) == pytest.approx((1.0367568, 3.0, 4.9632432), abs=1e-6)


def test_the_deviation_over_seeds_is_that_of_a_sample() -> None:
    one = {"a": {"ndcg@10": Estimate(0.2, 0.1, 0.3)}}
    values = {"a": {"ndcg@10": np.array([0.1, 0.2, 0.3])}}
    result = ComparisonResult(("ndcg@10",), values, one, {"a": {"ndcg@10": (0.1, 0.2, 0.3)}}, {}, {"a": 1.0}, {})
    assert result.table["seed_std"].to_list() == pytest.approx([0.1])


def test_the_paired_t_test_has_n_minus_1_degrees_of_freedom() -> None:
    """Differences 1, 2, 3, 4: t = 2.5 / (sqrt(5 / 3) / 2) = 3.872983 with 3 degrees of freedom."""
    test = compare_pair([2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 1.0, 1.0])
    assert test.p_t == pytest.approx(0.0304662, abs=1e-6)


def test_a_difference_is_significant_if_the_corrected_p_value_is_below_5_percent() -> None:
    test = compare_pair([2.0, 3.0], [1.0, 1.0])
    assert replace(test, p=0.2, p_holm=0.049).significant
    assert not replace(test, p=0.001, p_holm=0.05).significant


def test_the_p_values_of_a_family_are_corrected_together() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(40)
    tests = compare_all({"a": base, "b": base + rng.normal(0.05, 0.2, 40), "c": base + rng.normal(0.1, 0.2, 40)})
    assert [test.p_holm for test in tests] == holm_correction([test.p for test in tests])
    assert any(test.p_holm > test.p for test in tests)


def test_the_smallest_p_value_counts_the_observed_signs() -> None:
    """No random assignment of 60 signs is as extreme as all signs positive."""
    (test,) = compare_all({"a": np.ones(60), "b": np.zeros(60)}, permutations=99)
    assert test.p == 1 / 100


def test_the_randomization_test_counts_both_signs() -> None:
    """Of the 8 signs of 1, 1, 1 the sums 3 and -3 are as extreme as the observed 3."""
    (test,) = compare_all({"a": np.ones(3), "b": np.zeros(3)}, permutations=100_000)
    assert test.p == pytest.approx(2 / 8, abs=0.01)


def test_the_bootstrap_interval_of_two_values_has_their_range() -> None:
    """The mean of four fair draws of 0 or 1 is at its extremes with probability 1 / 16 each."""
    (found,) = estimate(np.array([[0.0], [0.0], [1.0], [1.0]]))
    assert found == Estimate(0.5, 0.0, 1.0)


def test_the_bootstrap_interval_of_many_queries_has_the_width_of_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(size=(2000, 1))
    (found,) = estimate(values, resamples=4000)
    half = 1.959964 * values.std(ddof=1) / 2000**0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize(
    ("metric", "first"), [("rmse", "low"), ("mae", "low"), ("ndcg@10", "high"), ("mrr@10", "high")]
)
def test_models_are_ordered_by_the_lowest_error_or_the_highest_ranking_metric(metric: str, first: str) -> None:
    values = {"low": {metric: (0.1, 0.2)}, "high": {metric: (0.8, 0.9)}}
    assert CrossValidationResult((metric,), values).ranking[0] == first
    estimates = {name: {metric: Estimate(float(np.mean(one[metric])), 0.0, 1.0)} for name, one in values.items()}
    arrays = {name: {metric: np.asarray(one[metric])} for name, one in values.items()}
    compared = ComparisonResult((metric,), arrays, estimates, values, {}, {}, {})
    assert compared.ranking[0] == first


@pytest.mark.parametrize(("metric", "sign"), [("rmse", 1), ("ndcg@10", -1)])
def test_a_positive_difference_is_an_improvement_also_for_errors(metric: str, sign: int) -> None:
    values = {"low": {metric: np.array([0.1, 0.2, 0.3])}, "high": {metric: np.array([0.8, 0.9, 0.7])}}
    (test,) = compare_values(values, metric)
    assert np.sign(test.difference) == sign
