"""Bootstrap and Wilcoxon tests, corrections and effect sizes against enumeration, SciPy and counting."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from segue.evaluation.power import smallest_difference
from segue.evaluation.significance import (
    benjamini_hochberg_correction,
    compare_all,
    compare_pair,
    holm_correction,
    paired_tests_table,
)
from segue.reports.paired_tests import describe_correction, describe_tests, effect_sizes_table, power_notes
from segue.reports.paired_tests import tests_table as table_of_tests

p_values = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


def test_the_bootstrap_test_agrees_with_all_samples() -> None:
    """Enumerate the 5^5 samples with replacement of five differences."""
    differences = np.array([0.5, -0.2, 0.3, 0.4, 0.0])
    means = np.array(list(product(differences, repeat=5))).mean(axis=1)
    expected = np.mean(np.abs(means - differences.mean()) >= differences.mean() - 1e-12)
    found = compare_all({"a": differences, "b": np.zeros(5)}, stat_test="bootstrap", permutations=50_000)[0]
    assert found.p == pytest.approx(expected, abs=0.006)
    assert found.stat_test == "bootstrap"


@pytest.mark.parametrize("has_ties", [False, True])
def test_the_wilcoxon_test_agrees_with_all_signs(has_ties: bool) -> None:
    """Enumerate the 2^10 signs; queries without a difference are left out."""
    rng = np.random.default_rng(3)
    differences = np.append(rng.normal(0.5, 1.0, 10), [0.0, 0.0])
    differences = np.round(differences * 2) / 2 if has_ties else differences
    nonzero = differences[differences != 0]
    sizes = np.abs(nonzero).tolist()
    ranks = np.array([sum(other < size for other in sizes) + (sizes.count(size) + 1) / 2 for size in sizes])
    signed = np.array(list(product([-1, 1], repeat=len(nonzero)))) @ ranks
    expected = np.mean(np.abs(signed) >= abs(np.sign(nonzero) @ ranks) - 1e-9)
    found = compare_all({"a": differences, "b": np.zeros(12)}, stat_test="wilcoxon")[0]
    assert found.p == pytest.approx(expected, rel=1e-9)
    assert found.rank_biserial == pytest.approx(np.sign(nonzero) @ ranks / ranks.sum())


def test_the_wilcoxon_test_of_many_queries_is_the_normal_approximation() -> None:
    """Compare with z = W / sqrt(sum of squared ranks), where W is the sum of the signed ranks, ties included."""
    rng = np.random.default_rng(4)
    first, second = (rng.integers(0, 4, (2, 400)) / 4).astype(float)
    differences = (first - second)[first != second]
    ranks = stats.rankdata(np.abs(differences))
    z = (np.sign(differences) * ranks).sum() / np.sqrt(np.square(ranks).sum())
    found = compare_pair(first, second, stat_test="wilcoxon")
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)


def test_rounding_errors_do_not_change_ranks() -> None:
    differences = np.repeat([0.1, 0.2, -0.3], 20)
    noisy = differences + np.random.default_rng(0).choice([-1e-17, 1e-17], 60)
    noisy[0] = 0.3 - 0.2
    tests = [compare_all({"a": one, "b": np.zeros(60)}, stat_test="wilcoxon")[0] for one in (differences, noisy)]
    assert tests[0].p == tests[1].p
    assert tests[0].rank_biserial == tests[1].rank_biserial


def test_student_is_the_t_test() -> None:
    first, second = np.random.default_rng(5).random((2, 30))
    found = compare_pair(first, second, stat_test="student")
    assert found.p == found.p_t == pytest.approx(stats.ttest_rel(first, second).pvalue)


@pytest.mark.parametrize("stat_test", ["randomization", "bootstrap", "wilcoxon", "student"])
def test_false_positives_have_the_nominal_rate(stat_test: str) -> None:
    """Compare 400 models without a difference: about 5 % of the tests have p < 0.05."""
    rng = np.random.default_rng(6)
    columns = {str(model): rng.normal(size=100) for model in range(400)} | {"base": np.zeros(100)}
    tests = compare_all(columns, "base", permutations=999, stat_test=stat_test)  # type: ignore[arg-type]
    assert 0.025 < np.mean([test.p < 0.05 for test in tests]) < 0.085


@pytest.mark.parametrize("stat_test", ["randomization", "bootstrap", "wilcoxon", "student"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_models_that_do_not_differ(stat_test: str, n: int) -> None:
    found = compare_pair(np.ones(n), np.ones(n), stat_test=stat_test)  # type: ignore[arg-type]
    assert (found.p, found.p_holm, found.p_fdr_bh, found.significant) == (1.0, 1.0, 1.0, False)
    assert (found.d_z, found.rank_biserial, found.smallest_difference) == (None, None, None)
    json.dumps(found.record(), allow_nan=False)


@settings(deadline=None)
@given(p=p_values)
def test_benjamini_hochberg_is_that_of_scipy(p: list[float]) -> None:
    np.testing.assert_allclose(
        benjamini_hochberg_correction(p), stats.false_discovery_control(p, method="bh"), rtol=1e-12, atol=1e-300
    )


@settings(deadline=None)
@given(p=p_values, level=st.floats(0.01, 0.2))
def test_holm_rejects_step_by_step(p: list[float], level: float) -> None:
    """The smallest p-value is tested at level / m, the next at level / (m - 1), until one is not below it."""
    rejected, order = set[int](), np.argsort(p, kind="stable")
    for step, index in enumerate(order):
        if p[index] * (len(p) - step) >= level:
            break
        rejected.add(int(index))
    corrected = holm_correction(p)
    assert {index for index, one in enumerate(corrected) if one < level} == rejected
    assert all(bh <= holm for bh, holm in zip(benjamini_hochberg_correction(p), corrected, strict=True))


def test_the_chosen_correction_decides() -> None:
    """Of 0.01, 0.03 and 0.04, Holm leaves only the first below 0.05, and Benjamini and Hochberg all."""
    assert holm_correction([0.01, 0.03, 0.04]) == pytest.approx([0.03, 0.06, 0.06])
    assert benjamini_hochberg_correction([0.01, 0.03, 0.04]) == pytest.approx([0.03, 0.04, 0.04])
    rng = np.random.default_rng(0)
    values = {name: rng.normal(0.4, 1.0, 60) for name in "bcdefg"} | {"base": np.zeros(60)}
    holm, bh = (compare_all(values, "base", correction=one) for one in ("holm", "fdr_bh"))
    assert [one.p for one in holm] == [one.p for one in bh]
    for one, other in zip(holm, bh, strict=True):
        assert (one.p_corrected, other.p_corrected) == (one.p_holm, one.p_fdr_bh)
    assert sum(one.significant for one in holm) < sum(one.significant for one in bh)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 40), st.integers(0, 2**32))
def test_effect_sizes(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 5, (2, n)) / 4
    found, swapped = compare_pair(first, second), compare_pair(second, first)
    differences = first - second
    if differences.std() > 0:
        assert found.std == pytest.approx(differences.std(ddof=1))
        assert found.d_z == pytest.approx(differences.mean() / differences.std(ddof=1))
        assert found.d_z == -swapped.d_z  # type: ignore[operator]
        assert found.smallest_difference == pytest.approx(smallest_difference(differences.std(ddof=1), n))
    else:
        assert found.d_z is found.smallest_difference is None
    if differences.any():
        ranks = stats.rankdata(np.abs(differences[differences != 0]))
        is_better = differences[differences != 0] > 0
        favor = ranks[is_better].sum() / ranks.sum()
        assert found.rank_biserial == pytest.approx(favor - (1 - favor))
        assert -1 <= found.rank_biserial <= 1


def test_the_smallest_difference_holds_for_the_corrected_level() -> None:
    values = {name: np.random.default_rng(number).random(80) for number, name in enumerate("abc")}
    for test in compare_all(values):
        assert test.n_tests == 3
        assert test.smallest_difference == pytest.approx(smallest_difference(test.std, 80, 0.8, 0.05 / 3))  # type: ignore[arg-type]


def test_unknown_tests_and_corrections() -> None:
    values = {"a": [1.0, 2.0], "b": [2.0, 1.0]}
    with pytest.raises(ValueError, match="stat_test: got 'wilcox', expected 'randomization' or 'bootstrap' or"):
        compare_all(values, stat_test="wilcox")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="correction: got 'none', expected 'holm' or 'fdr_bh'"):
        compare_all(values, correction="none")  # type: ignore[arg-type]


def test_tables_and_notes() -> None:
    rng = np.random.default_rng(8)
    base = rng.random(50)
    values = {"a": base, "b": base + rng.normal(0.3, 0.1, 50), "c": base + rng.normal(0.005, 0.1, 50)}
    tests = compare_all(values, stat_test="wilcoxon", correction="fdr_bh")
    result = {"metric": "ndcg@10", "tests": [test.record() for test in tests]}
    table = table_of_tests(result)
    assert table.title == "Paired Wilcoxon signed-rank tests of NDCG@10"
    assert table.columns[-2] == "p (BH)"
    (note,) = power_notes(result)
    assert note == (
        "a − c: smallest difference that would be found with 80 % probability: "
        f"{smallest_difference(tests[1].std, 50, 0.8, 0.05 / 3):.4f}"  # type: ignore[arg-type]
    )
    sizes = effect_sizes_table(result)
    assert sizes is not None
    assert sizes.rows[0] == ("b − a", f"{-tests[0].d_z:+.4f}", f"{-tests[0].rank_biserial:+.4f}")  # type: ignore[operator]
    assert "Wilcoxon" in describe_tests(result)
    assert "Benjamini and Hochberg" in describe_correction(result)
    frame = paired_tests_table({"ndcg@10": tests})
    assert frame["significant"].to_list() == [test.significant for test in tests]
    assert frame["smallest_difference"].to_list() == [test.smallest_difference for test in tests]
    assert "would be found with 80 % probability" in str(tests[1])


def test_results_of_older_versions_have_no_effect_sizes() -> None:
    old = {"first": "a", "second": "b", "difference": 0.1, "low": 0.0, "high": 0.2, "n": 9}
    old |= {"p": 0.1, "p_t": 0.1, "p_holm": 0.1, "significant": False}
    result = {"metric": "ndcg@10", "tests": [old]}
    assert table_of_tests(result).columns[-2] == "p (Holm)"
    assert effect_sizes_table(result) is None
    assert power_notes(result) == []
