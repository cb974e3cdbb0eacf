"""Metrics beyond accuracy: examples calculated by hand, names, and what each needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from segue.core.types import Codes, DataSchema, Events, HeldOut, Queries, Recommendations, Scores
from segue.evaluation.beyond_accuracy.list_metrics import (
    check_list_metrics,
    known_list_metrics,
    metric_names,
    resolve_list_metrics,
    value_range,
)
from segue.evaluation.beyond_accuracy.lists import Lists
from segue.evaluation.beyond_accuracy.stability import jaccard_overlap, rank_biased_overlaps
from segue.evaluation.beyond_accuracy.training_data import TrainingData
from segue.evaluation.bootstrap import estimate
from segue.evaluation.evaluate import evaluate, evaluate_lists
from segue.evaluation.popularity_groups import popularity_groups
from segue.evaluation.warmth import Warmth

TRAIN = Events.of([[0, 1], [0, 1], [0, 2], [0, 3]])
"""Item 0 has four of eight events, item 1 two, items 2 and 3 one, item 4 none."""

FEATURES = pl.LazyFrame(
    {
        "id": ["a", "b", "c", "d", "e"],
        "genres": [["crime", "drama"], ["drama"], ["comedy"], ["crime"], None],
        "maker": ["x", "x", "y", None, "y"],
        "vector": [[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0], None],
        "year": [1990, 1991, 1992, 1993, 1994],
    }
)
TRAINING = TrainingData(TRAIN, 5, FEATURES)


def recommendations(lists: Sequence[Sequence[int]]) -> Recommendations:
    items = np.zeros((len(lists), max(map(len, lists))), np.int32)
    for row, one in zip(items, lists, strict=True):
        row[: len(one)] = one
    return Recommendations(items, np.zeros(items.shape, np.float32), np.array([len(one) for one in lists]))


def make(
    lists: Sequence[Sequence[int]],
    histories: Sequence[Sequence[int]] | None = None,
    targets: Sequence[Sequence[int]] | None = None,
) -> Lists:
    empty: Sequence[Sequence[int]] = [[]] * len(lists)
    users = np.arange(len(lists), dtype=np.int32)
    held_out = HeldOut(Queries.of_users(users, Events.of(histories or empty)), Events.of(targets or empty))
    return Lists.of(recommendations(lists), held_out, TRAINING)


def value(name: str, lists: Lists) -> list[float]:
    """Return the values of the metric at the length of the lists."""
    (metric,) = resolve_list_metrics([f"{name}@{lists.items.shape[1]}"])
    found: list[float] = metric(lists).tolist()
    return found


def test_novelty_is_the_mean_self_information_in_bits() -> None:
    assert value("novelty", make([[0, 1], [2, 4], [3]])) == [0.5, 2.0, 2.0]


def test_popularity_and_its_lift_over_the_history() -> None:
    lists = make([[0, 1], [2, 4], [0]], [[1], [0, 2], []])
    assert value("popularity", lists) == [3.0, 0.5, 4.0]
    np.testing.assert_allclose(value("popularity_lift", lists), [0.5, -0.8, math.nan])


def test_head_middle_and_tail_are_bounded_by_a_fifth_of_the_events() -> None:
    groups = {name: (text, np.flatnonzero(mask).tolist()) for name, text, mask in popularity_groups(
        np.array([50, 20, 10, 10, 5, 5, 0]))}  # fmt: skip
    assert groups == {
        "head": ("50 training events", [0]),
        "middle": ("10 to 20 training events", [1, 2, 3]),
        "tail": ("0 to 5 training events", [4, 5, 6]),
    }
    assert value("head_share", make([[0, 4], [1, 2]])) == [0.5, 0.0]
    assert value("middle_share", make([[0, 4], [1, 2]])) == [0.0, 1.0]
    assert value("tail_share", make([[0, 4], [1, 2]])) == [0.5, 0.0]
    empty = list(popularity_groups(np.zeros(3, np.int64)))
    assert [mask.sum() for *_, mask in empty] == [0, 0, 3]
    assert [text for _, text, _ in empty] == ["no item", "no item", "0 training events"]


def test_diversity_by_tags_category_vector_and_co_occurrence() -> None:
    lists = make([[0, 1, 2], [0, 3, 4]])
    half = 1 - 1 / math.sqrt(2)
    np.testing.assert_allclose(value("diversity:genres", lists), [(half + 1 + 1) / 3, half])
    np.testing.assert_allclose(value("diversity:maker", lists), [2 / 3, 1.0])
    np.testing.assert_allclose(value("diversity:vector", lists), [(1 + 2 + 1) / 3, math.nan])
    pairs = [1 - 2 / math.sqrt(4 * 2), 1 - 1 / math.sqrt(4), 1.0]
    np.testing.assert_allclose(value("diversity", lists), [sum(pairs) / 3, (0.5 + 1 + 1) / 3])


def test_unexpectedness_and_serendipity() -> None:
    lists = make([[1, 2], [1, 2], [1, 2]], [[0, 0], [0, 2], []], [[2], [4], [1]])
    half, far = 1 - 1 / math.sqrt(2), 1.0
    first, second = (half + far) / 2, ((half + far) / 2 + (far + 0) / 2) / 2
    np.testing.assert_allclose(value("unexpectedness:genres", lists), [first, second, math.nan])
    np.testing.assert_allclose(value("serendipity:genres", lists), [far / 2, 0.0, math.nan])


def test_miscalibration_is_the_divergence_from_the_history() -> None:
    lists = make([[0], [1], [4]], [[0, 0, 4], [0, 1, 1], [0]])
    p, q = [1 / 6, 5 / 6], [0.0, 1.0]  # crime and drama; the first of three items has both
    expected = sum(a * math.log(a / (0.99 * b + 0.01 * a)) for a, b in zip(p, q, strict=True))
    np.testing.assert_allclose(value("miscalibration:genres", lists), [0.0, expected, math.nan], atol=1e-12)


def test_coverage_gini_and_entropy_of_all_lists() -> None:
    lists = make([[0, 1], [0, 2], [0]])
    assert np.mean(value("coverage", lists)) == pytest.approx(3 / 5)
    # exposures 3, 1, 1, 0, 0: the differences of the 10 pairs sum to 2 + 2 + 3 + 3 + 1 + 1 + 1 + 1
    assert np.mean(value("gini", lists)) == pytest.approx(14 / (5 * 5))
    assert np.mean(value("entropy", lists)) == pytest.approx(0.6 * math.log2(5 / 3) + 0.4 * math.log2(5))
    equal = make([[0, 1], [2, 3], [4]])
    assert np.mean(value("gini", equal)) == pytest.approx(0.0)
    assert np.mean(value("coverage", equal)) == pytest.approx(1.0)
    assert np.mean(value("entropy", equal)) == pytest.approx(math.log2(5))


def test_exposure_of_a_category() -> None:
    lists = make([[0, 1], [0, 4], [4]])
    np.testing.assert_allclose(value("exposure:genres=drama", lists), [0.75, 0.5, math.nan])
    np.testing.assert_allclose(value("exposure:maker=x", lists), [1.0, 0.5, 0.0])


def test_intervals_of_coverage_contain_the_expected_coverage() -> None:
    """The percentile bootstrap of whole lists would be too low: a resample has fewer distinct lists."""
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 101)

    def draw() -> np.ndarray:
        keys = np.log(weights) + rng.gumbel(size=(60, 100))
        items = np.argsort(-keys, axis=1)[:, :3].astype(np.int32)
        top = Recommendations(items, np.zeros(items.shape, np.float32), np.full(60, 3))
        nothing = Events.of([[]] * 60)
        lists = Lists.of(top, HeldOut(Queries.anonymous(nothing), nothing), TrainingData(Events.of([[0]]), 100))
        return np.column_stack([known_list_metrics()[key](lists) for key in ("coverage", "gini", "entropy")])

    samples = [draw() for _ in range(150)]
    truth = np.mean([one.mean(axis=0) for one in samples], axis=0)
    found = [estimate(one, seed, 200) for seed, one in enumerate(samples)]
    for column in range(3):
        inside = np.mean([one[column].low <= truth[column] <= one[column].high for one in found])
        assert inside >= 0.9


def test_overlaps_of_two_models() -> None:
    first, second = recommendations([[1, 2, 3], [1, 2, 3], [1]]), recommendations([[1, 2, 3], [3, 4, 5], [2]])
    assert jaccard_overlap(first, second, 3).tolist() == [1.0, 0.2, 0.0]
    assert jaccard_overlap(first, second, 1).tolist() == [1.0, 0.0, 0.0]
    assert rank_biased_overlaps(first, second, 3)[[0, 2]] == pytest.approx([1.0, 0.0])
    assert 0 < rank_biased_overlaps(first, second, 3)[1] < 0.5
    with pytest.raises(ValueError, match="k: got 4, expected 1 to 3"):
        jaccard_overlap(first, second, 4)
    with pytest.raises(ValueError, match=r"persistence: got 1\.0, expected a number between 0 and 1"):
        rank_biased_overlaps(first, second, 2, 1.0)
    with pytest.raises(ValueError, match="k: got '2', expected 1 to 3"):
        jaccard_overlap(first, second, "2")  # type: ignore[arg-type]
    nothing = Recommendations.concat([], 1)
    with pytest.raises(ValueError, match="lists: got none, expected at least one; nothing was ranked"):
        jaccard_overlap(nothing, nothing, 1)
    with pytest.raises(ValueError, match="lists: got 3 and 1, expected the same queries"):
        jaccard_overlap(first, recommendations([[1, 2, 3]]), 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "novelty:genres@10",
            "metric: got 'novelty:genres@10', but 'novelty' takes no 'genres'; expected 'novelty@10'",
        ),
        ("diversity@1", "expected a k of at least 2 as in 'diversity:genres@10'"),
        ("novelty@0", "metric: got 'novelty@0', expected a k of at least 1 as in 'novelty@10'"),
        ("gini@x", "metric: got 'gini@x', expected a k of at least 1 as in 'gini@10'"),
        ("diversity:@5", "metric: got 'diversity:@5', expected an item feature, as in 'diversity:genres@10'"),
        ("miscalibration@5", "expected an item feature, as in 'miscalibration:genres@10'"),
        ("exposure:genres@5", "expected an item feature and one of its values, as in 'exposure:genres=Drama@10'"),
        ("gap:age@5", "expected a user feature and a ranking metric, as in 'gap:gender:ndcg@10'"),
        ("gap:age:ncdg@5", "metric: unknown 'ncdg@5', did you mean 'ndcg'"),
    ],
)
def test_names_are_checked(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", ".")):
        resolve_list_metrics([name])


def test_names_without_a_cutoff_are_taken_at_each() -> None:
    names = ["ndcg", "diversity:genres", "coverage", "gap:age:ndcg@3", "coverage@5"]
    assert metric_names(names, (5, 10)) == [
        "ndcg@5", "diversity:genres@5", "coverage@5", "gap:age:ndcg@3", "ndcg@10", "diversity:genres@10", "coverage@10",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="metric: got 'diversity' at k 1, expected a k of at least 2"):
        metric_names(["diversity"], (1, 5))

    def novelty(ranks: object, k: int) -> None: ...

    with pytest.raises(ValueError, match="a function is named 'novelty@5', which is a metric of Segue"):
        metric_names([novelty], (5,))  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("diversity:genre@2", "metric diversity:genre@2: unknown item feature 'genre', did you mean 'genres'"),
        ("serendipity:year@2", "metric serendipity:year@2: item feature 'year': got type Int64, expected categories"),
        ("miscalibration:vector@2", "got vectors, expected a feature with categories or tags"),
        ("exposure:maker=z@2", "item feature 'maker': unknown value 'z'"),
        ("gap:age:ndcg@2", "metric gap:age:ndcg@2: needs user features; evaluate on a split"),
    ],
)
def test_what_the_data_lacks_is_an_error(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_list_metrics(resolve_list_metrics([name]), TRAINING)
    with pytest.raises(ValueError, match="needs the training events, which are not known; evaluate on a split"):
        check_list_metrics(resolve_list_metrics([name]), None)


def test_a_metric_without_any_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="metric popularity_lift@2: none of 1 queries has a value"):
        value("popularity_lift", make([[0, 1]]))
    with pytest.raises(ValueError, match="this data has none"):
        TrainingData(TRAIN, 5).feature("genres")


def test_every_metric_has_a_range_and_a_description() -> None:
    for key, function in known_list_metrics().items():
        low, high = value_range(key)
        assert low < high
        assert function.__doc__ is not None
        assert function.__doc__.startswith("Compute the ") or key == "novelty"


class Ascending:
    """Item j has score j for every user."""

    schema = DataSchema(4, 5)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        scores = np.arange(5, dtype=np.float32)
        return np.tile(scores, (len(queries), 1)) if candidates is None else scores[candidates]


def held_out() -> HeldOut:
    histories = Events.of([[4], [0], [], [0, 4]])
    return HeldOut(Queries.of_users(np.arange(4, dtype=np.int32), histories), Events.of([[3], [0], [4], []]))


def test_evaluation_of_a_model_has_values_intervals_and_groups() -> None:
    names = ["ndcg@2", "novelty@2", "coverage@2", "gap:age:ndcg@2"]
    warmth = Warmth(TRAINING.item_events)
    groups = ["old", "old", "new", "new"]
    result = evaluate(
        Ascending(), held_out(), metrics=names, groups=groups, warmth=warmth, training=TRAINING, labels=lambda _: groups
    )
    assert list(result.values) == list(result.estimates) == names
    assert result.top.items.shape == (4, 2)
    assert result["coverage@2"].mean == pytest.approx(3 / 5)
    assert result["novelty@2"].mean == pytest.approx(2.0)
    assert result["gap:age:ndcg@2"].mean == pytest.approx(0.5)
    # the first two users get items 3, 2 and 4, 3
    assert result.group_estimates["old"]["coverage@2"].mean == pytest.approx(3 / 5)
    assert result.group_estimates["new"]["coverage@2"].mean == pytest.approx(3 / 5)
    assert "gap:age:ndcg@2" not in result.group_estimates["old"]
    users = {group.name: group for group in result.warmth if group.name.endswith(" users")}
    assert users["cold users"].estimate()["coverage@2"].mean == pytest.approx(2 / 5)
    assert not [group for group in result.warmth if group.name.endswith("items") and "novelty@2" in group.values]
    assert result.select(["novelty@2"]).table["metric"].to_list() == ["novelty@2"] * 3


def test_only_metrics_beyond_accuracy_and_only_cold_items() -> None:
    only = evaluate(Ascending(), held_out(), metrics=["popularity@2"], training=TRAINING)
    assert list(only.estimates) == ["popularity@2"]
    warmth = Warmth(TRAINING.item_events)
    cold = evaluate(Ascending(), held_out(), metrics=["coverage@1"], training=TRAINING, warmth=warmth, items="cold")
    assert cold["coverage@1"].mean == pytest.approx(1.0)


def test_given_lists_have_the_metrics_of_the_model() -> None:
    names = ["novelty@2", "coverage@2", "gini@2", "serendipity:genres@2"]
    by_model = evaluate(Ascending(), held_out(), metrics=names, training=TRAINING)
    by_lists = evaluate_lists(by_model.top, held_out(), metrics=names, training=TRAINING)
    for name in names:
        np.testing.assert_array_equal(by_model.values[name], by_lists.values[name])
    with pytest.raises(ValueError, match="k: got 3, expected at most 2"):
        evaluate_lists(by_model.top, held_out(), metrics=["novelty@3"], training=TRAINING)
    with pytest.raises(ValueError, match="metric novelty@2: needs the training events"):
        evaluate_lists(by_model.top, held_out(), metrics=["novelty@2"])


def test_distances_to_the_history_are_computed_once_for_all_cutoffs(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = make([[1, 2, 3], [2, 0, 1]], [[0], [3, 1]], [[2], [0]])
    names = ["unexpectedness@1", "unexpectedness@3", "serendipity@2"]
    expected = [resolve_list_metrics([name])[0](replace(lists, history_distances={})) for name in names]
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_array_equal(resolve_list_metrics([name])[0](lists), values)
    assert lists.history_distances.keys() == {None}
    monkeypatch.setattr("segue.evaluation.beyond_accuracy.diversity.item_distance", None)
    resolve_list_metrics(["serendipity@3"])[0](lists)


def test_blocks_do_not_change_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = make([[0, 1, 2], [2, 1], [3, 0], [4, 2, 1]], [[0], [1, 2], [3, 1], [2]], [[1], [1], [1], [2]])
    names = ["diversity:genres", "unexpectedness:vector", "miscalibration:genres", "gini", "serendipity:genres"]
    expected = [value(name, lists) for name in names]
    for module in ("item_distance", "calibration", "exposure"):
        monkeypatch.setattr(f"segue.evaluation.beyond_accuracy.{module}.BLOCK_CELLS", 1)
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(value(name, replace(lists, history_distances={})), values, err_msg=name)
