"""Ranking metrics: functions of the ranks of the true items.

``f(ranks, k)`` returns ``(N,)`` values in [0, 1]; only the first ``k`` ranks count. ``auc`` and ``r_precision`` have no
k: ``auc(ranks)`` counts all ranks, ``r_precision(ranks)`` as many as the query has true items. Tied scores count at
their expected rank (:attr:`segue.core.types.Ranks.expected_ranks`). The value of a query without a true item is NaN,
and such queries are excluded from means. Any function of this signature is a metric, and is accepted wherever the name
of a metric is.

``rbp@10`` is :func:`rbp` with its default persistence, ``rbp:0.95@10`` with a persistence of 0.95.

Below, *relevant* is the number of true items of a query and *found* the number of them within the first k ranks.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.registry import exported_functions, plugins
from segue.core.types import Ranks

__all__ = ["auc", "f1", "hit_rate", "map", "mrr", "ndcg", "precision", "r_precision", "rbp", "recall"]

PLUGINS = "segue.metrics"
"""Entry-point group for metrics from other packages: the name, and a function of the signature above."""

Values: TypeAlias = NDArray[np.float64]
Metric: TypeAlias = Callable[..., Values]


@dataclass(frozen=True)
class RankingMetric:
    """A metric at a cutoff."""

    name: str
    """Such as ``ndcg@10``; without a cutoff the function's name alone."""
    function: Metric
    k: int | None

    def __call__(self, ranks: Ranks) -> Values:
        """Compute the ``(N,)`` values of the metric.

        Raises:
            ValueError: the function returns another shape.
        """
        result = self.function(ranks) if self.k is None else self.function(ranks, self.k)
        values = np.asarray(result, np.float64)
        if values.shape != (len(ranks),):
            raise ValueError(f"metric {self.name}: returned shape {values.shape}, expected ({len(ranks)},)")
        return values


MetricLike: TypeAlias = "str | Metric | RankingMetric | tuple[Metric, int]"


def recall(ranks: Ranks, k: int) -> Values:
    """Compute recall: found / relevant, the share of the true items that is found."""
    return _mask_empty(ranks, _count_found(ranks, k) / np.maximum(_count_relevant(ranks), 1))


def precision(ranks: Ranks, k: int) -> Values:
    """Compute precision: found / k, the share of the list that is true."""
    return _mask_empty(ranks, _count_found(ranks, k) / k)


def hit_rate(ranks: Ranks, k: int) -> Values:
    """Compute the hit rate: 1 where any true item is found, else 0."""
    return _mask_empty(ranks, np.minimum(_count_found(ranks, k), 1.0))


def mrr(ranks: Ranks, k: int) -> Values:
    """Compute the mean reciprocal rank: 1 / rank of the first true item found, else 0."""
    rows, found_ranks, nth = _found_in_order(ranks, k)
    first = nth == 1
    values = np.zeros(len(ranks))
    values[rows[first]] = 1.0 / found_ranks[first]
    return _mask_empty(ranks, values)


def ndcg(ranks: Ranks, k: int) -> Values:
    """Compute the normalized discounted cumulative gain with binary relevance.

    Each true item found gains 1 / log2(1 + rank); the sum is divided by that of min(k, relevant) items at the first
    ranks. Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418.
    """
    rows, found_ranks, _ = _found_in_order(ranks, k)
    gain = np.bincount(rows, weights=1.0 / np.log2(1.0 + found_ranks), minlength=len(ranks))
    ideal = np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))
    return _mask_empty(ranks, gain / ideal[np.clip(_count_relevant(ranks), 1, k) - 1])


def map(ranks: Ranks, k: int) -> Values:  # noqa: A001 - the metric's name
    """Compute the mean average precision.

    Precision is summed at the rank of each true item found, and divided by min(k, relevant).

    A list of true items only has the value 1; TREC's ``map_cut`` divides by *relevant* instead.
    """
    rows, found_ranks, nth = _found_in_order(ranks, k)
    total = np.bincount(rows, weights=nth / found_ranks, minlength=len(ranks))
    return _mask_empty(ranks, total / np.clip(_count_relevant(ranks), 1, k))


def f1(ranks: Ranks, k: int) -> Values:
    """Compute F1: the harmonic mean of precision and recall, 2 found / (k + relevant)."""
    return _mask_empty(ranks, 2.0 * _count_found(ranks, k) / (k + _count_relevant(ranks)))


def r_precision(ranks: Ranks) -> Values:
    """Compute R-precision: the precision of the first R items, for R true items.

    It equals the recall of these R items. With one true item it is 1 where that item is at the first rank, else 0.
    Given lists with fewer than R items miss the others. Buckley and Voorhees 2005, "Retrieval System Evaluation".
    """
    relevant = _count_relevant(ranks)
    is_found = ranks.expected_ranks <= relevant[ranks.rows]
    found = np.bincount(ranks.rows[is_found], minlength=len(ranks)).astype(np.float64)
    return _mask_empty(ranks, found / np.maximum(relevant, 1))


def rbp(ranks: Ranks, k: int, persistence: float = 0.8) -> Values:
    """Compute the rank-biased precision: true items seen per item seen.

    A user looks at the first item, and goes on from each item to the next with the probability ``persistence``. Each
    true item found adds (1 - persistence) persistence ** (rank - 1). Even a list of true items only has the value 1 -
    persistence ** k, which is 0.893 for the first 10 ranks and the default, and the ranks below k could add at most the
    rest. Moffat and Zobel 2008, doi:10.1145/1416950.1416952, who use 0.5, 0.8 and 0.95.

    Args:
        persistence: above 0 and below 1; the expected number of items seen is 1 / (1 - persistence), by default 5.
    """
    if not 0 < persistence < 1:
        raise ValueError(f"persistence: got {persistence!r}, expected a number above 0 and below 1")
    rows, found_ranks, _ = _found_in_order(ranks, k)
    weights: Values = (1.0 - persistence) * np.power(persistence, found_ranks - 1.0)
    return _mask_empty(ranks, np.bincount(rows, weights=weights, minlength=len(ranks)).astype(np.float64))


def auc(ranks: Ranks) -> Values:
    """Compute the area under the ROC curve.

    It is the share of pairs of a true and another candidate that are in the right order. Tied pairs count half, and
    those of a true item that is not a candidate not at all. All ranks count, so that a difference among the first ten
    hardly changes it. Queries without another candidate have no value.
    """
    relevant = _count_relevant(ranks)
    rows, expected = ranks.rows, ranks.expected_ranks
    is_candidate = np.isfinite(expected)
    found = np.bincount(rows[is_candidate], minlength=len(ranks))
    others = ranks.n_candidates - found
    n_wrong = np.bincount(rows[is_candidate], expected[is_candidate], len(ranks)) - found * (found + 1) / 2
    pairs = relevant * others
    return np.where(pairs > 0, (found * others - n_wrong) / np.maximum(pairs, 1), np.nan)


def parse_metric(name: str) -> tuple[Metric, int]:
    """Parse a name such as ``ndcg@10`` into the metric's function and its k.

    Raises:
        ValueError: an unknown metric, or no k of at least 1.
    """
    key, at, cutoff = name.partition("@")
    function = find_metric(key)
    if function is None:
        raise ValueError(f"metric: unknown '{name}'{suggest(key, known_metrics())}, with a k as in 'ndcg@10'")
    if not _takes_cutoff(function):
        raise ValueError(f"metric: got '{name}', but '{key}' has no k; expected a metric with a k, such as 'ndcg@10'")
    if not at or not cutoff.isdigit() or int(cutoff) < 1:
        raise ValueError(f"metric: got '{name}', expected a k of at least 1 as in '{key}@10'")
    return function, int(cutoff)


def find_metric(key: str) -> Metric | None:
    """Return the metric of a name without a cutoff, such as ``rbp:0.95``, if known.

    Raises:
        ValueError: a persistence of RBP that is not above 0 and below 1.
    """
    name, colon, text = key.partition(":")
    if name != "rbp" or not colon or "@" in text:
        return known_metrics().get(key)
    persistence = float(text) if re.fullmatch(r"\d*\.?\d{1,15}", text, re.ASCII) else np.nan
    if not 0 < persistence < 1:
        raise ValueError(f"metric: got '{key}', expected a persistence above 0 and below 1, as in 'rbp:0.95'")
    return _rbp_with(persistence)


def canonical_name(metric: str) -> str:
    """Write the persistence of RBP in one way: ``rbp:.50@10`` is ``rbp:0.5@10``.

    Other names stay as they are.

    Raises:
        ValueError: see :func:`find_metric`.
    """
    key, at, cutoff = metric.partition("@")
    found = find_metric(key)
    if not isinstance(found, partial) or not key.startswith("rbp:"):
        return metric
    return f"rbp:{np.format_float_positional(found.keywords['persistence'], trim='-')}{at}{cutoff}"


@cache
def _rbp_with(persistence: float) -> Metric:
    """Return one function per persistence, so that equal metrics are the same object."""
    return partial(rbp, persistence=persistence)


def known_metrics() -> dict[str, Metric]:
    """Map names to metrics.

    They are those of this module, and entry points of the group ``segue.metrics``.
    """
    return exported_functions(sys.modules[__name__]) | {name: entry.load() for name, entry in plugins(PLUGINS).items()}


def check_ks(ks: Any) -> tuple[int, ...]:
    """Return list lengths as integers.

    Raises:
        ValueError: it is not a list of whole numbers of at least 1, or empty.
    """
    if isinstance(ks, str) or not isinstance(ks, Iterable):
        raise ValueError(f"ks: got {ks!r}, expected a list such as [5, 10]")
    values = tuple(ks)
    if not values or not all(isinstance(k, int | np.integer) and not isinstance(k, bool) and k >= 1 for k in values):
        raise ValueError(f"ks: got {values}, expected cutoffs of at least 1")
    return tuple(int(k) for k in values)


def resolve_metrics(metrics: Iterable[MetricLike], ks: Sequence[int] = (10,)) -> list[RankingMetric]:
    """Resolve names and functions to metrics at cutoffs, without duplicates.

    Args:
        metrics: names with a cutoff (``ndcg@10``); names or functions without one, which are taken at each of ``ks``;
            pairs of a function and its k. A function whose ``k`` has a default is taken at that k, and one without a
            parameter ``k`` has no cutoff.
        ks: cutoffs, each at least 1.

    Raises:
        ValueError: an unknown name, a cutoff below 1, or something that is not a metric.
    """
    ks = check_ks(ks)
    found, errors = [], []
    for metric in metrics:
        try:
            found.append(_resolve(metric, ks))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("\n".join(errors))
    resolved: dict[str, RankingMetric] = {}
    for column in zip_longest(*found):  # all metrics at the first of ks, then all at the second
        for one in column:
            if one is not None and resolved.setdefault(one.name, one).function != one.function:
                raise ValueError(
                    f"metrics: two different functions are named '{one.name}', expected a name of its own for each"
                )
    return list(resolved.values())


def _resolve(metric: Any, ks: Sequence[int]) -> list[RankingMetric]:
    if isinstance(metric, RankingMetric):
        return [metric]
    if isinstance(metric, str):
        metric = canonical_name(metric)
        known = find_metric(metric)
        if known is not None and not _takes_cutoff(known):
            return [RankingMetric(metric, known, None)]
        if known is not None:
            return [RankingMetric(f"{metric}@{k}", known, k) for k in ks]
        function, cutoff = parse_metric(metric)
        return [RankingMetric(metric, function, cutoff)]
    if (
        isinstance(metric, tuple)
        and len(metric) == 2
        and callable(metric[0])
        and isinstance(metric[1], int | np.integer)
    ):
        function, cutoff = metric[0], int(metric[1])
        if cutoff < 1:
            raise ValueError(f"metric {function.__name__}: got k {cutoff}, expected at least 1")
        return [RankingMetric(f"{function.__name__}@{cutoff}", function, cutoff)]
    if not callable(metric):
        raise ValueError(f"metric: got {metric!r}, expected a name such as 'ndcg@10' or a function (ranks, k)")
    name = getattr(metric, "__name__", type(metric).__name__)
    parameters = _parameters(metric)
    if not parameters:
        raise ValueError(f"metric {name}: takes no parameters, expected a function (ranks, k) or (ranks)")
    if len(parameters) == 1:
        return [RankingMetric(name, metric, None)]
    default = parameters[1].default
    cutoffs = ks if default is inspect.Parameter.empty else [int(default)]
    return [RankingMetric(f"{name}@{k}", metric, k) for k in cutoffs]


def _parameters(metric: Metric) -> list[inspect.Parameter]:
    """Return the parameters of a function; none where it has no signature."""
    try:
        return list(inspect.signature(metric).parameters.values())
    except (TypeError, ValueError):
        return []


def _takes_cutoff(metric: Metric) -> bool:
    return len(_parameters(metric)) > 1


def _count_relevant(ranks: Ranks) -> NDArray[np.int64]:
    return np.diff(ranks.offsets)


def _count_found(ranks: Ranks, k: int) -> Values:
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1")
    order = ranks.best_first
    found = order[ranks.expected_ranks[order] <= k]
    return np.bincount(ranks.rows[found], minlength=len(ranks)).astype(np.float64)


def _found_in_order(ranks: Ranks, k: int) -> tuple[NDArray[np.int64], Values, NDArray[np.int64]]:
    """Return query, rank and ordinal of each true item found, by query and rank.

    Ordinals count the items found within the query, from 1.
    """
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1")
    order = ranks.best_first
    found = order[ranks.expected_ranks[order] <= k]
    rows = ranks.rows[found]
    n_found = np.bincount(rows, minlength=len(ranks))
    n_before = np.cumsum(n_found) - n_found  # found by the queries before
    return rows, ranks.expected_ranks[found], np.arange(len(rows)) - n_before[rows] + 1


def _mask_empty(ranks: Ranks, values: Values) -> Values:
    """Replace the values of queries without a true item by NaN."""
    return np.where(_count_relevant(ranks) > 0, values, np.nan)
