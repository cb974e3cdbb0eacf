"""Bootstrap, randomization test and sampled candidates: their definitions, defaults and blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from segue.core.types import Codes, DataSchema, Events, HeldOut, Queries, Scores
from segue.evaluation import bootstrap, rating_metrics, sampled, significance
from segue.evaluation.bootstrap import Estimate, estimate, resample_means
from segue.evaluation.rating_metrics import PredictionErrors, mae, prediction_errors, rmse, training_errors
from segue.evaluation.sampled import rank_sampled, sample_candidates
from segue.evaluation.significance import compare_all, compare_pair
from segue.evaluation.simple_baselines import rating_mean_errors


def test_defaults_of_the_bootstrap_and_the_randomization_test() -> None:
    values = np.random.default_rng(0).random((30, 2))
    assert estimate(values) == estimate(values, 0, 1000)
    first, second = values.T
    assert compare_pair(first, second) == compare_all({"first": first, "second": second}, None, 0, 9_999)[0]
    assert compare_pair(np.ones(40), np.zeros(40)).p == 1 / 10_000


def test_the_interval_is_between_the_percentiles_of_the_resampled_means() -> None:
    values = np.random.default_rng(1).random((25, 2))
    means = resample_means(values, np.random.default_rng(3), 500)
    for column, found in enumerate(estimate(values, 3, 500)):
        low, high = np.percentile(means[:, column], [2.5, 97.5])
        assert found == Estimate(*map(pytest.approx, (values[:, column].mean(), low, high)))  # type: ignore[arg-type]
    assert str(Estimate(0.12345, 0.1, 0.25)) == "0.1235 [0.1000, 0.2500]"


@pytest.mark.parametrize("draws", [1, 24, 25, 60, 10**6])
def test_resampled_means_do_not_depend_on_the_size_of_blocks(draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).random((25, 3))
    expected = resample_means(values, np.random.default_rng(4), 9)
    rng = np.random.default_rng(4)
    rows = rng.integers(0, 25, (9, 25))
    np.testing.assert_allclose(expected, values[rows].mean(axis=1), rtol=1e-12)
    monkeypatch.setattr(bootstrap, "BLOCK_DRAWS", draws)
    np.testing.assert_allclose(resample_means(values, np.random.default_rng(4), 9), expected, rtol=1e-12)


def test_counts_of_distinct_rows_are_drawn_from_a_multinomial_distribution() -> None:
    values = np.repeat([[0.0, 2.0], [1.0, 2.0], [1.0, 3.0]], [40, 8, 16], axis=0)
    shuffled = values[np.random.default_rng(5).permutation(64)]
    counts = np.random.default_rng(6).multinomial(64, np.array([40, 8, 16]) / 64, 7)
    expected = counts @ np.array([[0.0, 2.0], [1.0, 2.0], [1.0, 3.0]]) / 64
    np.testing.assert_allclose(resample_means(shuffled, np.random.default_rng(6), 7), expected)


@pytest.mark.parametrize("signs", [1, 12, 40, 10**6])
def test_the_randomization_test_draws_every_assignment_in_blocks(signs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every assignment of one sign is as extreme as the observed one, and none of 30 equal differences is."""
    monkeypatch.setattr(significance, "BLOCK_SIGNS", signs)
    assert compare_all({"a": [0.5, 0.0, 1.0], "b": [0.0, 0.0, 1.0]}, permutations=77)[0].p == 1.0
    assert compare_all({"a": np.ones(30), "b": np.zeros(30)}, permutations=77)[0].p == 1 / 78
    (test,) = compare_all({"a": np.ones(3), "b": np.zeros(3)}, permutations=2_000)
    assert test.p == pytest.approx(2 / 8, abs=0.04)


def test_the_p_value_counts_the_sign_assignments_that_are_as_extreme() -> None:
    """The signs are the bits of the drawn bytes; the observed assignment counts too."""
    differences = np.array([0.4, -0.1, 0.3, 0.0, 0.2, 0.5, -0.3, 0.1, 0.6, -0.2])
    nonzero = differences[differences != 0]
    packed = np.random.default_rng(11).integers(0, 256, (50, 2), dtype=np.uint8)
    signs = 2.0 * np.unpackbits(packed, axis=1, count=9) - 1
    n_extreme = int((np.abs(signs @ nonzero) >= abs(nonzero.sum()) - 1e-9).sum())
    (test,) = compare_all({"a": differences, "b": np.zeros(10)}, seed=11, permutations=50)
    assert test.p == (n_extreme + 1) / 51
    assert 1 < n_extreme < 50
    assert test.n == 10
    assert test.p_t == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)


def test_a_single_query_has_no_t_test() -> None:
    test = compare_pair([1.0], [0.5])
    assert (test.n, test.p_t, test.difference) == (1, 1.0, 0.5)


@dataclass
class Fixed:
    """The same scores for every user; a candidate's score is that of its item."""

    scores: Scores
    n_unscored: int = 0
    sizes: list[int] = field(default_factory=list)

    @property
    def schema(self) -> DataSchema:
        return DataSchema(1, len(self.scores), n_without_events=self.n_unscored)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        self.sizes.append(len(queries))
        scores = np.tile(self.scores, (len(queries), 1))
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


def one_target_each(n: int = 12, n_items: int = 10) -> HeldOut:
    rng = np.random.default_rng(8)
    rows = [rng.permutation(n_items)[:4].tolist() for _ in range(n)]
    return HeldOut(Queries.anonymous(Events.of([row[1:] for row in rows])), Events.of([row[:1] for row in rows]))


@pytest.mark.parametrize("keys", [1, 10, 35, 10**6])
def test_sampled_ranks_do_not_depend_on_the_size_of_blocks(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out, scores = one_target_each(), np.array([3, 3, 1, 5, 0, 2, 2, 8, 4, 4], np.float32)
    candidates = sample_candidates(held_out, 10, 4, 3)
    found = rank_sampled(Fixed(scores), held_out, 4, 3)
    assert found.n_higher.tolist() == [(scores[row[1:]] > scores[row[0]]).sum() for row in candidates]
    assert found.n_tied.tolist() == [(scores[row[1:]] == scores[row[0]]).sum() for row in candidates]
    assert found.n_candidates.tolist() == [5] * 12
    monkeypatch.setattr(sampled, "BLOCK_KEYS", keys)
    model = Fixed(scores)
    again = rank_sampled(model, held_out, 4, 3)
    assert again.n_higher.tolist() == found.n_higher.tolist()
    assert again.n_tied.tolist() == found.n_tied.tolist()
    assert max(model.sizes) == max(1, min(keys // 10, 12))


def test_sampled_items_without_events_are_ranked_last() -> None:
    scores = np.array([1, 2, 3, 9, 9], np.float32)
    held_out = HeldOut(Queries.anonymous(Events.of([[], []])), Events.of([[0], [4]]))
    found = rank_sampled(Fixed(scores, n_unscored=2), held_out, 4)
    assert found.n_higher.tolist() == [2, 3]
    assert found.n_tied.tolist() == [0, 1]
    with pytest.raises(ValueError, match="Fixed: a score is not finite"):
        rank_sampled(Fixed(np.array([1, np.nan, 3, 9, 9], np.float32)), held_out, 4)


def test_queries_without_a_target_and_limits_of_the_sample() -> None:
    held_out = HeldOut(Queries.anonymous(Events.of([[1], [2], [3, 4]])), Events.of([[], [0], []]))
    sample = sample_candidates(held_out, 6, 3, 0)
    assert sample[:, 0].tolist() == [0, 0, 0]
    assert not set(sample[2, 1:].tolist()) & {3, 4}
    found = rank_sampled(Fixed(np.arange(6, dtype=np.float32)), held_out, 3)
    assert found.offsets.tolist() == [0, 0, 1, 1]
    assert len(found.n_higher) == 1
    assert sample_candidates(held_out, 6, 4, 0).shape == (3, 5), "exactly as many unseen items as are sampled"
    with pytest.raises(ValueError, match=r"2 of 3 queries have fewer than 5 unseen items among 6; .* 4, of query 1"):
        sample_candidates(held_out, 6, 5, 0)
    twice = HeldOut(Queries.anonymous(Events.of([[], []])), Events.of([[3, 3], [1]]))
    assert rank_sampled(Fixed(np.arange(6, dtype=np.float32)), twice, 3).offsets.tolist() == [0, 1, 2]


class Rates(Fixed):
    """Predict the item code plus a tenth of the user code; with a time, that time."""

    predicts_ratings = True

    def predict(self, users: Codes, items: Codes, times: Any = None) -> Scores:
        return (items + users / 10 if times is None else times).astype(np.float32)

    def clip_predictions(self, scores: Scores) -> Scores:
        return np.minimum(scores, 3.5)


@pytest.mark.parametrize("pairs", [1, 2, 100])
def test_training_errors_are_those_of_all_values(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rating_metrics, "BLOCK_PAIRS", pairs)
    model: Any = Rates(np.zeros(5, np.float32))
    values = np.array([1.0, 3.0, np.nan, 2.0, 0.0], np.float32)
    times = np.array([4, 1, 9, 2, 3])
    events = replace(Events.of([[0, 3], [1, 2, 4]]), values=values, times=times)
    found = training_errors(model, events)
    expected = np.array([0.0, 3.0, 2.1, 4.1]) - np.array([1.0, 3.0, 2.0, 0.0])
    assert found == pytest.approx({"mae": np.abs(expected).mean(), "rmse": np.sqrt(np.square(expected).mean())})
    timed = np.array([4.0, 1.0, 2.0, 3.0]) - np.array([1.0, 3.0, 2.0, 0.0])
    found = training_errors(model, events, use_times=True)
    assert found == pytest.approx({"mae": np.abs(timed).mean(), "rmse": np.sqrt(np.square(timed).mean())})
    assert training_errors(model, replace(events, values=np.full(5, np.nan, np.float32))) is None


def test_unknown_users_of_several_blocks_are_predicted_by_their_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.core.recommend.BLOCK_SCORES", 10)
    monkeypatch.setattr("segue.core.recommend.MIN_ROWS", 1)
    monkeypatch.setattr("segue.core.recommend.CACHE_SCORES", 10)
    known = np.array([True, False, False, True, False, False])
    queries = Queries(Events.of([[]] * 6), np.arange(6, dtype=np.int32), known)
    targets = replace(Events.of([[1], [2, 3], [], [4, 0], [0], [4, 1]]), values=np.zeros(8, np.float32))
    model: Any = Rates(np.array([1, 2, 3, 3.25, 9], np.float32))
    found = prediction_errors(model, HeldOut(queries, targets))
    np.testing.assert_allclose(found.errors, [1, 3, 3.25, 4.3, 0.3, 1, 3.5, 2], rtol=1e-6)
    assert found.rows.tolist() == [0, 1, 1, 3, 3, 4, 5, 5]


def test_rating_means_without_a_target_have_no_error() -> None:
    train = replace(Events.of([[0, 1]]), values=np.array([1.0, 5.0], np.float32))
    nothing = HeldOut(Queries.anonymous(Events.of([])), replace(Events.of([]), values=np.zeros(0, np.float32)))
    assert rating_mean_errors(train, nothing).errors.shape == (0,)


def test_the_value_of_a_query_is_the_metric_plus_its_own_contribution() -> None:
    items = np.arange(5, dtype=np.int32)
    errors = PredictionErrors(np.array([0, 0, 2, 3, 3]), items, np.array([1.0, -3.0, 2.0, 0.0, 0.5]), 4)
    absolute, square = np.array([4.0, np.nan, 2.0, 0.5]), np.array([10.0, np.nan, 4.0, 0.25])
    counts, per_query = np.array([2, np.nan, 1, 2]), 5 / 3
    np.testing.assert_allclose(mae(errors), 6.5 / 5 + (absolute - 6.5 / 5 * counts) / per_query)
    root = np.sqrt(14.25 / 5)
    np.testing.assert_allclose(rmse(errors), root + (square - 14.25 / 5 * counts) / per_query / (2 * root))
    equal = PredictionErrors(np.arange(3), items[:3], np.array([1.0, -3.0, 2.0]), 3)
    np.testing.assert_allclose(mae(equal), [1.0, 3.0, 2.0])
    some = errors.select(np.array([True, True, False, True]))
    assert (some.rows.tolist(), some.errors.tolist(), len(some)) == ([0, 0, 3, 3], [1.0, -3.0, 0.0, 0.5], 4)
    assert some.items.tolist() == [0, 1, 3, 4]
