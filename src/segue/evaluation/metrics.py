"""Metrics of a ranking: each a pure function of where the truth stands, one value per query.

``f(ranks, k)`` gives ``(N,)`` values in [0, 1]; only the first ``k`` places count. Ties count at their expected rank
(:attr:`segue.core.types.Ranks.places`). A query without a true item asks nothing that could be right or wrong: its
value is NaN, and it enters no mean.

Below, *relevant* is the number of a query's true items and *found* the number of them within the first k places.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.registry import functions
from segue.core.types import Ranks

__all__ = ["f1", "hit_rate", "map", "mrr", "ndcg", "precision", "recall"]

Values: TypeAlias = NDArray[np.float64]
Metric: TypeAlias = Callable[[Ranks, int], Values]


def recall(ranks: Ranks, k: int) -> Values:
    """Found / relevant."""
    return _per_query(ranks, _found(ranks, k) / np.maximum(_relevant(ranks), 1))


def precision(ranks: Ranks, k: int) -> Values:
    """Found / k."""
    return _per_query(ranks, _found(ranks, k) / k)


def hit_rate(ranks: Ranks, k: int) -> Values:
    """1 where any is found, else 0."""
    return _per_query(ranks, np.minimum(_found(ranks, k), 1.0))


def mrr(ranks: Ranks, k: int) -> Values:
    """Mean reciprocal rank: 1 / the place of the first that is found, 0 where none is."""
    rows, places, nth = _in_order(ranks, k)
    first = nth == 1
    values = np.zeros(len(ranks))
    values[rows[first]] = 1.0 / places[first]
    return _per_query(ranks, values)


def ndcg(ranks: Ranks, k: int) -> Values:
    """Gain of 1 for each found, discounted by log2(1 + place), over that of min(k, relevant) at the first places.

    Järvelin and Kekäläinen 2002, doi:10.1145/582415.582418.
    """
    rows, places, _ = _in_order(ranks, k)
    gain = np.bincount(rows, weights=1.0 / np.log2(1.0 + places), minlength=len(ranks))
    ideal = np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))
    return _per_query(ranks, gain / ideal[np.clip(_relevant(ranks), 1, k) - 1])


def map(ranks: Ranks, k: int) -> Values:  # noqa: A001 - the metric's name
    """Mean average precision: the sum of the precision at each found one's place, divided by min(k, relevant).

    A list that begins with true items only has the value 1; TREC's ``map_cut`` divides by *relevant* instead.
    """
    rows, places, nth = _in_order(ranks, k)
    total = np.bincount(rows, weights=nth / places, minlength=len(ranks))
    return _per_query(ranks, total / np.clip(_relevant(ranks), 1, k))


def f1(ranks: Ranks, k: int) -> Values:
    """The harmonic mean of precision and recall, which is 2 found / (k + relevant)."""
    return _per_query(ranks, 2.0 * _found(ranks, k) / (k + _relevant(ranks)))


def named(name: str) -> tuple[Metric, int]:
    """The metric and its k from a name such as ``ndcg@10``."""
    key, at, cut = name.partition("@")
    known = functions(sys.modules[__name__])
    if key not in known:
        raise ValueError(f"metric: unknown '{name}'{suggest(key, known)}, at a k as in 'ndcg@10'")
    if not at or not cut.isdigit() or int(cut) < 1:
        raise ValueError(f"metric: got '{name}', expected a k of at least 1 as in '{key}@10'")
    return known[key], int(cut)


def _relevant(ranks: Ranks) -> NDArray[np.int64]:
    return np.diff(ranks.offsets)


def _found(ranks: Ranks, k: int) -> Values:
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1")
    return np.bincount(ranks.rows[ranks.places <= k], minlength=len(ranks)).astype(np.float64)


def _in_order(ranks: Ranks, k: int) -> tuple[NDArray[np.int64], Values, NDArray[np.int64]]:
    """Of those found, by query and place: the query, the place, and which of the query's found ones it is, from 1."""
    if k < 1:
        raise ValueError(f"k: got {k}, expected at least 1")
    found = np.flatnonzero(ranks.places <= k)
    rows, places = ranks.rows[found], ranks.places[found]
    order = np.lexsort((places, rows))
    rows, places = rows[order], places[order]
    return rows, places, np.arange(len(rows)) - np.searchsorted(rows, rows) + 1


def _per_query(ranks: Ranks, values: Values) -> Values:
    return np.where(_relevant(ranks) > 0, values, np.nan)
