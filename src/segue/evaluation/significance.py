"""Paired tests of models over the same queries, corrected for the number of pairs.

The tests (Smucker, Allan and Carterette 2007, doi:10.1145/1321440.1321528, compare them):

- ``randomization``: if two models are equally good, the sign of each query's difference is random. The p-value is the
  share of random signs with a mean difference at least as large.
- ``bootstrap``: the differences, shifted to a mean of 0, are resampled. The p-value is the share of samples with a mean
  at least as far from 0 as the observed one. With fewer than about 30 queries it is too small.
- ``wilcoxon``: the signed-rank test of Wilcoxon (1945, doi:10.2307/3001968). It compares the ranks of the differences
  and not their mean, so that it can find a model better that has the lower mean. Queries without a difference are left
  out.
- ``student``: Student's paired t-test, which is reported beside each of the others.

The corrections: ``holm`` (1979) bounds the probability of any false positive in the family of pairs, ``fdr_bh``
(Benjamini and Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x) the expected share of false positives among the
significant pairs.

That a difference is not significant does not show that it is small: :attr:`PairedTest.smallest_difference` says what
the queries can show. :func:`check_equivalence` tests that a difference is small: its null hypothesis is a difference of
at least a margin, which has to be chosen before the values are seen.

Shapes: N queries, P pairs, B random sign assignments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segue.core.config import suggest
from segue.core.model import is_query_mean
from segue.evaluation.bootstrap import estimate, resample_means
from segue.evaluation.power import LEVEL, POWER, smallest_difference

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Correction",
    "EquivalenceTest",
    "PairedTest",
    "StatTest",
    "benjamini_hochberg_correction",
    "check_equivalence",
    "check_tests",
    "compare_all",
    "compare_pair",
    "holm_correction",
    "paired_tests_table",
]

StatTest: TypeAlias = Literal["randomization", "bootstrap", "wilcoxon", "student"]
Correction: TypeAlias = Literal["holm", "fdr_bh"]

CORRECTION_LABELS = {"holm": "Holm", "fdr_bh": "BH"}

PERMUTATIONS = 9_999
PRECISION = 1e-9  # differences below this share of the values are rounding errors
BLOCK_SIGNS = 4_000_000
"""Random signs drawn at once."""


@dataclass(frozen=True)
class PairedTest:
    """Difference ``first`` minus ``second``, over the queries that have a value."""

    first: str
    second: str
    difference: float
    """Mean difference; above 0 where ``first`` is better."""
    low: float
    """Lower end of its 95 % bootstrap interval."""
    high: float
    """Upper end."""
    p: float
    """Two-sided p-value of ``stat_test``."""
    p_t: float
    """Two-sided p-value of Student's paired t-test; 1 where all differences are 0, 0 where all are another number."""
    p_holm: float
    """``p`` with Holm's correction for all pairs of the family."""
    n: int
    """Number of queries."""
    p_fdr_bh: float | None = None
    """``p`` with the correction of Benjamini and Hochberg."""
    std: float | None = None
    """Standard deviation of the differences per query; ``None`` with one query, or in a test that has none."""
    rank_biserial: float | None = None
    """Rank-biserial correlation of the pairs: an effect size in [-1, 1].

    The share of the ranks of the absolute differences that is in favor of ``first``, minus the share in favor of
    ``second``. Queries without a difference do not count; ``None`` without any other. Kerby 2014,
    doi:10.2466/11.IT.3.1.
    """
    n_tests: int = 1
    """Number of pairs of the family."""
    stat_test: StatTest = "randomization"
    """The test of ``p``."""
    correction: Correction = "holm"
    """The correction that decides what is significant."""

    @property
    def p_corrected(self) -> float:
        """Return ``p`` with the chosen correction."""
        return self.p_fdr_bh if self.correction == "fdr_bh" and self.p_fdr_bh is not None else self.p_holm

    @property
    def significant(self) -> bool:
        """Return whether the corrected p-value is below 0.05."""
        return self.p_corrected < LEVEL

    @property
    def d_z(self) -> float | None:
        """Return Cohen's effect size of pairs, the mean difference divided by ``std``.

        ``None`` where the differences do not vary.
        """
        return self.difference / self.std if self.std else None

    @property
    def smallest_difference(self) -> float | None:
        """Return the difference that would be found with a probability of 80 %.

        The level is 0.05 divided by the number of pairs, at which a difference is significant whatever the other pairs
        are. ``None`` where the differences do not vary.
        """
        return smallest_difference(self.std, self.n, POWER, LEVEL / self.n_tests) if self.std else None

    def __str__(self) -> str:
        first, second, difference, low, high = self.first, self.second, self.difference, self.low, self.high
        if difference < 0:  # the better one first
            first, second, difference, low, high = second, first, -difference, -high, -low
        outcome = "significant"
        if not self.significant:
            outcome = "not significant"
            if self.smallest_difference is not None:
                outcome += f"; {self.smallest_difference:.4f} would be found with {POWER * 100:.0f} % probability"
        label = CORRECTION_LABELS[self.correction]
        return (
            f"{first} - {second}: {difference:+.4f} [{low:+.4f}, {high:+.4f}], p ({label}) {self.p_corrected:.4f}, "
            f"{outcome}"
        )

    def record(self) -> dict[str, Any]:
        """Return everything by name, for JSON."""
        names = ("significant", "d_z", "smallest_difference")
        return asdict(self) | {name: getattr(self, name) for name in names}


def compare_pair(
    first: ArrayLike, second: ArrayLike, seed: int = 0, stat_test: StatTest = "randomization"
) -> PairedTest:
    """Compare two models by their values per query ``(N,)``.

    The queries must have the same order.
    """
    return compare_all({"first": first, "second": second}, seed=seed, stat_test=stat_test)[0]


def compare_all(
    values: Mapping[str, ArrayLike],
    baseline: str | None = None,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    stat_test: StatTest = "randomization",
    correction: Correction = "holm",
) -> tuple[PairedTest, ...]:
    """Compare models in pairs by their values per query.

    The tests together are one family.

    Args:
        values: ``(N,)`` per model, in the same order of queries; more is better. A NaN (query without a true item) must
            be one in all models.
        baseline: compare every other model with this one; ``None``: every pair, in the order of ``values``.
        permutations: random sign assignments, or bootstrap samples; the smallest p-value of these tests is
            ``1 / (permutations + 1)``.
        stat_test: the test of ``p``, see the top of this module.
        correction: what decides whether a difference is significant, likewise.

    Raises:
        ValueError: fewer than two models, an unknown ``baseline``, test or correction, or values of different queries.
    """
    check_tests(stat_test, correction)
    names, values_NM = _stack_values(values)
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline: unknown '{baseline}'{suggest(baseline, names)}")
    pairs = [pair for pair in combinations(names, 2) if baseline is None or baseline in pair]
    if baseline is not None:
        pairs = [(name, baseline) for name in names if name != baseline]
    first = [names.index(a) for a, _ in pairs]
    second = [names.index(b) for _, b in pairs]
    differences_NP = _subtract(values_NM[:, first], values_NM[:, second])
    rng = np.random.default_rng(seed)
    intervals, p_t_P = estimate(differences_NP, seed), _paired_t_test(differences_NP)
    nonzero_P = [_round_differences(one) for one in differences_NP.T]
    match stat_test:
        case "randomization":
            p_P = _randomization_test(differences_NP, rng, permutations)
        case "bootstrap":
            p_P = _bootstrap_test(differences_NP, rng, permutations)
        case "wilcoxon":
            p_P = [_wilcoxon_test(one) for one in nonzero_P]
        case "student":
            p_P = p_t_P
    n = len(differences_NP)
    std_P = _standard_deviation(differences_NP).tolist() if n > 1 else [None] * len(pairs)
    corrected = zip(holm_correction(p_P), benjamini_hochberg_correction(p_P), strict=True)
    return tuple(
        PairedTest(
            first, second, interval.mean, interval.low, interval.high, p, p_t, p_holm, n,
            p_fdr_bh, std, rank_biserial, len(pairs), stat_test, correction,
        )
        for (first, second), interval, p, p_t, (p_holm, p_fdr_bh), std, rank_biserial in zip(
            pairs, intervals, p_P, p_t_P, corrected, std_P, map(_rank_biserial, nonzero_P), strict=True
        )
    )  # fmt: skip


def has_test(metric: str, stat_test: StatTest) -> bool:
    """Return whether a test applies to a metric; Wilcoxon's: to means over queries."""
    return stat_test != "wilcoxon" or is_query_mean(metric)


def check_test_of_metric(metric: str, stat_test: StatTest) -> None:
    """Check that a test applies to a metric.

    Raises:
        ValueError: it does not.
    """
    if not has_test(metric, stat_test):
        raise ValueError(
            f"stat_test: got '{stat_test}', which ranks single queries, but '{metric}' is not a mean over queries; "
            "expected 'randomization', 'bootstrap' or 'student'"
        )


def check_tests(stat_test: str, correction: str) -> None:
    """Check the names of a test and of a correction.

    Raises:
        ValueError: an unknown name.
    """
    for name, value, known in (("stat_test", stat_test, StatTest), ("correction", correction, Correction)):
        if value not in get_args(known):
            raise ValueError(f"{name}: got {value!r}, expected {' or '.join(map(repr, get_args(known)))}")


def paired_tests_table(tests: Mapping[str, Sequence[PairedTest]]) -> pl.DataFrame:
    """Return a table with one row per metric and pair."""
    import polars as pl

    schema: dict[str, Any] = dict.fromkeys(("metric", "first", "second"), pl.String)
    schema |= dict.fromkeys(("difference", "low", "high", "p", "p_t", "p_holm"), pl.Float64)
    schema |= {"significant": pl.Boolean}
    schema |= dict.fromkeys(("p_fdr_bh", "d_z", "rank_biserial", "smallest_difference"), pl.Float64)
    rows = [{"metric": metric, **test.record()} for metric, family in tests.items() for test in family]
    return pl.DataFrame([{name: row[name] for name in schema} for row in rows], schema=schema)


@dataclass(frozen=True)
class EquivalenceTest:
    """Two one-sided paired t-tests of ``first`` minus ``second`` against a margin.

    Schuirmann 1987, doi:10.1007/BF01068419.
    """

    first: str
    second: str
    margin: float
    """Differences within plus and minus this value count as none; above 0."""
    difference: float
    """Mean difference."""
    low: float
    """Lower end of its 90 % t-interval, which lies within the margin exactly if ``p`` is below 0.05."""
    high: float
    """Upper end."""
    p_not_worse: float
    """One-sided p-value of ``first`` being at least ``margin`` below ``second``; low: it is not (non-inferiority)."""
    p_not_better: float
    """One-sided p-value of ``first`` being at least ``margin`` above ``second``."""
    n: int
    """Number of queries."""

    @property
    def p(self) -> float:
        """Return the p-value of equivalence, the higher of the two."""
        return max(self.p_not_worse, self.p_not_better)

    @property
    def is_equivalent(self) -> bool:
        """Return whether the difference is within the margin, at the level 0.05."""
        return self.p < 0.05

    @property
    def is_not_worse(self) -> bool:
        """Return whether ``first`` is less than the margin below ``second``.

        At the level 0.05, as :attr:`is_equivalent`.
        """
        return self.p_not_worse < 0.05


def check_equivalence(values: Mapping[str, ArrayLike], margin: float) -> EquivalenceTest:
    """Test whether the mean difference of two models lies within a margin.

    Args:
        values: ``(N,)`` for each of two models, in the same order of queries. A NaN (query without a true item) must be
            one in both.
        margin: the smallest difference that matters, in the unit of the values; chosen before the values are seen.

    Raises:
        ValueError: other than two models, values that are not finite or of different queries, fewer than two queries,
            or a margin that is not a finite number above 0.
    """
    from scipy.stats import t

    is_number = isinstance(margin, int | float | np.integer | np.floating) and not isinstance(margin, bool)
    if not is_number or not 0 < margin < np.inf:
        raise ValueError(f"margin: got {margin!r}, expected a finite number above 0")
    if len(values) != 2:
        raise ValueError(f"models: got {len(values)}, expected 2 to test for equivalence")
    (first, second), values_NM = _stack_values(values)
    differences_N = values_NM[:, 0] - values_NM[:, 1]
    n = len(differences_N)
    if n < 2:
        raise ValueError(f"values per query: got {n} query with a value, expected at least 2 to estimate an error")
    mean, error = float(differences_N.mean()), float(differences_N.std(ddof=1) / np.sqrt(n))
    half_width = error * float(t.ppf(0.95, n - 1))

    def p_within(distance: float) -> float:
        """Return the p-value of a bound that lies ``distance`` away from the mean."""
        return float(t.sf(distance / error, n - 1)) if error else float(distance <= 0)

    return EquivalenceTest(
        first, second, margin, mean, mean - half_width, mean + half_width,
        p_within(margin + mean), p_within(margin - mean), n,
    )  # fmt: skip


def holm_correction(p: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction to a family of p-values, in the order given."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def benjamini_hochberg_correction(p: Sequence[float]) -> list[float]:
    """Apply the correction of Benjamini and Hochberg to a family of p-values.

    The order is kept. A pair whose corrected value is below q is significant at the false discovery rate q. The rate is
    bounded for independent tests and for many forms of positive dependence.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")[::-1]
    scaled = values[order] * len(values) / np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return [float(value) for value in corrected]


def _stack_values(values: Mapping[str, ArrayLike]) -> tuple[list[str], NDArray[np.float64]]:
    """Stack the values of all models, without queries that have no value."""
    if len(values) < 2:
        raise ValueError(f"models: got {len(values)}, expected at least 2 to compare")
    columns = {name: _to_numbers(name, column) for name, column in values.items()}
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(f"values per query: got shapes {shapes}, expected the same number of queries for each model")
    table = np.column_stack(list(columns.values()))
    missing = np.isnan(table)
    if (missing.any(axis=1) != missing.all(axis=1)).any():
        row = int(np.argmax(missing.any(axis=1) != missing.all(axis=1)))
        raise ValueError(f"values per query: query {row} has a value in some models only, expected in all or in none")
    table = table[~missing[:, 0]]
    if len(table) == 0:
        raise ValueError("values per query: no query has a value, expected at least one")
    return list(columns), table


def _to_numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Convert the values of a model; NaN marks a query without a value.

    Raises:
        ValueError: a value is infinite, or no number.
    """
    try:
        numbers_N = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"values per query of '{name}': {error}, expected numbers") from None
    if np.isinf(numbers_N).any():
        index = int(np.flatnonzero(np.isinf(numbers_N))[0])
        raise ValueError(
            f"values per query of '{name}': got {numbers_N.flat[index]} for query {index}, expected finite numbers, or "
            "NaN for a query without a value"
        )
    return numbers_N


def _subtract(first_NP: NDArray[np.float64], second_NP: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return differences without rounding errors."""
    largest_P = np.maximum(np.abs(first_NP), np.abs(second_NP)).max(axis=0)
    return np.where(np.abs(first_NP - second_NP) > PRECISION * largest_P, first_NP - second_NP, 0.0)


def _standard_deviation(differences_NP: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation, ``(P,)``, without rounding errors."""
    std_P = differences_NP.std(axis=0, ddof=1)
    return np.where(std_P > PRECISION * np.abs(differences_NP).max(axis=0), std_P, 0.0)


def _randomization_test(
    differences_NP: NDArray[np.float64], rng: np.random.Generator, permutations: int
) -> list[float]:
    """Compute the p-values of the paired randomization test.

    The share of sign assignments with a mean at least as far from 0 as the observed one, which counts too.
    """
    nonzero = differences_NP[(differences_NP != 0).any(axis=1)]
    n, n_pairs = nonzero.shape
    if n == 0:
        return [1.0] * n_pairs
    observed = np.abs(nonzero.sum(axis=0))
    tolerance = 1e-12 * np.abs(nonzero).sum(axis=0)  # sums of the same numbers in another order are equal
    n_extreme = np.zeros(n_pairs, np.int64)
    step = max(1, BLOCK_SIGNS // n)
    for start in range(0, permutations, step):
        size = min(step, permutations - start)
        packed = rng.integers(0, 256, (size, -(-n // 8)), dtype=np.uint8)
        is_positive = np.unpackbits(packed, axis=1, count=n)
        sums = 2.0 * (is_positive.astype(np.float64) @ nonzero) - nonzero.sum(axis=0)
        n_extreme += (np.abs(sums) >= observed - tolerance).sum(axis=0)
    return [float(count) for count in (n_extreme + 1) / (permutations + 1)]


def _bootstrap_test(differences_NP: NDArray[np.float64], rng: np.random.Generator, samples: int) -> list[float]:
    """Compute the p-values of the paired bootstrap test (the shift method).

    The share of bootstrap samples whose mean is at least as far from the observed mean as that is from 0; the observed
    mean counts too.
    """
    mean = differences_NP.mean(axis=0)
    if len(differences_NP) < 2:  # resampling one query says nothing about others
        return [1.0] * len(mean)
    tolerance = 1e-12 * np.abs(differences_NP).max(axis=0)
    means_BP = resample_means(differences_NP, rng, samples)
    n_extreme = (np.abs(means_BP - mean) >= np.abs(mean) - tolerance).sum(axis=0)
    return [float(count) for count in (n_extreme + 1) / (samples + 1)]


def _round_differences(differences_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the differences that are not 0, without rounding errors.

    Their unit is the largest.

    Differences that are equal but for rounding errors get equal ranks.
    """
    largest = np.abs(differences_N).max()
    if largest == 0:
        return differences_N[:0]
    rounded_N: NDArray[np.float64] = np.round(differences_N / largest, 12)
    return rounded_N[np.flatnonzero(rounded_N)]


def _wilcoxon_test(nonzero_N: NDArray[np.float64]) -> float:
    """Compute the p-value of Wilcoxon's test of differences that are not 0.

    Without ties, up to 50 differences are tested exactly, and with ties up to 13; more by the normal approximation.
    """
    from scipy.stats import wilcoxon

    return float(wilcoxon(nonzero_N).pvalue) if len(nonzero_N) else 1.0


def _rank_biserial(nonzero_N: NDArray[np.float64]) -> float | None:
    from scipy.stats import rankdata

    ranks_N = rankdata(np.abs(nonzero_N))
    return float((np.sign(nonzero_N) * ranks_N).sum() / ranks_N.sum()) if len(nonzero_N) else None


def _paired_t_test(differences_NP: NDArray[np.float64]) -> list[float]:
    from scipy.stats import t

    n = len(differences_NP)
    mean = differences_NP.mean(axis=0)
    if n < 2:
        return [1.0] * len(mean)
    standard_error = _standard_deviation(differences_NP) / np.sqrt(n)
    varies = standard_error > 0
    p = np.where(mean == 0, 1.0, 0.0)  # where all differences are equal
    p[varies] = 2.0 * t.sf(np.abs(mean[varies] / standard_error[varies]), n - 1)
    return [float(value) for value in p]
