"""``segue.evaluate``, ``segue.compare`` and ``segue.cross_validate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel
from segue.core.types import Dataset, Ranks, Split
from segue.evaluation import metrics
from segue.evaluation.metrics import resolve_metrics
from segue.evaluation.rating_metrics import training_errors


@pytest.fixture(scope="module")
def data() -> Dataset:
    return segue.load("simulated?users=80&items=50&seed=3")


@pytest.fixture(scope="module")
def split(data: Dataset) -> Split:
    return segue.split(data)


@pytest.fixture(scope="module")
def model(split: Split) -> TrainedModel:
    return segue.train("ease", split, l2=10)


def my_recall(ranks: Ranks, k: int) -> np.ndarray:
    """Compute recall independently."""
    actual = np.bincount(ranks.rows, ranks.expected_ranks <= k, minlength=len(ranks))
    relevant = np.diff(ranks.offsets)
    return np.where(relevant > 0, actual / np.maximum(relevant, 1), np.nan)


def test_only_requested_metrics_are_computed(model: TrainedModel, split: Split) -> None:
    result = segue.evaluate(model, split, metrics=["ndcg@10", "map@3", my_recall, (my_recall, 7)])
    assert list(result.estimates) == ["ndcg@10", "map@3", "my_recall@5", "my_recall@7", "my_recall@10"]
    assert result["ndcg@10"].low <= result["ndcg@10"].mean <= result["ndcg@10"].high
    standard = segue.evaluate(model, split, metrics=["recall@7", "recall@10"])
    np.testing.assert_allclose(result.values["my_recall@7"], standard.values["recall@7"])
    with pytest.raises(KeyError, match="did you mean 'ndcg@10'"):
        result["ndcg@1"]
    with pytest.raises(ValueError, match="unknown 'ndgc@10', did you mean 'ndcg'"):
        segue.evaluate(model, split, metrics=["ndgc@10"])


def test_a_metric_without_k_and_with_a_default_k() -> None:
    def overall(ranks: Ranks) -> np.ndarray:
        return np.ones(len(ranks))

    def deep(ranks: Ranks, k: int = 50) -> np.ndarray:
        return np.ones(len(ranks))

    names = [metric.name for metric in resolve_metrics([overall, deep, "mrr", metrics.map], (5, 10))]
    assert names == ["overall", "deep@50", "mrr@5", "map@5", "mrr@10", "map@10"]
    with pytest.raises(ValueError, match="got 3, expected a name"):
        resolve_metrics([3])  # type: ignore[list-item]


def test_a_metric_of_another_shape_is_rejected(model: TrainedModel, split: Split) -> None:
    with pytest.raises(ValueError, match=r"metric wrong@5: returned shape \(1,\), expected \(80,\)"):
        segue.evaluate(model, split, metrics=[lambda_named("wrong")])


def lambda_named(name: str):  # type: ignore[no-untyped-def]
    def function(ranks: Ranks, k: int) -> np.ndarray:
        return np.ones(1)

    function.__name__ = name
    return function


def test_the_table_and_the_text(model: TrainedModel, split: Split) -> None:
    result = segue.evaluate(model, split, metrics="ndcg@10")
    assert result.table.columns == ["metric", "mean", "low", "high", "queries"]
    assert result.table["mean"][0] == result["ndcg@10"].mean
    assert "80 queries, whole catalog of 50 items, seen items excluded" in repr(result)
    assert "ndcg@10" in result._repr_html_()
    assert "seen items included" in repr(segue.evaluate(model, split, metrics="ndcg@10", exclude_seen=False))


@pytest.mark.parametrize("by", ["age", "gender", "history_length"])
def test_groups_partition_the_queries(model: TrainedModel, split: Split, by: str) -> None:
    result = segue.evaluate(model, split, metrics=["recall@10"], by=by)
    groups = result.table.filter(pl.col("group").is_not_null())
    assert groups["queries"].sum() == 80
    mean = (groups["mean"] * groups["queries"]).sum() / 80
    assert mean == pytest.approx(result["recall@10"].mean)


def test_labels_and_functions_as_groups(model: TrainedModel, split: Split) -> None:
    labels = ["even" if n % 2 == 0 else "odd" for n in range(80)]
    result = segue.evaluate(model, split, metrics=["recall@10"], by=labels)
    assert result.group_sizes == {"even": 40, "odd": 40}
    np.testing.assert_allclose(result.group_estimates["even"]["recall@10"].mean, result.values["recall@10"][::2].mean())
    assert segue.evaluate(model, split, metrics=["recall@10"], by=lambda held_out: labels).table.equals(result.table)
    with pytest.raises(ValueError, match="unknown 'agee', did you mean 'age'"):
        segue.evaluate(model, split, by="agee")
    with pytest.raises(ValueError, match="got 3 labels for 80 queries"):
        segue.evaluate(model, split, by=["a", "b", "c"])


def test_lists_of_the_model_evaluate_as_the_model(model: TrainedModel, split: Split, tmp_path: Path) -> None:
    top = segue.evaluate(model, split, metrics=["ndcg@10"]).top
    rows, positions = np.nonzero(np.arange(10) < top.lengths[:, None])
    queries = split.test.queries
    lists = pl.DataFrame(
        {
            "user_id": split.train.users.decode(queries.users[rows]),
            "item_id": split.train.items.decode(top.items[rows, positions]),
            "rank": positions + 1,
        }
    )
    expected = segue.evaluate(model, split, metrics=["ndcg@10"])["ndcg@10"]
    lists.write_parquet(tmp_path / "lists.parquet")
    for given in (lists, lists.to_pandas(), tmp_path / "lists.parquet", str(tmp_path / "lists.parquet")):
        assert segue.evaluate(given, split, metrics=["ndcg@10"])["ndcg@10"].mean == pytest.approx(
            expected.mean, abs=1e-6
        )
    with pytest.raises(ValueError, match="need a split"):
        segue.evaluate(lists, split.test)
    with pytest.raises(ValueError, match="rmse needs predicted ratings"):
        segue.evaluate(lists, split, metrics=["rmse"])


def test_invalid_arguments_are_rejected(model: TrainedModel, split: Split, data: Dataset) -> None:
    with pytest.raises(ValueError, match="got nothing to evaluate on"):
        segue.evaluate(model)
    with pytest.raises(ValueError, match="got Dataset to evaluate on"):
        segue.evaluate(model, data)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rmse needs a model that predicts ratings"):
        segue.evaluate(model, split, metrics=["rmse"])
    with pytest.raises(ValueError, match="the model has 50 items and the data 20"):
        segue.evaluate(model.model, segue.split(segue.load("simulated?users=30&items=20")))
    with pytest.raises(ValueError, match="expected a trained model"):
        segue.evaluate(3, split)


def test_a_saved_model_evaluates_as_in_memory(model: TrainedModel, split: Split, tmp_path: Path) -> None:
    segue.save(model, tmp_path / "saved")
    assert (
        segue.evaluate(tmp_path / "saved", split, metrics="ndcg@10")["ndcg@10"]
        == segue.evaluate(model, split, metrics="ndcg@10")["ndcg@10"]
    )


def test_comparison_of_models_and_seeds(split: Split, model: TrainedModel) -> None:
    result = segue.compare(
        {"ease": {"l2": 10}, "random": {}, "old": model}, split, metrics=["ndcg@10"], seeds=(0, 1, 2)
    )
    assert len(result.seed_means["random"]["ndcg@10"]) == 3
    assert len(set(result.seed_means["random"]["ndcg@10"])) == 3
    assert result.estimates["random"]["ndcg@10"].mean == pytest.approx(np.mean(result.seed_means["random"]["ndcg@10"]))
    assert result.estimates["old"]["ndcg@10"] == segue.evaluate(model, split, metrics="ndcg@10")["ndcg@10"]
    assert result.ranking[-1] == "random"
    assert result.tests.height == 3
    assert result.tests.filter(first="ease", second="old")["p"][0] == 1.0
    assert result.table["model"].to_list()[-1] == "random"
    assert "best first by ndcg@10" in repr(result)
    assert "p_holm" in result._repr_html_()
    against = segue.compare(["ease", "popular", "random"], split, metrics="ndcg@10", baseline="random")
    assert [(t.first, t.second) for t in against.paired_tests["ndcg@10"]] == [("ease", "random"), ("popular", "random")]


def test_models_to_compare_are_checked(split: Split) -> None:
    with pytest.raises(ValueError, match="expected at least 2 models"):
        segue.compare(["ease"], split)
    with pytest.raises(ValueError, match="ease listed twice"):
        segue.compare(["ease", "ease"], split)
    with pytest.raises(ValueError, match="baseline: unknown 'eese', did you mean 'ease'"):
        segue.compare(["ease", "popular"], split, baseline="eese")
    with pytest.raises(ValueError, match="'ease': got int, expected a mapping"):
        segue.compare({"ease": 3, "popular": {}}, split)


def test_folds_are_the_same_for_all_models(data: Dataset) -> None:
    result = segue.cross_validate({"ease@a": {"l2": 10}, "ease@b": {"l2": 10}}, data, folds=3, metrics=["ndcg@10"])
    assert result.folds == 3
    assert result.values["ease@a"] == result.values["ease@b"]
    mean, low, high = result.table.row(0)[2:5]
    assert low < mean < high
    assert mean == pytest.approx(np.mean(result.values["ease@a"]["ndcg@10"]))
    assert "3 folds" in repr(result)
    assert "ndcg@10" in result._repr_html_()


def test_ratings_are_cross_validated_by_errors() -> None:
    rng = np.random.default_rng(0)
    users, items = np.divmod(rng.choice(30 * 20, 400, replace=False), 20)
    ratings = np.clip(np.round(3 + users % 3 - items % 3 + rng.normal(0, 0.3, 400)), 1, 5)
    log = pl.DataFrame({"user_id": users, "item_id": items, "value": ratings})
    data = segue.load(log, columns={"user": "user_id", "item": "item_id", "value": "value"})
    result = segue.cross_validate(["als"], data, folds=2, metrics=["rmse", "mae"], valid=0, embedding_dim=4)
    assert result.metrics == ("rmse", "mae")
    assert all(0 < value < 2 for value in result.values["als"]["rmse"])
    with pytest.raises(ValueError, match="expected at least 2"):
        segue.cross_validate(["als"], data, folds=1)
    with pytest.raises(ValueError, match="expected the whole dataset"):
        segue.cross_validate(["als"], segue.split(data))


def test_a_custom_metric_chooses_the_best_epoch(split: Split) -> None:
    """A metric that decreases with every call selects the first epoch."""
    calls: list[float] = []

    def falling(ranks: Ranks, k: int) -> np.ndarray:
        calls.append(1.0 - 0.1 * len(calls))
        return np.full(len(ranks), calls[-1])

    settings = {"embedding_dim": 8, "recipe": "none", "learning_rate": 0.05, "baseline": "none"}
    first = segue.train("gru4rec", split, epochs=1, **settings)
    result = segue.train("gru4rec", split, metric=falling, epochs=3, **settings)
    assert len(calls) == 3
    np.testing.assert_array_equal(result.model.vectors, first.model.vectors)


def test_training_errors_of_a_rating_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = segue.load("simulated?users=40&items=30&seed=3")
    rng = np.random.default_rng(0)
    values = rng.integers(1, 6, data.histories.size).astype(np.float32)
    data = replace(data, histories=replace(data.histories, values=values))
    model = segue.train("als", data, embedding_dim=3, iterations=3)
    monkeypatch.setattr("segue.evaluation.rating_metrics.BLOCK_PAIRS", 7)
    actual = training_errors(model.model, data.histories)
    events = data.histories
    predicted = model.model.predict(events.rows.astype(np.int32), events.items)
    assert actual is not None
    assert actual["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - values) ** 2)), rel=1e-5)
    assert actual["mae"] == pytest.approx(np.mean(np.abs(predicted - values)), rel=1e-5)
    assert training_errors(model.model, replace(events, values=None)) is None
