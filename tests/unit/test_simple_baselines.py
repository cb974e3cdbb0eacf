"""The comparison with simple baselines: which is the strongest, what is better, and values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from segue.core.types import Codes, DataSchema, Events, HeldOut, Queries, Scores
from segue.evaluation.rating_metrics import mae, rmse
from segue.evaluation.simple_baselines import (
    RATING_MEANS,
    BaselineComparison,
    compare_with_baselines,
    ranking_baselines,
    rating_mean_errors,
    repeat_share,
    sample_queries,
    skipped_baselines,
    strongest_baseline,
)
from segue.testing import dataset

N_ITEMS = 6


class Fixed:
    """The same scores for every user, which are also the predicted ratings."""

    predicts_ratings = True

    def __init__(self, *scores: float) -> None:
        self.scores = np.array(scores, np.float32)
        self.schema = DataSchema(4, len(scores))

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return np.tile(self.scores, (len(queries), 1))

    def predict(self, users: Codes, items: Codes, times: object = None) -> Scores:
        return self.scores[items]

    def clip_predictions(self, scores: Scores) -> Scores:
        return scores


BASELINES = {"popular": Fixed(5, 4, 3, 2, 1, 0), "recent_popular": Fixed(0, 1, 2, 3, 4, 5), "random": Fixed(*[0] * 6)}


def held_out() -> HeldOut:
    """All users have item 5 in their history; the targets are 4, 4, 4, 5."""
    queries = Queries.of_users(np.arange(4, dtype=np.int32), Events.of([[5]] * 4))
    return HeldOut(queries, Events.of([[4], [4], [4], [5]]))


def compare(metric: str, exclude_seen: bool, *keys: str) -> BaselineComparison:
    model, train = Fixed(0, 0, 9, 0, 8, 10), dataset(Events.of([[5]] * 4), N_ITEMS)
    found = compare_with_baselines(model, train, held_out(), metric, exclude_seen, keys, lambda key: BASELINES[key])
    assert found is not None
    return found


def test_the_strongest_baseline_is_the_best_by_the_metric() -> None:
    """Without item 5, the target 4 has rank 2 in the model, 5 in ``popular`` and 1 in ``recent_popular``."""
    for keys in (("popular", "recent_popular"), ("recent_popular", "popular")):
        found = compare("mrr@10", True, *keys)
        assert found.baseline == "recent_popular"
        assert found.value == pytest.approx((3 / 2 + 0) / 4)
        assert found.baseline_value == pytest.approx((3 * 1 + 0) / 4)
        assert found.is_below
    assert not compare("mrr@10", True, "popular").is_below


def test_baselines_rank_seen_items_as_the_model_does() -> None:
    """With item 5, the target 4 has rank 3 in the model and 2 in ``recent_popular``."""
    found = compare("mrr@10", False, "recent_popular")
    assert found.value == pytest.approx((3 / 3 + 1) / 4)
    assert found.baseline_value == pytest.approx((3 / 2 + 1) / 4)


def test_without_baselines_or_queries_nothing_is_compared() -> None:
    train = dataset(Events.of([[5]] * 4), N_ITEMS)
    nothing = HeldOut(held_out().queries, Events.of([[]] * 4))
    for part, keys in ((held_out(), ()), (nothing, ("popular",))):
        assert (
            compare_with_baselines(Fixed(*[0] * 6), train, part, "mrr@10", True, keys, lambda key: BASELINES[key])
            is None
        )


@pytest.mark.parametrize(
    ("metric", "value", "baseline", "is_below"),
    [
        ("ndcg@10", 0.1, 0.2, True),
        ("ndcg@10", 0.2, 0.1, False),
        ("ndcg@10", 0.2, 0.2, False),
        ("rmse", 0.9, 0.8, True),
        ("rmse", 0.8, 0.9, False),
        ("mae", 0.8, 0.8, False),
    ],
)
def test_a_model_is_below_a_baseline_by_a_lower_metric_or_a_higher_error(
    metric: str, value: float, baseline: float, is_below: bool
) -> None:
    assert BaselineComparison(metric, value, "popular", baseline, 10).is_below == is_below


def ratings() -> Events:
    """User 0 rates item 0 with 5 and item 1 with 3; user 1 rates item 0 with 3."""
    return Events(np.array([0, 2, 3]), np.array([0, 1, 0]), values=np.array([5, 3, 3], np.float32))


def rated_queries() -> HeldOut:
    """User 0 rates item 1 with 4, an unknown user item 1 with 2, and user 1 the unrated item 2 with 3."""
    queries = Queries(Events.of([[], [], []]), np.array([0, 0, 1], np.int32), np.array([True, False, True]))
    return HeldOut(queries, Events(np.arange(4), np.array([1, 1, 2]), values=np.array([4, 2, 3], np.float32)))


def test_rating_means_are_damped_by_five_ratings() -> None:
    """The mean is 11/3; item 0 deviates by (4/3 - 2/3) / (2 + 5), item 1 by (-2/3) / (1 + 5)."""
    mean, item_0, item_1 = 11 / 3, (2 / 3) / 7, (-2 / 3) / 6
    user_0 = ((4 / 3 - item_0) + (-2 / 3 - item_1)) / 7
    user_1 = (-2 / 3 - item_0) / 6
    errors = rating_mean_errors(ratings(), rated_queries())
    np.testing.assert_allclose(errors.errors, [mean + item_1 + user_0 - 4, mean + item_1 - 2, mean + user_1 - 3])
    assert errors.rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("metric", ["rmse", "mae"])
def test_an_error_is_compared_with_that_of_the_rating_means(metric: str) -> None:
    train, model = dataset(ratings(), 3), Fixed(3, 3, 3)
    found = compare_with_baselines(model, train, rated_queries(), metric, True, ("popular",), lambda _: model)
    assert found is not None
    assert found.baseline == RATING_MEANS
    errors = rating_mean_errors(ratings(), rated_queries())
    squares, absolutes = np.square(errors.errors), np.abs(errors.errors)
    expected = {"rmse": float(np.sqrt(squares.mean())), "mae": float(absolutes.mean())}
    assert found.baseline_value == pytest.approx(expected[metric])
    assert found.baseline_value == pytest.approx(float(np.mean({"rmse": rmse, "mae": mae}[metric](errors))))
    assert found.value == pytest.approx({"rmse": np.sqrt(2 / 3), "mae": 2 / 3}[metric])


def test_the_baselines_depend_on_the_data_and_the_protocol() -> None:
    events = ratings()
    timed = Events(events.offsets, events.items, times=np.array([1, 2, 3]))
    assert ranking_baselines(dataset(events, 3)) == ("popular", "transitions", "ease")
    assert ranking_baselines(dataset(timed, 3)) == ("popular", "recent_popular", "transitions", "ease")
    assert ranking_baselines(dataset(events, 3), exclude_seen=False) == ("popular", "transitions", "frequent", "ease")


def test_models_are_not_compared_with_ease_on_large_data() -> None:
    assert "ease" in ranking_baselines(dataset(ratings(), 5_000))
    assert "ease" not in ranking_baselines(dataset(ratings(), 5_001))
    long = Events(np.array([0, 50_000]), np.zeros(50_000, np.int32))
    assert "ease" not in ranking_baselines(dataset(long, 3))
    assert "ease" not in skipped_baselines(dataset(ratings(), 5_001)), "it may still be measured by segue baselines"


def test_ease_is_skipped_with_a_reason_where_its_matrix_does_not_fit() -> None:
    reason = skipped_baselines(dataset(ratings(), 10**6))["ease"]
    assert "1,000,000 x 1,000,000 items needs 3,725.3 GiB" in reason


def test_the_strongest_baseline_is_found_without_a_model() -> None:
    train = dataset(Events.of([[5]] * 4), N_ITEMS)
    found = strongest_baseline(train, held_out(), "mrr@10", True, tuple(BASELINES), lambda key: BASELINES[key])
    assert found is not None
    assert found[0] == "recent_popular"
    assert found[1] == pytest.approx(3 / 4)
    nothing = HeldOut(held_out().queries, Events.of([[]] * 4))
    for part, keys in ((nothing, ("popular",)), (held_out(), ())):
        assert strongest_baseline(train, part, "mrr@10", True, keys, lambda key: BASELINES[key]) is None


def test_the_first_event_of_a_history_is_no_repeat() -> None:
    assert repeat_share(Events.of([[1, 1, 2], [3], []])) == pytest.approx(1 / 2)
    assert repeat_share(Events.of([[1, 1, 1], [1, 2]])) == pytest.approx(2 / 3)
    assert repeat_share(Events.of([[4], []])) == 0.0
    assert repeat_share(Events.of([[]])) == 0.0


def test_a_sample_of_queries_is_evenly_spaced() -> None:
    rows = [[row] for row in range(9)]
    every = HeldOut(Queries.of_users(np.arange(9, dtype=np.int32), Events.of(rows)), Events.of(rows))
    sample = sample_queries(every, 3)
    assert sample.queries.users.tolist() == sample.targets.items.tolist() == [0, 4, 8]
    assert sample_queries(every, 9) is every


def test_repeats_of_different_users_are_not_confused() -> None:
    assert repeat_share(Events.of([[1], [0]])) == 0.0
    assert repeat_share(Events.of([[2, 0], [1, 2], [0, 1]])) == 0.0
    assert repeat_share(Events.of([[1, 1]])) == 1.0
