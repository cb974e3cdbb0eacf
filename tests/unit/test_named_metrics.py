"""What is named is measured: errors of ratings, the order of metrics, baselines by any metric, lists of a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.messages import QualityWarning
from segue.evaluation.simple_baselines import RANKING_BASELINES
from segue.reports.tables import MAX_COLUMNS
from segue.reports.warmth import warmth_comparison_table, warmth_tables
from tests.nightly import only_nightly

DATA = "simulated?users=60&items=40&seed=5"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    status, _, err = call(capsys, "train", "ease", "--data", DATA, "--out", tmp_path / "run", "--test")
    assert status == 0, err
    return tmp_path / "run"


def test_an_error_of_ratings_of_a_ranking_model_is_not_left_out_silently(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "metrics: rmse_by_user: expected a model that predicts ratings, ease does not"
    readings = (run / "test_readings.jsonl").read_text()
    for metrics in ("rmse_by_user", "ndcg@10,rmse_by_user"):
        status, _, err = call(capsys, "evaluate", run, "--metrics", metrics)
        assert (status, message in err) == (2, True)
        model = segue.train("ease", segue.split(segue.load(DATA)), baseline="none")
        segue.save(model, tmp_path / metrics)
        status, _, err = call(capsys, "evaluate", tmp_path / metrics, "--data", DATA, "--metrics", metrics)
        assert (status, message in err) == (2, True)
    assert (run / "test_readings.jsonl").read_text() == readings, "nothing was read"
    status, _, err = call(capsys, "train", "popular", "--data", DATA, "--set", "metrics=[ndcg,mae]")
    assert status == 0
    assert "warning: mae: not computed, as popular predicts no ratings" in err


def test_comparisons_of_rating_and_ranking_models_have_errors_where_they_can(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = result(
        capsys, "compare", DATA, "popular", "svd", "--metrics", "ndcg,rmse_by_user", "--set", "svd.feedback=explicit"
    )
    assert "rmse_by_user" in found["models"]["svd"]["intervals"]
    assert "rmse_by_user" not in found["models"]["popular"]["intervals"]
    assert any("rmse_by_user: not computed, as popular" in warning for warning in found["warnings"])


def test_held_out_events_without_ratings_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ratings = tmp_path / "ratings.csv"
    pl.DataFrame(
        {
            "user_id": [user for user in range(20) for _ in range(6)],
            "item_id": [(user + step) % 9 for user in range(20) for step in range(6)],
            "timestamp": range(120),
            "rating": [float(1 + row % 5) for row in range(120)],
        }
    ).write_csv(ratings)
    segue.save(
        segue.train("svd", segue.split(segue.load(ratings)), baseline="none", feedback="explicit"), tmp_path / "saved"
    )
    pl.read_csv(ratings).drop("rating").write_csv(tmp_path / "events.csv")
    status, _, err = call(
        capsys, "evaluate", tmp_path / "saved", "--data", tmp_path / "events.csv", "--metrics", "ndcg@5,mae"
    )
    assert (status, "metrics: mae: the held-out events have no ratings to compare with" in err) == (2, True)


def test_metrics_keep_the_order_in_which_they_are_named() -> None:
    parts = segue.split(segue.load(DATA))
    names = ["gini@5", "rmse", "ndcg@5", "coverage@10", "mrr@5"]
    ranked = [name for name in names if name != "rmse"]
    assert segue.baselines(parts, metrics=ranked).metrics == tuple(ranked)
    assert segue.baselines(parts, metrics=names).metrics == tuple(names)
    by_gini = segue.baselines(parts, metrics=["gini@5", "ndcg@5"])
    ginis = [by_gini.measured[name].estimates["gini@5"].mean for name in by_gini.ranking]
    assert ginis == sorted(ginis), "lower is better"
    model = segue.train("svd", parts, baseline="none", feedback="explicit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QualityWarning)
        assert list(segue.evaluate(model, parts, metrics=names).estimates) == names
        assert segue.compare(["popular", "item_knn"], parts, metrics=["gini@5", "ndcg@5"]).metrics == (
            "gini@5",
            "ndcg@5",
        )
    assert list(segue.evaluate(model, parts, metrics=["ndcg", "gini"], ks=(5, 10)).estimates) == [
        "ndcg@5",
        "gini@5",
        "ndcg@10",
        "gini@10",
    ]


@pytest.mark.parametrize(
    "metric", ["gini@10", "ndcg@10", *(pytest.param(name, marks=only_nightly) for name in ("coverage@10", "auc"))]
)
def test_the_simple_baseline_is_chosen_by_the_metric_of_the_comparison(
    metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = segue.split(segue.load(DATA))
    valid = segue.baselines(parts, metrics=[metric])
    assert set(valid.measured) <= set(RANKING_BASELINES)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = segue.compare(["popular", "item_knn"], parts, metrics=[metric])
    assert found.simple_baseline is not None
    assert found.simple_baseline.name == valid.strongest
    is_beyond_accuracy = metric in ("gini@10", "coverage@10")
    if is_beyond_accuracy:
        assert not [one for one in caught if "simple baseline" in str(one.message)], "none of them is good by itself"
    stored = result(
        capsys, "compare", DATA, "popular", "item_knn", "--metrics", f"ndcg@10,{metric}", "--metric", metric
    )
    assert stored["baseline"]["model"] == valid.strongest


def test_baselines_say_what_is_ranked(capsys: pytest.CaptureFixture[str]) -> None:
    shown = result(capsys, "baselines", DATA, "--include-seen", "--items", "warm")
    assert shown["data"] == DATA
    assert {"split": "leave_one_out", "candidates": "warm items", "exclude_seen": False}.items() <= shown[
        "protocol"
    ].items()
    _, out, _ = call(capsys, "baselines", DATA, "--include-seen")
    assert (
        "protocol: split leave_one_out; 40 items are ranked (whole catalog); items of the history are ranked too" in out
    )
    assert out.startswith(f"{DATA}: simple baselines")
    found = segue.baselines(DATA, strategy="per_user_ratio")
    assert found.data == DATA
    assert "split per_user_ratio; 40 items are ranked (whole catalog); items of the history are excluded" in repr(found)


def test_the_lists_of_a_run_are_evaluated_as_recommendation_lists(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = segue.split(segue.load(DATA))
    lists = run / "lists.parquet"
    assert pl.read_parquet(lists).columns == ["user", "items"]
    record = result(capsys, "evaluate", run, "--metrics", "mrr@10,coverage@10")
    for source in (lists, pl.read_parquet(lists)):
        found = segue.evaluate(source, parts, metrics=["mrr@10", "coverage@10"])
        assert found["mrr@10"].mean == pytest.approx(record["mrr@10"], abs=1e-6)
    shown = result(capsys, "evaluate", lists, "--data", DATA, "--metrics", "mrr@10,coverage@10", "--by", "age")
    assert (shown["mrr@10"], shown["coverage@10"]) == (record["mrr@10"], pytest.approx(record["coverage@10"], abs=1e-6))
    assert shown["part"] == "test"
    assert sum(group["queries"] for group in shown["groups"].values()) == 60
    status, out, _ = call(capsys, "evaluate", lists, "--data", DATA, "--metrics", "mrr@10")
    assert (status, "given lists" in out) == (0, True)
    for options, message in (
        ((), "is a file of recommendation lists; expected --data DATA"),
        (("--data", DATA, "--include-seen"), "evaluation.exclude_seen: not used for recommendation lists"),
        (("--data", DATA, "--protocol", "ncf"), "evaluation.protocol: not used for recommendation lists"),
        (("--data", DATA, "--metrics", "rmse"), "needs predicted ratings, got recommendation lists"),
    ):
        status, _, err = call(capsys, "evaluate", lists, *options)
        assert (status, message in err) == (2, True), err
    pl.read_parquet(lists).with_columns(user=pl.lit(None, pl.String)).write_parquet(tmp_path / "unknown.parquet")
    with pytest.raises(ValueError, match="60 of 60 lists have no user id"):
        segue.evaluate(tmp_path / "unknown.parquet", parts)


def test_tables_of_many_metrics_have_few_columns_and_no_empty_cells(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "ndcg,mrr,novelty,popularity,coverage,gini,entropy,head_share,tail_share,diversity,gap:gender:ndcg,hit_rate"
    record = result(capsys, "evaluate", run, "--metrics", names, "--set", "ks=[10]", "--by", "gender")
    tables = warmth_tables(record)
    assert len(tables) == 3
    shown = [name for table in tables for name in table.columns[3:]]
    assert len(shown) == 11
    assert not any("gap" in name.lower() for name in shown), "a gap is one of groups"
    for table in tables:
        assert len(table.columns) <= 3 + MAX_COLUMNS
        assert all(all(row) for row in table.rows), "no empty cell"
        assert f"of {len(tables)})" in table.title
    _, out, _ = call(capsys, "evaluate", run, "--metrics", names, "--set", "ks=[10]", "--by", "gender")
    assert "By gender (1 of 3)" in out
    compared: dict[str, Any] = {"models": {"a": record, "b": record}, "metric": "gap:gender:ndcg@10"}
    assert warmth_comparison_table(compared) is None
    assert warmth_comparison_table({**compared, "metric": "coverage@10"}) is not None
