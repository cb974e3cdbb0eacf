"""``evaluate``, ``compare`` and ``cross_validate`` use the part, seeds, folds and settings that they are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel
from segue.core.types import Dataset, Split
from segue.data.splits import folds
from segue.evaluation.evaluate import EvaluationResult

pytestmark = pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Users who return to their items."""
    rng = np.random.default_rng(0)
    rows = [(user, int(rng.integers(6)) + user % 5 * 3, t) for user in range(50) for t in range(9)]
    return segue.load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))


@pytest.fixture(scope="module")
def parts(data: Dataset) -> Split:
    return segue.split(data)


@pytest.fixture(scope="module")
def model(parts: Split) -> TrainedModel:
    return segue.train("ease", parts, l2=10.0)


def ndcg(result: EvaluationResult) -> float:
    return result["ndcg@10"].mean


def train(key: str, parts: Split, **settings: Any) -> TrainedModel:
    return segue.train(key, parts, recipe="none", baseline="none", **settings)


def test_a_split_is_evaluated_on_its_test_part(model: TrainedModel, parts: Split) -> None:
    found = segue.evaluate(model, parts)
    assert ndcg(found) == ndcg(segue.evaluate(model, parts.test)) != ndcg(segue.evaluate(model, parts.valid))


def test_evaluate_ranks_seen_items_only_if_they_are_included(model: TrainedModel, parts: Split) -> None:
    included = segue.evaluate(model, parts, exclude_seen=False)
    assert ndcg(included) != ndcg(segue.evaluate(model, parts))
    seen, at = parts.test.queries.history, included.top.items
    assert any(set(at[row]) & set(seen.rows_between(row, row + 1).items) for row in range(len(at)))


def test_the_seed_of_evaluate_is_that_of_the_intervals(model: TrainedModel, parts: Split) -> None:
    first, second, again = (segue.evaluate(model, parts, seed=seed)["ndcg@10"] for seed in (0, 1, 1))
    assert second == again
    assert first.mean == second.mean
    assert (first.low, first.high) != (second.low, second.high)


def test_groups_are_evaluated_on_their_own_queries(model: TrainedModel, parts: Split) -> None:
    labels = ["even" if user % 2 == 0 else "odd" for user in parts.test.queries.users]
    result = segue.evaluate(model, parts, by=labels)
    for label in ("even", "odd"):
        own = result.values["ndcg@10"][[one == label for one in labels]]
        assert result.group_estimates[label]["ndcg@10"].mean == pytest.approx(own.mean())
        assert result.group_sizes[label] == len(own)


def test_compare_averages_the_values_of_each_query_over_the_seeds(parts: Split) -> None:
    result = segue.compare(["random", "popular"], parts, metrics="ndcg@10", seeds=(3, 5), exclude_seen=False)
    own = [segue.evaluate(train("random", parts, seed=seed), parts, exclude_seen=False) for seed in (3, 5)]
    assert result.seed_means["random"]["ndcg@10"] == pytest.approx(tuple(map(ndcg, own)))
    expected = np.mean([one.values["ndcg@10"] for one in own], axis=0)
    np.testing.assert_array_equal(result.values["random"]["ndcg@10"], expected)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_compare_ranks_seen_items_only_if_they_are_included(
    model: TrainedModel, parts: Split, exclude_seen: bool
) -> None:
    result = segue.compare({"ease": model, "popular": {}}, parts, metrics="ndcg@10", exclude_seen=exclude_seen)
    assert result.estimates["ease"]["ndcg@10"].mean == ndcg(segue.evaluate(model, parts, exclude_seen=exclude_seen))


def test_settings_of_a_model_precede_those_of_all_models(parts: Split) -> None:
    result = segue.compare({"ease@own": {"l2": 2.0}, "ease@shared": {}}, parts, metrics="ndcg@10", l2=50.0)
    assert [result.models[name].model.config.l2 for name in ("ease@own", "ease@shared")] == [2.0, 50.0]


def test_a_baseline_of_compare_is_in_every_pair(parts: Split) -> None:
    result = segue.compare(["popular", "random", "ease"], parts, metrics="ndcg@10", baseline="random")
    assert [(t.first, t.second) for t in result.paired_tests["ndcg@10"]] == [("popular", "random"), ("ease", "random")]


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_cross_validation_is_training_and_evaluation_on_each_fold(data: Dataset, exclude_seen: bool) -> None:
    """``ease`` depends on the folds and the size of validation, ``random`` also on the seed."""
    options: dict[str, Any] = {"valid": 0.3, "metrics": "ndcg@10", "exclude_seen": exclude_seen, "seed": 4}
    result = segue.cross_validate(["ease", "random"], data, folds=3, **options, **{"split.seed": 2})
    expected = {
        key: tuple(
            ndcg(segue.evaluate(train(key, one, seed=4), one, exclude_seen=exclude_seen))
            for one in folds(data, 3, valid=0.3, seed=2)
        )
        for key in ("ease", "random")
    }
    assert expected.keys() == result.values.keys()
    for key, values in expected.items():
        assert result.values[key]["ndcg@10"] == pytest.approx(values)
    assert len(set(expected["ease"])) == 3


@pytest.mark.parametrize("strategy", ["random", "per_user_ratio", "held_out_users"])
def test_split_uses_the_strategy_that_it_is_given(data: Dataset, strategy: str) -> None:
    found = segue.split(data, strategy, test=0.4, valid=0)
    assert found.metadata["strategy"] == strategy
    assert found.train.histories.size != segue.split(data).train.histories.size


def test_the_seed_of_train_determines_the_model(parts: Split) -> None:
    first, second, other = (train("random", parts, seed=seed).model.arrays()["seed"] for seed in (1, 1, 2))
    assert first == second != other


def test_load_applies_its_filters(data: Dataset) -> None:
    rows = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "x"], "rating": [1.0, 5.0, 4.0]})
    assert segue.load(rows, min_value=4.0).histories.size == 2
    assert segue.load(rows, min_user_events=2).n_users == 1


def test_train_uses_the_loss_that_it_is_given(parts: Split) -> None:
    def half(hidden: Any, vectors: Any, bias: Any, targets: Any, seen: Any) -> Any:
        return 0.5 * ((hidden @ vectors.T).square().mean())

    small: dict[str, Any] = {"embedding_dim": 4, "hidden_dim": 4, "epochs": 1}
    default, named, custom = (train("gru4rec", parts, loss=loss, **small) for loss in (None, "bpr", half))
    losses = [one.training_history[0]["loss"] for one in (default, named, custom)]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("strategy", ["per_user_ratio", "per_user_random"])
def test_a_share_of_whole_events_is_not_rounded_down(strategy: str) -> None:
    """In floating point, 0.29 * 100 and 0.57 * 100 are a little below 29 and 57."""
    assert (int(0.29 * 100), int(0.57 * 100)) == (28, 56)
    log = pl.DataFrame({"user_id": [1] * 100, "item_id": range(100), "timestamp": range(100)})
    parts = segue.split(log, strategy, test=0.29, valid=0.57)
    assert (parts.test.targets.size, parts.valid.targets.size, parts.train.histories.size) == (29, 57, 14)
