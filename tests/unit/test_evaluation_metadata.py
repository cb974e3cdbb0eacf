"""What an evaluation reports beside the means: counts, groups, tables and texts."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from segue.core.types import Codes, DataSchema, Events, HeldOut, Queries, Scores
from segue.evaluation import evaluate as module
from segue.evaluation import metrics
from segue.evaluation.evaluate import evaluate, evaluate_lists
from segue.evaluation.ranking import rank

N_ITEMS = 6


class Descending:
    """Item j has score -j for every user; every rating is predicted as 3."""

    schema = DataSchema(9, N_ITEMS)
    predicts_ratings = False

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        scores = np.tile(-np.arange(N_ITEMS, dtype=np.float32), (len(queries), 1))
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)

    def predict(self, users: Codes, items: Codes, times: object = None) -> Scores:
        return np.full(len(users), 3.0, np.float32)

    def clip_predictions(self, scores: Scores) -> Scores:
        return scores


class Rating(Descending):
    """The same, for explicit feedback."""

    predicts_ratings = True


def held_out(values: list[float] | None = None) -> HeldOut:
    """Five queries; the second lists a target twice, the third has none, the fourth's target is in its history."""
    queries = Queries(
        Events.of([[0], [], [1, 2], [5, 5], [2]]),
        np.arange(5, dtype=np.int32),
        np.array([True, False, True, True, True]),
    )
    targets = Events.of([[1], [2, 2, 0], [], [5], [3]])
    return HeldOut(queries, targets if values is None else replace(targets, values=np.array(values, np.float32)))


def test_all_counts_of_a_ranking() -> None:
    actual = evaluate(Descending(), held_out(), ks=(1, 2), metrics=["mrr"], seed=7)
    metadata = dict(actual.metadata)
    assert metadata.pop("seconds") >= 0
    assert metadata == {
        "candidates": "whole catalog",
        "items": 6,
        "exclude_seen": True,
        "queries": 5,
        "queries_without_target": 1,
        "targets": 5,
        "duplicate_targets": 1,
        "share_of_targets_in_history": 1 / 5,
        "unknown_users": 1,
        "empty_histories": 1,
        "has_query_times": False,
        "has_query_context": False,
        "seed": 7,
    }
    np.testing.assert_array_equal(actual.values["mrr@2"], [1.0, 1.0, np.nan, 0.0, 0.0])
    assert actual.top.items.shape == (5, 2)
    nothing = evaluate(Descending(), held_out(), metrics=["mrr@1"], ks=(3,))
    assert nothing.top.items.shape == (5, 1)
    timed = replace(held_out().queries, times=np.arange(5))
    assert evaluate(Descending(), replace(held_out(), queries=timed), ks=(1,)).metadata["has_query_times"] is True
    informed = replace(held_out().queries, context={"device": np.arange(5, dtype=np.int32)})
    found = evaluate(Descending(), replace(held_out(), queries=informed), ks=(1,)).metadata
    assert (found["has_query_times"], found["has_query_context"]) == (False, True)


def test_an_evaluation_reports_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 107.5])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert evaluate(Descending(), held_out()).metadata["seconds"] == 7.5


def test_seen_items_that_are_kept_are_found() -> None:
    actual = evaluate(Descending(), held_out(), ks=(6,), metrics=["mrr"], exclude_seen=False)
    np.testing.assert_allclose(actual.values["mrr@6"], [1 / 2, 1.0, np.nan, 1 / 6, 1 / 4])
    assert actual.metadata["exclude_seen"] is False
    assert "6 items, seen items included" in repr(actual)
    assert "seen items excluded" in repr(evaluate(Descending(), held_out()))


@pytest.mark.parametrize("cells", [1, 6, 7, 13, 10**6])
def test_targets_in_the_history_are_counted_in_blocks(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_CELLS", cells)
    history, targets = Events.of([[5], [], [3, 3], [1, 4]]), Events.of([[5, 0], [2], [3, 4], [1, 4, 5]])
    assert module._count_in_history(history, targets) == 4
    assert module._count_in_history(Events.of([[0], [0]]), Events.of([[9], [0]])) == 1


def test_groups_are_in_natural_order_and_have_their_own_means() -> None:
    labels = ["10 to 20", "2 to 9", "b", "a", "2 to 9"]
    actual = evaluate(Descending(), held_out(), ks=(2,), metrics=["mrr"], groups=labels, seed=1)
    assert actual.group_sizes == {"2 to 9": 2, "10 to 20": 1, "a": 1, "b": 0}, "one query of b has no target"
    means = {group: found["mrr@2"].mean for group, found in actual.group_estimates.items() if found}
    assert means == {"2 to 9": 0.5, "10 to 20": 1.0, "a": 0.0}
    assert actual.group_estimates["b"] == {}, "its query has no target"
    assert [module._natural_order(label) for label in ("-1.5 to 0", "7", "x7")] == [
        (-1.5, "-1.5 to 0"),
        (7.0, "7"),
        (math.inf, "x7"),
    ]
    rows = actual.table.rows()
    estimate = actual["mrr@2"]
    assert rows[0] == (None, "mrr@2", 0.5, estimate.low, estimate.high, 4)
    assert [(row[0], row[2], row[5]) for row in rows[1:]] == [("2 to 9", 0.5, 2), ("10 to 20", 1.0, 1), ("a", 0.0, 1)]
    text = repr(actual)
    assert "EvaluationResult: 4 queries, whole catalog of 6 items, seen items excluded, 95 % intervals" in text
    assert "2 to 9 (2 queries)\n  mrr@2  0.5000 [" in text
    html = actual._repr_html_()
    assert html.startswith("<p>EvaluationResult: 4 queries")
    assert "10 to 20" in html
    with pytest.raises(ValueError, match="groups: got 2 labels for 5 queries, expected one per query"):
        evaluate(Descending(), held_out(), groups=["a", "b"])


def test_a_selection_keeps_the_order_asked_for_also_in_groups() -> None:
    actual = evaluate(Descending(), held_out(), ks=(1, 2), metrics=["mrr", "recall"], groups=["a"] * 5)
    chosen = actual.select(["recall@2", "mrr@1"])
    assert list(chosen.values) == list(chosen.estimates) == list(chosen.group_estimates["a"]) == ["recall@2", "mrr@1"]
    assert "mrr@2" in actual
    assert "mrr@2" not in chosen
    with pytest.raises(KeyError, match=r"no 'mrr@3' in this result .*did you mean"):
        actual["mrr@3"]
    assert list(evaluate(Descending(), held_out(), ks=(2,)).table.columns) == [
        "metric",
        "mean",
        "low",
        "high",
        "queries",
    ]


def test_errors_and_rankings_are_merged() -> None:
    values = [4.0, 1.0, 2.0, math.nan, 3.0, 5.0]  # the second user is unknown: their scores are -2 and -2
    labels = ["a", "a", "b", "b", "c"]
    actual = evaluate(Rating(), held_out(values), ks=(1,), metrics=["mrr"], groups=labels, seed=3)
    assert list(actual.estimates) == ["mrr@1", "mae", "rmse"]
    assert actual.estimates["mae"].mean == pytest.approx((1 + 3 + 4 + 0 + 2) / 5)
    assert actual.metadata["predicted_values"] == 5
    assert actual.metadata["queries"] == 5
    assert actual.metadata["unknown_users"] == 1
    assert actual.metadata["seed"] == 3
    assert list(actual.group_estimates) == ["a", "b", "c"]
    assert actual.group_estimates["a"]["mae"].mean == pytest.approx((1 + 3 + 4) / 3)
    assert actual.group_estimates["c"]["rmse"].mean == pytest.approx(2.0)
    assert set(actual.group_estimates["b"]) == {"mrr@1", "mae", "rmse"}
    alone = evaluate(Rating(), held_out(values), metrics=[])
    assert list(alone.estimates) == ["mae", "rmse"]
    assert (alone.metadata["queries"], alone.metadata["unknown_users"]) == (5, 1)
    assert alone.metadata["has_query_times"] is False
    assert alone.top.items.shape == (0, 1)
    assert "whole catalog" not in repr(alone)
    assert list(evaluate(Rating(), held_out(), ks=(1,), metrics=["mrr"]).estimates) == ["mrr@1"], (
        "no target has a value"
    )
    assert list(evaluate(Descending(), held_out(values), ks=(1,), metrics=["mrr"]).estimates) == ["mrr@1"]
    with pytest.raises(ValueError, match="got no ranking metric, and Descending predicts no ratings"):
        evaluate(Descending(), held_out(values), metrics=[])


def test_given_lists_have_their_protocol_and_the_default_cutoffs() -> None:
    top = rank(Descending(), held_out(), 10).top
    actual = evaluate_lists(top, held_out(), groups=["a", "a", "a", "b", "b"])
    assert [name for name in actual.estimates if name.startswith("recall")] == ["recall@5", "recall@10"]
    assert actual.metadata["candidates"] == "given lists"
    assert "given lists" in repr(actual)
    assert actual.group_sizes == {"a": 2, "b": 2}, "one query of a has no target"
    assert evaluate_lists(top, held_out(), ks=(10,)).values.keys() == {
        f"{name}@10" for name in ("recall", "precision", "hit_rate", "mrr", "ndcg")
    }


def test_a_metric_without_cutoff_uses_the_longest_of_the_given_cutoffs() -> None:
    def share_found(ranks: metrics.Ranks) -> np.ndarray:
        return np.ones(len(ranks))

    actual = evaluate(Descending(), held_out(), ks=(3, 4, 2), metrics=[share_found])
    assert actual.top.items.shape == (5, 4)
    assert list(actual.estimates) == ["share_found"]


def test_a_result_without_groups() -> None:
    top = rank(Descending(), held_out(), 2).top
    plain = module.EvaluationResult({}, {}, {"queries": 5}, top)
    assert plain.group_estimates == plain.group_sizes == {}
    assert repr(plain) == "EvaluationResult: 5 queries, 95 % intervals"
    assert plain.table.columns == ["metric", "mean", "low", "high", "queries"]
