"""Metrics on rankings whose values are worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segue.core.types import Ranks, Recommendations
from segue.evaluation import metrics


def standing(*queries: list[int], equal: int = 0, eligible: int = 100) -> Ranks:
    """Ranks of targets at the given places (from 1), query by query."""
    offsets = np.concatenate([[0], np.cumsum([len(query) for query in queries])])
    greater = np.array([place - 1 for query in queries for place in query], np.int64)
    top = Recommendations.joined([], 1)
    return Ranks(offsets, greater, np.full(len(greater), equal), np.full(len(queries), eligible), top)


def log2(x: float) -> float:
    return math.log2(x)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # places 1, 3, 20 of three targets | 2 | 11 of one
        ("recall", [2 / 3, 1.0, 0.0]),
        ("precision", [2 / 10, 1 / 10, 0.0]),
        ("hit_rate", [1.0, 1.0, 0.0]),
        ("mrr", [1.0, 1 / 2, 0.0]),
        ("ndcg", [(1 + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4)), 1 / log2(3), 0.0]),
        ("map", [(1 / 1 + 2 / 3) / 3, 1 / 2, 0.0]),
        ("f1", [2 * (2 / 10) * (2 / 3) / (2 / 10 + 2 / 3), 2 * (1 / 10) / (1 / 10 + 1), 0.0]),
    ],
)
def test_worked_by_hand(name: str, expected: list[float]) -> None:
    ranks = standing([20, 1, 3], [2], [11])
    np.testing.assert_allclose(getattr(metrics, name)(ranks, 10), expected, rtol=1e-14)


def test_the_ideal_list_is_no_longer_than_k() -> None:
    """Twelve targets in the first twelve places: nothing better can be listed in five."""
    ranks = standing(list(range(1, 13)))
    for name in ("ndcg", "map", "precision", "mrr", "hit_rate"):
        assert getattr(metrics, name)(ranks, 5) == pytest.approx([1.0]), name
    assert metrics.recall(ranks, 5) == pytest.approx([5 / 12])


@pytest.mark.parametrize("name", metrics.__all__)
def test_a_query_without_targets_has_no_value(name: str) -> None:
    values = getattr(metrics, name)(standing([1], [], [1]), 5)
    assert np.isnan(values).tolist() == [False, True, False]


def test_ties_stand_at_their_expected_place() -> None:
    """First of three equals: expected place 2, whichever way the sort would have put it."""
    ranks = standing([1], equal=2)
    assert ranks.places.tolist() == [2.0]
    assert metrics.hit_rate(ranks, 1).tolist() == [0.0]
    assert metrics.mrr(ranks, 2).tolist() == [0.5]


def test_three_tied_targets_can_not_all_be_second() -> None:
    ranks = standing([1, 1, 1], equal=2)
    assert sorted(ranks.places) == [1.0, 2.0, 3.0]
    assert metrics.precision(ranks, 2).tolist() == [1.0]


def test_a_removed_target_is_a_miss_however_short_the_catalogue() -> None:
    ranks = standing([4], eligible=3)
    assert ranks.places.tolist() == [np.inf]
    for name in metrics.__all__:
        assert getattr(metrics, name)(ranks, 10).tolist() == [0.0], name


@pytest.mark.parametrize("name", metrics.__all__)
def test_k_starts_at_one(name: str) -> None:
    with pytest.raises(ValueError, match="k: got 0, expected at least 1"):
        getattr(metrics, name)(standing([1]), 0)


def test_metrics_are_found_by_name() -> None:
    assert metrics.named("ndcg@10") == (metrics.ndcg, 10)
    with pytest.raises(ValueError, match=r"unknown 'ndgc@10', did you mean 'ndcg'\?"):
        metrics.named("ndgc@10")
    for bad in ("ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@x"):
        with pytest.raises(ValueError, match=rf"got '{bad}', expected a k"):
            metrics.named(bad)
