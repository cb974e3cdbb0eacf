"""How recommendations are distributed over the catalog.

Coverage, Gini index and entropy are properties of all lists together. Each function still returns one value per query,
``(N,)``, such that the mean over the queries is the metric: the metric itself plus the contribution of the query. The
contributions are those of the jackknife (Efron and Stein 1981, doi:10.1214/aos/1176345462): N - 1 times the change of
the metric when the query is left out, centered. Bootstrap intervals and paired tests over queries therefore hold for
them as they do for other metrics. Drawing whole lists with replacement would not do: a resample has only two thirds of
the distinct lists, so that its coverage is always too low.

Values of these metrics depend on the number of lists. Compare models on the same queries.

Shapes: N queries, k positions, I ranked items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.evaluation.beyond_accuracy.lists import Lists, Values
from segue.evaluation.beyond_accuracy.training_data import TrainingData

__all__ = ["coverage", "entropy", "exposure", "gini"]

BLOCK_CELLS = 2_000_000
"""Pairs of positions compared at once."""


def coverage(lists: Lists) -> Values:
    """Compute the catalog coverage: the share of the ranked items that is in any list.

    Ge, Delgado-Battenfeld and Jannach 2010, doi:10.1145/1864708.1864761.
    """
    counts_Nk = _counts_by_position(lists)
    n_items = len(lists.counts)
    found = np.count_nonzero(lists.counts)
    only_here = np.count_nonzero(counts_Nk == 1, axis=1)
    return _jackknife(found / n_items, (found - only_here) / n_items)


def gini(lists: Lists) -> Values:
    """Compute the Gini index of the exposure of items.

    0 if all items are in equally many lists, near 1 if a few items fill all lists. It is the mean absolute difference
    between the numbers of lists of two ranked items, divided by twice their mean. Lower values mean a more equal
    exposure.
    """
    counts_I, counts_Nk = lists.counts, _counts_by_position(lists)
    n_items, total = len(counts_I), int(counts_I.sum())
    frequency = np.bincount(counts_I)
    lower = np.cumsum(frequency) - frequency  # items in fewer lists, by number of lists
    higher = n_items - lower - frequency
    difference = float((counts_I * (lower - higher)[counts_I]).sum())  # over all pairs of items
    # without a list, each of its items is in one list less: closer to the items in fewer lists, farther from others
    n_lower_in_list = _count_lower_in_list(counts_Nk, lists.is_used)
    n_lower = lower[counts_Nk] - n_lower_in_list
    n_not_lower = n_items - lower[counts_Nk] - 1 - (lists.lengths[:, None] - 1 - n_lower_in_list)
    change = np.where(lists.is_used, n_not_lower - n_lower, 0).sum(axis=1)
    rest = total - lists.lengths
    without = (difference + change) / (n_items * np.maximum(rest, 1))
    value = difference / (n_items * max(total, 1))
    return _jackknife(value, np.where(rest > 0, without, value))


def entropy(lists: Lists) -> Values:
    """Compute the Shannon entropy of the exposure of items, in bits.

    The probability of an item is its share of all recommended items. Higher values mean a more equal exposure.
    """
    counts_I, counts_Nk = lists.counts, _counts_by_position(lists)
    total = int(counts_I.sum())
    # the entropy is log2(total) minus the sum of these terms divided by the total
    levels = np.arange(counts_I.max(initial=1) + 1, dtype=np.float64)
    terms = levels * np.log2(np.maximum(levels, 1.0))
    sum_of_terms = float(terms[counts_I].sum())
    change = np.where(lists.is_used, terms[np.maximum(counts_Nk - 1, 0)] - terms[counts_Nk], 0.0).sum(axis=1)
    rest = np.maximum(total - lists.lengths, 1)
    without = np.log2(rest) - (sum_of_terms + change) / rest
    value = float(np.log2(max(total, 1)) - sum_of_terms / max(total, 1))
    return _jackknife(value, without)


def exposure(lists: Lists, group: str) -> Values:
    """Compute the share of the list in a group of items, such as ``genres=Drama``.

    An item with several tags counts for each in equal parts, so that the shares of all tags sum to 1. Items without a
    known value are left out.

    Args:
        group: name of an item feature, ``=``, and one of its categories.

    Raises:
        ValueError: no such feature or category.
    """
    return lists.mean(shares_in_group(lists.training, group)[lists.items])


def shares_in_group(training: TrainingData, group: str) -> Values:
    """Return by how much each item counts for a group, ``(I,)``; NaN where unknown."""
    name, equals, category = group.partition("=")
    if not equals:
        raise ValueError(f"got '{group}', expected an item feature and a value, such as '{group}=...'")
    feature = training.feature(name)
    shares_IC = feature.shares
    if category not in feature.categories:
        raise ValueError(f"item feature '{name}': unknown value '{category}'{suggest(category, feature.categories)}")
    share_I = shares_IC[:, [feature.categories.index(category)]].toarray()[:, 0]
    return np.where(feature.known, share_I, np.nan)


def _counts_by_position(lists: Lists) -> NDArray[np.int64]:
    """Return the number of lists with the item at each position, ``(N, k)``.

    0 after the end of a list.
    """
    counts_I = np.bincount(lists.items[lists.is_used], minlength=lists.training.n_items)
    return np.where(lists.is_used, counts_I[lists.items], 0)


def _count_lower_in_list(counts_Nk: NDArray[np.int64], is_used: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count, for each position, the items of the same list that are in fewer lists."""
    n, k = counts_Nk.shape
    found = np.zeros((n, k), np.int64)
    step = max(1, BLOCK_CELLS // max(1, k * k))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        is_lower = (counts_Nk[rows, None, :] < counts_Nk[rows, :, None]) & is_used[rows, None, :]
        found[rows] = np.count_nonzero(is_lower, axis=2)
    return found


def _jackknife(value: float, without_N: Values) -> Values:
    """Return values per query with the mean ``value``, from those without each query."""
    return np.asarray(value - (len(without_N) - 1) * (without_N - without_N.mean()), np.float64)
