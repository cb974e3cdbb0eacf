"""Compare errors of predicted values with independent formulas, with intervals and tests."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Events, HeldOut, Queries, Scores
from segue.evaluation.evaluate import evaluate, make_validator
from segue.evaluation.rating_metrics import PredictionErrors, mae, prediction_errors, rmse
from segue.evaluation.significance import compare_all
from segue.testing import tastes
from segue.training.train import Training
from segue.training.train import train as train_model


@dataclass
class Constant:
    """Predict the same value for all pairs; rank by item code."""

    value: float
    schema: DataSchema = field(default_factory=lambda: DataSchema(3, 4))
    predicts_ratings: bool = True

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        scores = np.tile(np.arange(4, dtype=np.float32), (len(queries), 1))
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)

    def predict(self, users: Codes, items: Codes, times: Any = None) -> Scores:
        return np.full(len(users), self.value, np.float32)

    def clip_predictions(self, scores: Scores) -> Scores:
        return scores + np.float32(1.0)


def make_held_out(values: list[list[float]]) -> HeldOut:
    items = Events.of([list(range(len(row))) for row in values])
    flat = np.array([value for row in values for value in row], np.float32)
    queries = Queries.of_users(np.arange(len(values), dtype=np.int32), Events.of([[] for _ in values]))
    return HeldOut(queries, replace(items, values=flat))


def random_errors(seed: int = 0, users: int = 200) -> PredictionErrors:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.integers(users, size=2000))
    return PredictionErrors(rows, rng.integers(30, size=2000).astype(np.int32), rng.normal(0.1, 1.0, 2000), users)


def test_the_mean_over_queries_is_the_metric() -> None:
    actual = random_errors()
    assert np.nanmean(rmse(actual)) == pytest.approx(np.sqrt(np.square(actual.errors).mean()))
    assert np.nanmean(mae(actual)) == pytest.approx(np.abs(actual.errors).mean())


def test_the_interval_agrees_with_resampled_users() -> None:
    actual = random_errors()
    rng = np.random.default_rng(1)
    sums = np.bincount(actual.rows, np.square(actual.errors), minlength=200)
    counts = np.bincount(actual.rows, minlength=200)
    samples = rng.integers(200, size=(4000, 200))
    roots = np.sqrt(sums[samples].sum(1) / counts[samples].sum(1))
    values = rmse(actual)
    resampled_means = values[samples].mean(1)
    assert resampled_means.std() == pytest.approx(roots.std(), rel=0.05)
    np.testing.assert_allclose(
        np.percentile(resampled_means, [2.5, 97.5]), np.percentile(roots, [2.5, 97.5]), atol=0.005
    )


def test_a_query_without_values_is_left_out() -> None:
    actual = PredictionErrors(np.array([0, 0, 2]), np.array([0, 1, 1], np.int32), np.array([1.0, -1.0, 2.0]), 3)
    assert np.isnan(rmse(actual)).tolist() == [False, True, False]
    assert np.nanmean(mae(actual)) == pytest.approx(4 / 3)


def test_zero_errors() -> None:
    actual = PredictionErrors(np.array([0, 1]), np.zeros(2, np.int32), np.zeros(2), 2)
    assert rmse(actual).tolist() == [0.0, 0.0]


def test_errors_are_computed_together_with_ranking_metrics() -> None:
    measured = evaluate(Constant(3.0), make_held_out([[2.0, 4.0], [3.0], [5.0]]), ks=(2,))
    assert {"rmse", "mae", "ndcg@2"} <= measured.estimates.keys()
    assert measured.estimates["rmse"].mean == pytest.approx(np.sqrt(6 / 4))
    assert measured.metadata["predicted_values"] == 4
    assert measured.metadata["candidates"] == "whole catalog"


def test_ranking_is_skipped_without_ranking_metrics() -> None:
    measured = evaluate(Constant(3.0), make_held_out([[2.0], [3.0]]), metrics=())
    assert measured.estimates.keys() == {"rmse", "mae"}
    assert "candidates" not in measured.metadata


def test_a_target_whose_value_is_missing_is_left_out() -> None:
    measured = evaluate(Constant(3.0), make_held_out([[2.0, np.nan], [3.0]]), metrics=())
    assert measured.metadata["predicted_values"] == 2
    with pytest.raises(ValueError, match="none of 1 targets has a value"):
        evaluate(Constant(3.0), make_held_out([[np.nan]]), metrics=())


def test_unknown_users_are_predicted_from_their_queries() -> None:
    held_out = make_held_out([[2.0, 2.0], [3.0], [1.0, 1.0, 1.0]])
    queries = replace(held_out.queries, known=np.array([False, True, False]))
    actual = prediction_errors(Constant(3.0), HeldOut(queries, held_out.targets))
    assert actual.errors.tolist() == [1.0 - 2.0, 2.0 - 2.0, 3.0 - 3.0, 0.0, 1.0, 2.0]


def test_held_out_users_are_predicted_from_their_history() -> None:
    world = tastes()
    queries_ = world.test.queries
    model = train_model("als", {"embedding_dim": 4, "iterations": 8}, Training(), world.train, Run(0), None)
    known, unknown = (
        rmse(prediction_errors(model, HeldOut(queries, world.test.targets))).mean()
        for queries in (queries_, Queries.anonymous(queries_.history))
    )
    assert unknown == pytest.approx(known, rel=1e-3)


def test_a_prediction_that_is_not_finite_is_rejected() -> None:
    with pytest.raises(ValueError, match="Constant: predicted nan for item 0 in query 0, expected a finite number"):
        evaluate(Constant(np.nan), make_held_out([[2.0]]), metrics=())


def test_validation_by_rmse() -> None:
    assert make_validator(make_held_out([[2.0, 4.0]]), "rmse")(Constant(3.0)) == {"mae": 1.0, "rmse": 1.0}


def test_a_lower_error_is_better() -> None:
    small, large = random_errors(0), replace(random_errors(0), errors=random_errors(0).errors * 2)
    test = compare_all({"small": -rmse(small), "large": -rmse(large)})[0]
    assert test.difference > 0
    assert test.significant


def test_models_get_query_times_only_if_the_protocol_has_them() -> None:
    received_times = []

    class TimeRecorder(Constant):
        def predict(self, users: Codes, items: Codes, times: Any = None) -> Scores:
            received_times.append(times)
            return super().predict(users, items)

    queries_ = make_held_out([[2.0, 3.0]])
    timed = replace(queries_, targets=replace(queries_.targets, times=np.array([5, 9])))
    evaluate(TimeRecorder(3.0), timed, metrics=())
    queries = queries_.queries
    with_query_times = replace(timed, queries=Queries(queries.history, queries.users, queries.known, np.array([5])))
    evaluate(TimeRecorder(3.0), with_query_times, metrics=())
    assert received_times[0] is None
    assert received_times[1].tolist() == [5, 9]
