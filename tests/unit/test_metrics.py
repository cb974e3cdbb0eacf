"""Compare metrics with values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from segue.core.types import Ranks, Recommendations
from segue.evaluation import metrics
from segue.experiment.describe import describe_component

WITH_CUTOFF = [name for name in metrics.__all__ if name not in ("auc", "r_precision")]


def make_ranks(*queries: list[int], equal: int = 0, eligible: int = 100) -> Ranks:
    """Build ranks from the ranks of the targets of each query, from 1."""
    offsets = np.concatenate([[0], np.cumsum([len(query) for query in queries])])
    greater = np.array([rank - 1 for query in queries for rank in query], np.int64)
    top = Recommendations.concat([], 1)
    return Ranks(offsets, greater, np.full(len(greater), equal), np.full(len(queries), eligible), top)


def log2(x: float) -> float:
    return math.log2(x)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # ranks 1, 3, 20 of three targets | 2 | 11 of one
        ("recall", [2 / 3, 1.0, 0.0]),
        ("precision", [2 / 10, 1 / 10, 0.0]),
        ("hit_rate", [1.0, 1.0, 0.0]),
        ("mrr", [1.0, 1 / 2, 0.0]),
        ("ndcg", [(1 + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4)), 1 / log2(3), 0.0]),
        ("map", [(1 / 1 + 2 / 3) / 3, 1 / 2, 0.0]),
        ("f1", [2 * (2 / 10) * (2 / 3) / (2 / 10 + 2 / 3), 2 * (1 / 10) / (1 / 10 + 1), 0.0]),
        ("rbp", [0.2 * (1 + 0.8**2), 0.2 * 0.8, 0.0]),
    ],
)
def test_values_computed_by_hand(name: str, expected: list[float]) -> None:
    ranks = make_ranks([20, 1, 3], [2], [11])
    np.testing.assert_allclose(getattr(metrics, name)(ranks, 10), expected, rtol=1e-14)


def test_the_ideal_list_has_at_most_k_items() -> None:
    """Twelve targets at the first twelve ranks: no list of five can be better."""
    ranks = make_ranks(list(range(1, 13)))
    for name in ("ndcg", "map", "precision", "mrr", "hit_rate"):
        assert getattr(metrics, name)(ranks, 5) == pytest.approx([1.0]), name
    assert metrics.recall(ranks, 5) == pytest.approx([5 / 12])


@pytest.mark.parametrize("name", WITH_CUTOFF)
def test_a_query_without_targets_has_no_value(name: str) -> None:
    values = getattr(metrics, name)(make_ranks([1], [], [1]), 5)
    assert np.isnan(values).tolist() == [False, True, False]


def test_ties_count_at_their_expected_rank() -> None:
    """The first of three tied items has the expected rank 2."""
    ranks = make_ranks([1], equal=2)
    assert ranks.expected_ranks.tolist() == [2.0]
    assert metrics.hit_rate(ranks, 1).tolist() == [0.0]
    assert metrics.mrr(ranks, 2).tolist() == [0.5]


def test_three_tied_targets_get_different_ranks() -> None:
    ranks = make_ranks([1, 1, 1], equal=2)
    assert sorted(ranks.expected_ranks) == [1.0, 2.0, 3.0]
    assert metrics.precision(ranks, 2).tolist() == [1.0]


def test_an_excluded_target_is_a_miss_in_any_catalog() -> None:
    ranks = make_ranks([4], eligible=3)
    assert ranks.expected_ranks.tolist() == [np.inf]
    for name in WITH_CUTOFF:
        assert getattr(metrics, name)(ranks, 10).tolist() == [0.0], name


@pytest.mark.parametrize("name", WITH_CUTOFF)
def test_k_starts_at_one(name: str) -> None:
    with pytest.raises(ValueError, match="k: got 0, expected at least 1"):
        getattr(metrics, name)(make_ranks([1]), 0)


def test_metrics_are_parsed_by_name() -> None:
    assert metrics.parse_metric("ndcg@10") == (metrics.ndcg, 10)
    with pytest.raises(ValueError, match=r"unknown 'ndgc@10', did you mean 'ndcg'\?"):
        metrics.parse_metric("ndgc@10")
    for bad in ("ndcg", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@x"):
        with pytest.raises(ValueError, match=rf"got '{bad}', expected a k"):
            metrics.parse_metric(bad)


def test_auc_is_that_of_the_mann_whitney_statistic() -> None:
    """Random scores with many ties, one or more true items per query."""
    from scipy.stats import mannwhitneyu

    from segue.core.types import DataSchema, Events, HeldOut, Queries
    from segue.evaluation.evaluate import evaluate

    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 20)).astype(np.float32)
    targets = [sorted(rng.choice(20, rng.integers(1, 6), replace=False)) for _ in range(40)]

    class Table:
        schema = DataSchema(40, 20)

        def score(self, queries: Queries, candidates: object = None) -> np.ndarray:
            return scores[queries.users]

    users = np.arange(40, dtype=np.int32)
    held_out = HeldOut(Queries.of_users(users, Events.of([[]] * 40)), Events.of(targets))
    values = evaluate(Table(), held_out, metrics=["auc"]).values["auc"]
    expected = [
        mannwhitneyu(row[own], np.delete(row, own)).statistic / (len(own) * (20 - len(own)))
        for own, row in zip(targets, scores.astype(np.float64), strict=True)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_auc_of_a_target_that_is_no_candidate_is_0() -> None:
    assert metrics.auc(make_ranks([4], eligible=3)).tolist() == [0.0]
    assert metrics.auc(make_ranks([1, 101], eligible=100)).tolist() == [0.5]
    np.testing.assert_array_equal(metrics.auc(make_ranks([1], [], eligible=1)), [np.nan, np.nan])


def test_auc_has_no_cutoff() -> None:
    found = metrics.resolve_metrics(["auc", "ndcg"], (5, 10))
    assert [metric.name for metric in found] == ["auc", "ndcg@5", "ndcg@10"]
    for name in ("auc", "r_precision"):
        with pytest.raises(ValueError, match=f"got '{name}@10', but '{name}' has no k; expected a metric with a k"):
            metrics.parse_metric(f"{name}@10")


def test_r_precision_is_the_precision_of_as_many_items_as_are_relevant() -> None:
    """Of the targets at 1, 3, 20 two are within the first three ranks; of 2, 4 one is within the first two."""
    ranks = make_ranks([20, 1, 3], [2, 4], [1], [2], [])
    np.testing.assert_allclose(metrics.r_precision(ranks), [2 / 3, 1 / 2, 1.0, 0.0, np.nan])
    assert metrics.r_precision(make_ranks([4], eligible=3)).tolist() == [0.0]
    assert [one.name for one in metrics.resolve_metrics(["r_precision", "mrr"], (5, 10))] == [
        *("r_precision", "mrr@5", "mrr@10"),
    ]


def test_the_persistence_of_rbp_is_part_of_the_name() -> None:
    ranks = make_ranks([1, 2], [3])
    found = metrics.resolve_metrics(["rbp", "rbp:0.5", "rbp:.95@2", "rbp:.95@2"], (10,))
    assert [one.name for one in found] == ["rbp@10", "rbp:0.5@10", "rbp:0.95@2"]
    values = [one(ranks).tolist() for one in found]
    assert values[0] == pytest.approx([0.2 * 1.8, 0.2 * 0.64])
    assert values[1] == pytest.approx([0.75, 0.125])
    assert values[2] == pytest.approx([0.05 * 1.95, 0.0])
    assert metrics.parse_metric("rbp:0.5@10")[0](ranks, 10).tolist() == values[1]
    for name in ("rbp:1@10", "rbp:0@10", "rbp:.0@10", "rbp:1.5@10", "rbp:x@10", "rbp:@10"):
        with pytest.raises(ValueError, match=f"got '{name[:-3]}', expected a persistence above 0 and below 1"):
            metrics.parse_metric(name)
        with pytest.raises(ValueError, match=f"got '{name[:-3]}', expected a persistence above 0 and below 1"):
            describe_component("metrics", name)
    with pytest.raises(ValueError, match=r"unknown 'ndcg:0\.5@10'"):
        metrics.parse_metric("ndcg:0.5@10")
    assert [one.name for one in metrics.resolve_metrics(["rbp:.5@10", "rbp:0.50@10", "rbp:0.500@10"])] == ["rbp:0.5@10"]
    assert [one.name for one in metrics.resolve_metrics(["rbp:0.00001@10"])] == ["rbp:0.00001@10"]


def test_the_name_of_a_metric_with_its_argument_is_described() -> None:
    for name, function in (("rbp:0.95", "rbp"), ("rbp:.9@5", "rbp"), ("ndcg@10", "ndcg"), ("gap:sex:ndcg@5", "gap")):
        assert describe_component("metrics", name) == describe_component("metrics", function)
    with pytest.raises(ValueError, match=r"metrics: unknown 'rpb:0\.9'"):
        describe_component("metrics", "rpb:0.9")


def test_the_persistence_has_a_range() -> None:
    ranks = make_ranks([1, 2], [3])
    for persistence in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(ValueError, match=r"persistence: got .*, expected a number above 0 and below 1"):
            metrics.rbp(ranks, 10, persistence)
