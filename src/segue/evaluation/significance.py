"""Paired tests of models over the same queries, with Holm's correction.

The p-value is that of the paired randomization test: if two models are equally good, the sign of each query's
difference is random (Smucker, Allan and Carterette 2007, doi:10.1145/1321440.1321528). Student's paired t-test is
reported beside it. Holm's correction (1979) bounds the probability of any false positive in the family.

That a difference is not significant does not show that it is small. :func:`check_equivalence` tests that: its null
hypothesis is a difference of at least a margin, which has to be chosen before the values are seen.

Shapes: N queries, P pairs, B random sign assignments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segue.core.config import suggest
from segue.evaluation.bootstrap import estimate

__all__ = ["EquivalenceTest", "PairedTest", "check_equivalence", "compare_all", "compare_pair", "holm_correction"]

PERMUTATIONS = 9_999
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
    """Two-sided p-value of the paired randomization test."""
    p_t: float
    """Two-sided p-value of Student's paired t-test; 1 where all differences are 0."""
    p_holm: float
    """``p`` corrected for all pairs of the family."""
    n: int
    """Number of queries."""

    @property
    def significant(self) -> bool:
        """Return whether the corrected p-value is below 0.05."""
        return self.p_holm < 0.05


def compare_pair(first: ArrayLike, second: ArrayLike, seed: int = 0) -> PairedTest:
    """Compare two models by their values per query ``(N,)``.

    The queries must have the same order.
    """
    return compare_all({"first": first, "second": second}, seed=seed)[0]


def compare_all(
    values: Mapping[str, ArrayLike], baseline: str | None = None, seed: int = 0, permutations: int = PERMUTATIONS
) -> tuple[PairedTest, ...]:
    """Compare models in pairs by their values per query.

    The tests together are one family.

    Args:
        values: ``(N,)`` per model, in the same order of queries; more is better. A NaN (query without a true item) must
            be one in all models.
        baseline: compare every other model with this one; ``None``: every pair, in the order of ``values``.
        permutations: random sign assignments; the smallest p-value is ``1 / (permutations + 1)``.

    Raises:
        ValueError: fewer than two models, an unknown ``baseline``, or values of different queries.
    """
    names, values_NM = _stack_values(values)
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline: unknown '{baseline}'{suggest(baseline, names)}")
    pairs = [pair for pair in combinations(names, 2) if baseline is None or baseline in pair]
    if baseline is not None:
        pairs = [(name, baseline) for name in names if name != baseline]
    first = [names.index(a) for a, _ in pairs]
    second = [names.index(b) for _, b in pairs]
    differences_NP = values_NM[:, first] - values_NM[:, second]
    rng = np.random.default_rng(seed)
    intervals = estimate(differences_NP, seed)
    p_P = _randomization_test(differences_NP, rng, permutations)
    tests = [
        PairedTest(a, b, interval.mean, interval.low, interval.high, p, p_t, p, len(differences_NP))
        for (a, b), interval, p, p_t in zip(pairs, intervals, p_P, _paired_t_test(differences_NP), strict=True)
    ]
    corrected = holm_correction([test.p for test in tests])
    return tuple(replace(test, p_holm=p) for test, p in zip(tests, corrected, strict=True))


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


def _paired_t_test(differences_NP: NDArray[np.float64]) -> list[float]:
    from scipy.stats import t

    n = len(differences_NP)
    mean = differences_NP.mean(axis=0)
    standard_error = differences_NP.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros_like(mean)
    p = np.ones(len(mean))
    varies = standard_error > 0
    p[varies] = 2.0 * t.sf(np.abs(mean[varies] / standard_error[varies]), n - 1)
    return [float(value) for value in p]
