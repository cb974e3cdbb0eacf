"""Compare intervals and tests with independent formulas and exact enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from segue.evaluation import bootstrap
from segue.evaluation.bootstrap import estimate
from segue.evaluation.significance import check_equivalence, compare_all, compare_pair, holm_correction


def test_the_interval_agrees_with_the_central_limit_theorem() -> None:
    values = np.random.default_rng(0).random((4000, 2)) ** np.array([1, 3])
    for column, actual in zip(values.T, estimate(values, resamples=4000), strict=True):
        error = 1.96 * column.std() / np.sqrt(len(column))
        assert actual.mean == pytest.approx(column.mean())
        assert actual.low == pytest.approx(column.mean() - error, abs=error / 10)
        assert actual.high == pytest.approx(column.mean() + error, abs=error / 10)


def test_both_resampling_methods_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both resampling methods give the standard deviation of a mean of coin flips."""
    coins = (np.random.default_rng(7).random((500, 1)) < 0.2).astype(float)
    spreads = []
    for few in (1, 10**9):
        monkeypatch.setattr(bootstrap, "MULTINOMIAL_RATIO", few)
        means = bootstrap.resample_means(coins, np.random.default_rng(8), 4000)
        assert means.mean() == pytest.approx(coins.mean(), abs=0.002)
        spreads.append(means.std())
    assert spreads == pytest.approx([coins.std() / np.sqrt(500)] * 2, rel=0.05)


def test_the_interval_has_nominal_coverage() -> None:
    rng = np.random.default_rng(1)
    held = [
        actual.low <= 0.3 <= actual.high
        for seed in range(40)
        for actual in estimate((rng.random((400, 10)) < 0.3).astype(float), seed, resamples=400)
    ]
    assert 0.91 < np.mean(held) < 0.98


def test_blocks_differ_and_seeds_are_reproducible() -> None:
    values = np.random.default_rng(2).random((50, 1))
    assert estimate(values, 3) == estimate(values, 3)
    assert estimate(values, 3) != estimate(values, 4)


def test_the_interval_of_a_constant_has_width_zero() -> None:
    actual = estimate(np.full((7, 1), 0.1))[0]
    assert actual.low == pytest.approx(0.1)
    assert actual.low <= actual.mean <= actual.high


def test_the_randomization_test_agrees_with_the_exact_test() -> None:
    """Enumerate all 2^12 signs."""
    differences = np.round(np.random.default_rng(3).normal(0.3, 1, 12), 2)
    sums = np.array(list(product([1, -1], repeat=12))) @ differences
    exact = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-9)
    row = compare_all({"a": differences, "b": np.zeros(12)}, permutations=100_000)[0]
    assert row.p == pytest.approx(exact, abs=0.006)


def test_t_test_and_randomization_test_agree_for_many_queries() -> None:
    rng = np.random.default_rng(4)
    first = rng.random(2000)
    second = first + rng.normal(0.01, 0.2, 2000)
    row = compare_pair(first, second)
    assert row.difference == pytest.approx((first - second).mean())
    assert row.p_t == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-9)
    assert row.p == pytest.approx(row.p_t, abs=0.015)
    assert row.low < row.difference < row.high
    assert row.n == 2000


def test_no_difference_is_never_significant() -> None:
    row = compare_pair([0.0, 1.0, 0.5], [0.0, 1.0, 0.5])
    assert (row.difference, row.p, row.p_t, row.p_holm) == (0.0, 1.0, 1.0, 1.0)
    assert not row.significant


def test_false_positives_have_the_nominal_rate() -> None:
    """Compare a model with itself 300 times: about 5 % of the tests have p < 0.05."""
    rng = np.random.default_rng(5)
    columns = {str(model): rng.normal(size=100) for model in range(300)} | {"base": np.zeros(100)}
    rows = compare_all(columns, baseline="base", permutations=999)
    assert 0.02 < np.mean([row.p < 0.05 for row in rows]) < 0.09
    assert not any(row.significant for row in rows)


def test_holm_correction() -> None:
    """0.01 x 4; 0.02 x 3; 0.03 x 2 = 0.06; 0.4 x 1; adjusted p-values never decrease."""
    assert holm_correction([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert holm_correction([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm_correction([]) == []


def test_pairs_and_baseline() -> None:
    rng = np.random.default_rng(6)
    values = {name: rng.random(30) for name in "abc"}
    assert [(row.first, row.second) for row in compare_all(values)] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [(row.first, row.second) for row in compare_all(values, baseline="b")] == [("a", "b"), ("c", "b")]


def test_queries_without_a_value_are_left_out() -> None:
    row = compare_pair([0.0, np.nan, 1.0], [0.5, np.nan, 0.0])
    assert (row.n, row.difference) == (2, 0.25)


def test_values_that_do_not_match_are_rejected() -> None:
    with pytest.raises(ValueError, match="got 1, expected at least 2"):
        compare_all({"a": [1.0]})
    with pytest.raises(ValueError, match=r"shapes \{'a': \(1,\), 'b': \(2,\)\}"):
        compare_all({"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match="query 1 has a value in some models"):
        compare_all({"a": [1.0, 2.0], "b": [1.0, np.nan]})
    with pytest.raises(ValueError, match="no query has a value"):
        compare_all({"a": [np.nan], "b": [np.nan]})
    with pytest.raises(ValueError, match="baseline: unknown 'sasrek', did you mean 'sasrec'"):
        compare_all({"sasrec": [1.0], "xlstm": [1.0]}, baseline="sasrek")
    with pytest.raises(ValueError, match="none of 3 queries has a true item"):
        estimate(np.full((3, 1), np.nan))


def test_equivalence_is_two_one_sided_t_tests() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(200), rng.random(200)
    found = check_equivalence({"a": first, "b": second}, 0.05)
    differences = first - second
    expected = [
        stats.ttest_1samp(differences, -0.05, alternative="greater").pvalue,
        stats.ttest_1samp(differences, 0.05, alternative="less").pvalue,
    ]
    assert [found.p_not_worse, found.p_not_better] == pytest.approx(expected)
    assert found.p == max(expected)
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.first, found.second, found.n) == ("a", "b", 200)


@pytest.mark.parametrize(
    ("shift", "equivalent", "not_worse"), [(0.0, True, True), (0.1, False, True), (-0.1, False, False)]
)
def test_equivalence_of_known_differences(shift: float, equivalent: bool, not_worse: bool) -> None:
    rng = np.random.default_rng(1)
    base = rng.random(400)
    found = check_equivalence({"a": base + shift + rng.normal(0, 0.1, 400), "b": base}, 0.03)
    assert (found.is_equivalent, found.is_not_worse) == (equivalent, not_worse)
    assert found.is_equivalent == (found.low > -0.03 and found.high < 0.03)


def test_few_queries_show_no_equivalence() -> None:
    rng = np.random.default_rng(2)
    coins = (rng.random((2, 30)) < 0.3).astype(float)
    assert not check_equivalence({"a": coins[0], "b": coins[1]}, 0.01).is_equivalent


def test_wrong_equivalence_is_rarer_than_its_level() -> None:
    """At a true difference of the margin, 5 % of the tests are wrong."""
    rng = np.random.default_rng(3)
    wrong = [
        check_equivalence({"a": base + rng.normal(0.1, 1.0, 400), "b": base}, 0.1).is_equivalent
        for base in rng.random((400, 400))
    ]
    assert np.mean(wrong) < 0.08


def test_equal_values_are_equivalent() -> None:
    values = np.random.default_rng(4).random(9)
    with_missing = np.append(values, np.nan)
    found = check_equivalence({"a": with_missing, "b": with_missing}, 1e-6)
    assert (found.p, found.difference, found.low, found.high, found.n) == (0.0, 0.0, 0.0, 0.0, 9)
    above = check_equivalence({"a": np.full(9, 0.75), "b": np.full(9, 0.25)}, 0.5)
    assert (above.p_not_worse, above.p_not_better) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "margin", "message"),
    [
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, 0.0, "margin: got 0.0, expected a finite number above 0"),
        ({"a": [1.0, 2.0], "b": [1.0, 2.0]}, float("nan"), "margin: got nan"),
        ({"a": [1.0, 2.0]}, 0.1, "models: got 1, expected 2"),
        ({"a": [1.0], "b": [1.0]}, 0.1, "got 1 query with a value, expected at least 2"),
    ],
)
def test_equivalence_explains_wrong_arguments(values: dict[str, list[float]], margin: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_equivalence(values, margin)


@pytest.mark.parametrize("margin", [True, np.True_, "0.1", None, float("inf"), -1, 1j, [0.1]])
def test_the_margin_of_equivalence_is_a_positive_number(margin: object) -> None:
    with pytest.raises(ValueError, match=r"margin: got .*, expected a finite number above 0"):
        check_equivalence({"a": [1.0, 2.0], "b": [1.0, 2.0]}, margin)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_infinite_values_are_rejected(value: float) -> None:
    values: dict[str, list[float]] = {"a": [1.0, 2.0, 3.0], "b": [1.0, value, 2.0]}
    for test in (lambda: check_equivalence(values, 0.1), lambda: compare_all(values)):
        with pytest.raises(ValueError, match=f"values per query of 'b': got {value} for query 1, expected finite"):
            test()
    with pytest.raises(ValueError, match="values per query of 'a': could not convert string"):
        check_equivalence({"a": ["x", "y"], "b": [1.0, 2.0]}, 0.1)
