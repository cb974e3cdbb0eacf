"""Is one model better than another? Paired comparisons over the same queries, corrected for how many are made.

The p-value is that of the paired randomisation test: under the hypothesis that the two models are the same, the sign
of each query's difference is a coin (Smucker, Allan and Carterette 2007, doi:10.1145/1321440.1321528). Student's
paired t stands beside it. Holm's correction (1979) bounds the chance of any false finding in the family.

Shapes: N queries, P pairs, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segue.core.config import suggest
from segue.evaluation.bootstrap import estimate

__all__ = ["Comparison", "compare", "holm", "paired"]

FLIPS = 9_999
BLOCK_SIGNS = 4_000_000


@dataclass(frozen=True)
class Comparison:
    """``first`` minus ``second``, over the queries both answered."""

    first: str
    second: str
    difference: float
    """Mean difference; above 0 where ``first`` is better."""
    low: float
    """Lower end of its 95 % bootstrap interval."""
    high: float
    """Upper end."""
    p: float
    """Two-sided, paired randomisation test."""
    p_t: float
    """Two-sided, Student's paired t: a cross-check; 1 where there is no difference at all."""
    p_holm: float
    """``p`` corrected for all pairs of the family."""
    n: int
    """Queries."""

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05."""
        return self.p_holm < 0.05


def paired(first: ArrayLike, second: ArrayLike, seed: int = 0) -> Comparison:
    """Compare two models by their values per query ``(N,)``, in the same order of queries."""
    return compare({"first": first, "second": second}, seed=seed)[0]


def compare(
    values: Mapping[str, ArrayLike], against: str | None = None, seed: int = 0, flips: int = FLIPS
) -> tuple[Comparison, ...]:
    """Compare models by their values per query; the comparisons together are one family.

    Args:
        values: ``(N,)`` per model, in the same order of queries; a NaN (no true item) must be one in all models.
        against: compare all others with this one; ``None``: every pair, in the order of ``values``.
        flips: random assignments of signs; the smallest p-value is ``1 / (flips + 1)``.

    Raises:
        ValueError: fewer than two models, an unknown ``against``, or values that do not belong to the same queries.
    """
    names, values_NM = _aligned(values)
    if against is not None and against not in names:
        raise ValueError(f"against: unknown '{against}'{suggest(against, names)}")
    pairs = [pair for pair in combinations(names, 2) if against is None or against in pair]
    if against is not None:
        pairs = [(name, against) for name in names if name != against]
    first = [names.index(a) for a, _ in pairs]
    second = [names.index(b) for _, b in pairs]
    differences_NP = values_NM[:, first] - values_NM[:, second]
    rng = np.random.default_rng(seed)
    intervals = estimate(differences_NP, seed)
    p_P = _randomised(differences_NP, rng, flips)
    rows = [
        Comparison(a, b, interval.mean, interval.low, interval.high, p, p_t, p, len(differences_NP))
        for (a, b), interval, p, p_t in zip(pairs, intervals, p_P, _student(differences_NP), strict=True)
    ]
    return tuple(replace(row, p_holm=p) for row, p in zip(rows, holm([row.p for row in rows]), strict=True))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family of p-values, in the order given."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def _aligned(values: Mapping[str, ArrayLike]) -> tuple[list[str], NDArray[np.float64]]:
    if len(values) < 2:
        raise ValueError(f"models: got {len(values)}, expected at least 2 to compare")
    columns = {name: np.asarray(column, np.float64) for name, column in values.items()}
    shapes = {name: column.shape for name, column in columns.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(f"values per query: got shapes {shapes}, expected the same number of queries for each model")
    table = np.column_stack(list(columns.values()))
    missing = np.isnan(table)
    if (missing.any(axis=1) != missing.all(axis=1)).any():
        row = int(np.argmax(missing.any(axis=1) != missing.all(axis=1)))
        raise ValueError(f"values per query: query {row} has a value in some models and none in others")
    table = table[~missing[:, 0]]
    if len(table) == 0:
        raise ValueError("values per query: no query has a value")
    return list(columns), table


def _randomised(differences_NP: NDArray[np.float64], rng: np.random.Generator, flips: int) -> list[float]:
    """Share of random signs that give a mean as far from 0 as the one seen, the one seen among them."""
    moving = differences_NP[(differences_NP != 0).any(axis=1)]
    n, n_pairs = moving.shape
    if n == 0:
        return [1.0] * n_pairs
    seen = np.abs(moving.sum(axis=0))
    slack = 1e-12 * np.abs(moving).sum(axis=0)  # sums of the same numbers in another order are equal
    as_far = np.zeros(n_pairs, np.int64)
    step = max(1, BLOCK_SIGNS // n)
    for start in range(0, flips, step):
        size = min(step, flips - start)
        packed = rng.integers(0, 256, (size, -(-n // 8)), dtype=np.uint8)
        heads = np.unpackbits(packed, axis=1, count=n)
        sums = 2.0 * (heads.astype(np.float64) @ moving) - moving.sum(axis=0)
        as_far += (np.abs(sums) >= seen - slack).sum(axis=0)
    return [float(count) for count in (as_far + 1) / (flips + 1)]


def _student(differences_NP: NDArray[np.float64]) -> list[float]:
    from scipy.stats import t

    n = len(differences_NP)
    mean = differences_NP.mean(axis=0)
    spread = differences_NP.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros_like(mean)
    p = np.ones(len(mean))
    moving = spread > 0
    p[moving] = 2.0 * t.sf(np.abs(mean[moving] / spread[moving]), n - 1)
    return [float(value) for value in p]
