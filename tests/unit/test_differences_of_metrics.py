"""Tests of differences that are rounding errors or constant, and of metrics that are not means over queries."""

from __future__ import annotations

import numpy as np
import pytest

import segue
from segue.core.model import is_query_mean
from segue.evaluation.significance import StatTest, compare_pair, has_test

STAT_TESTS: tuple[StatTest, ...] = ("randomization", "bootstrap", "wilcoxon", "student")


@pytest.mark.parametrize("stat_test", STAT_TESTS)
def test_rounding_errors_are_no_difference(stat_test: StatTest) -> None:
    rng = np.random.default_rng(0)
    values = rng.random(200)
    noisy = values + rng.choice([1e-16, 2e-16], 200)
    found = compare_pair(noisy, values, stat_test=stat_test)
    assert (found.difference, found.p, found.std, found.rank_biserial) == (0.0, 1.0, 0.0, None)
    assert found.d_z is None
    assert found.smallest_difference is None


@pytest.mark.parametrize("stat_test", STAT_TESTS)
def test_a_constant_difference_is_significant(stat_test: StatTest) -> None:
    values = np.linspace(0.1, 0.9, 50)
    found = compare_pair(values + 0.3, values, stat_test=stat_test)
    assert found.significant
    assert found.std == 0.0
    assert found.p_t == 0.0


@pytest.mark.parametrize("stat_test", STAT_TESTS)
def test_one_query_is_never_significant(stat_test: StatTest) -> None:
    assert compare_pair([0.5], [0.2], stat_test=stat_test).p == 1.0


def test_ranks_of_queries_need_a_mean_over_queries() -> None:
    assert not any(map(is_query_mean, ("rmse", "mae_by_item", "coverage@10", "entropy@10", "gap:age:ndcg@10")))
    assert all(map(is_query_mean, ("ndcg@10", "rmse_by_user", "novelty@10", "exposure:genres=Drama@10")))
    assert not has_test("gini@10", "wilcoxon")
    assert has_test("gini@10", "bootstrap")


def test_other_metrics_have_no_rank_test() -> None:
    parts = segue.split(segue.load("simulated?users=60&items=30"))
    found = segue.compare(["popular", "ease"], parts, metrics=["ndcg@3", "coverage@3"], stat_test="wilcoxon")
    assert set(found.tests["metric"]) == {"ndcg@3"}
    with pytest.raises(ValueError, match=r"got 'wilcoxon', which ranks single queries, but 'coverage@3' is not a mean"):
        segue.compare(["popular", "ease"], parts, metrics=["coverage@3"], stat_test="wilcoxon")
    (test,) = segue.compare(["popular", "ease"], parts, metrics=["coverage@3"]).paired_tests["coverage@3"]
    assert test.rank_biserial is None
