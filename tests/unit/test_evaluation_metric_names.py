"""Names, functions and pairs are resolved to metrics at cutoffs."""

from __future__ import annotations

import numpy as np
import pytest

from segue.core.types import Ranks, Recommendations
from segue.evaluation import metrics
from segue.evaluation.metrics import RankingMetric, check_ks, resolve_metrics


def half(ranks: Ranks, k: int) -> np.ndarray:
    return np.full(len(ranks), k / 2)


def third(ranks: Ranks, k: int = 3) -> np.ndarray:
    return np.full(len(ranks), k / 3)


def whole(ranks: Ranks) -> np.ndarray:
    return np.ones(len(ranks))


def nothing() -> np.ndarray:
    return np.ones(1)


class Callable:
    """A metric that is an object."""

    def __call__(self, ranks: Ranks, k: int) -> np.ndarray:
        return np.zeros(len(ranks))


def two_queries() -> Ranks:
    zeros = np.zeros(2, np.int64)
    return Ranks(np.array([0, 1, 2]), zeros, zeros, np.array([9, 9]), Recommendations.concat([], 1))


def test_metrics_are_ordered_by_cutoff_and_without_duplicates() -> None:
    resolved = resolve_metrics(["mrr", half, "ndcg@7", third, whole, (half, 5), "mrr@2", Callable()], (2, 4))
    assert [(metric.name, metric.k) for metric in resolved] == [
        ("mrr@2", 2),
        ("half@2", 2),
        ("ndcg@7", 7),
        ("third@3", 3),
        ("whole", None),
        ("half@5", 5),
        ("Callable@2", 2),
        ("mrr@4", 4),
        ("half@4", 4),
        ("Callable@4", 4),
    ]
    values = {metric.name: metric(two_queries()).tolist() for metric in resolved}
    assert values["half@5"] == [2.5, 2.5]
    assert values["third@3"] == [1.0, 1.0]
    assert values["whole"] == [1.0, 1.0]
    assert [metric.name for metric in resolve_metrics(["recall"])] == ["recall@10"]
    assert resolve_metrics([resolved[0]], (9,)) == [resolved[0]]
    assert [metric.name for metric in resolve_metrics([(half, np.int64(1))])] == ["half@1"]


def test_everything_that_is_no_metric_is_reported_at_once() -> None:
    with pytest.raises(ValueError, match="unknown 'x'") as error:
        resolve_metrics(["x", "mrr", (half, 0), nothing, 3, (half, 1, 2), (half, 1.5), (3, 1)])  # type: ignore[list-item]
    lines = str(error.value).splitlines()
    assert [line.split(",")[0].split(":")[0] for line in lines] == [
        "metric",
        "metric half",
        "metric nothing",
        *["metric"] * 4,
    ]
    assert "got k 0, expected at least 1" in lines[1]
    assert "takes no parameters" in lines[2]


def test_two_functions_of_one_name_are_an_error() -> None:
    def other(ranks: Ranks, k: int) -> np.ndarray:
        return np.zeros(len(ranks))

    other.__name__ = "half"
    with pytest.raises(ValueError, match="two different functions are named 'half@5'"):
        resolve_metrics([half, other], (5,))
    assert len(resolve_metrics([half, half], (5,))) == 1


def test_a_built_in_function_has_no_cutoff_or_is_rejected() -> None:
    with pytest.raises(ValueError, match="metric"):
        resolve_metrics([max])


def test_cutoffs_are_whole_numbers_of_at_least_one() -> None:
    assert check_ks([1, np.int32(5)]) == (1, 5)
    assert all(type(k) is int for k in check_ks([np.int64(3)]))
    for wrong in ([], [0], [1, -1], [True], [1.0], ["5"]):
        with pytest.raises(ValueError, match=r"ks: got .*, expected cutoffs of at least 1"):
            check_ks(wrong)
    for wrong in ("10", 10, None):
        with pytest.raises(ValueError, match=r"ks: got .*, expected a list such as"):
            check_ks(wrong)


def test_a_metric_returns_one_value_per_query() -> None:
    with pytest.raises(ValueError, match=r"metric short: returned shape \(1,\), expected \(2,\)"):
        RankingMetric("short", lambda ranks, k: np.ones(1), 5)(two_queries())
    assert RankingMetric("mrr@1", metrics.mrr, 1)(two_queries()).tolist() == [1.0, 1.0]
