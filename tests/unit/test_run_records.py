"""What every run stores: predictions, its log, measurements, and the table of runs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.core import bundle
from segue.core.recommend import recommend
from segue.data.splits import split
from segue.experiment.data import load_run_data
from segue.experiment.plan import make_plan
from segue.experiment.records import predictions
from segue.experiment.records.run_log import RunLog
from segue.experiment.run_experiment import run_plan
from segue.experiment.run_folder import create_run, read_run_plan, verify
from segue.training.trackers.background import BackgroundTracker
from tests.unit.command_line import call, result

DATA = "simulated?users=60&items=80"


def run(model: str, folder: Path, *settings: str) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    plan = make_plan({"model": model, "data": DATA}, settings, "none")
    record = run_plan(plan, create_run(plan, folder), log=lines.append)
    assert verify(folder) == []
    return record, lines


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


def test_a_run_keeps_its_predictions(home: Path) -> None:
    record, _ = run("gru4rec", home / "run", "epochs=2", "model.embedding_dim=8", "run.track=[]")
    table = pl.read_parquet(home / "run" / predictions.PREDICTIONS)
    trained = bundle.load(home / "run" / "bundle")
    parts = split(load_run_data(home / "run"), read_run_plan(home / "run").split)
    queries, targets = parts.valid.queries, parts.valid.targets
    assert table["query"].to_list() == list(range(60))
    found = recommend(trained.model, queries, 10)
    assert found.probabilities is not None
    for row, length in enumerate(found.lengths):
        assert table["items"][row].to_list() == trained.items.decode(found.items[row, :length])
        for name, expected in (("scores", found.scores), ("probabilities", found.probabilities)):
            np.testing.assert_allclose(table[name][row].to_list(), expected[row, :length], rtol=1e-5)
    assert table["targets"].to_list() == [trained.items.decode(row.items) for row in rows(targets)]
    assert table["history"].to_list() == [trained.items.decode(row.items[-50:]) for row in rows(queries.history)]
    assert table["history_length"].to_list() == queries.history.lengths.tolist()
    assert table["user"].to_list() == trained.users.decode_typed(queries.users).to_list()
    titles = dict(trained.catalog.select("id", "title").collect().iter_rows())
    for ids, names in (("history", "history_titles"), ("targets", "target_titles"), ("items", "titles")):
        assert table[names].to_list() == [[titles[str(one)] for one in row] for row in table[ids]]
    hits = [bool(set(targets) & set(items)) for targets, items in table.select("targets", "items").iter_rows()]
    assert np.mean(hits) == pytest.approx(record["hit_rate@10"], abs=1e-6)


def rows(events: Any) -> list[Any]:
    return [events.rows_between(row, row + 1) for row in range(len(events))]


def test_predictions_follow_the_rules_of_the_evaluation(home: Path) -> None:
    run("popular", home / "kept", "exclude_seen=false", "run.track=[]")
    table = pl.read_parquet(home / "kept" / predictions.PREDICTIONS)
    assert table["items"].n_unique() == 1  # the most popular items, seen or not
    run("popular", home / "newest", "exclude_seen=2", "run.track=[]")
    table = pl.read_parquet(home / "newest" / predictions.PREDICTIONS)
    for history, items in table.select("history", "items").iter_rows():
        assert not set(history[-2:]) & set(items)


def test_rating_models_also_store_predicted_values(home: Path) -> None:
    record, _ = run("item_knn", home / "run", "model.feedback=explicit", "run.track=[]")
    table = pl.read_parquet(home / "run" / predictions.PREDICTIONS)
    true, predicted = (np.array(table[name].explode().to_list()) for name in ("target_values", "predicted_values"))
    assert np.sqrt(np.mean((true - predicted) ** 2)) == pytest.approx(record["rmse"], abs=1e-5)
    assert table["probabilities"].null_count() == len(table)  # scores that are no logits


def test_the_number_of_stored_queries_is_bounded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "MAX_QUERIES", 4)
    run("popular", home / "run", "run.track=[]")
    table = pl.read_parquet(home / "run" / predictions.PREDICTIONS)
    assert table["query"].to_list() == [0, 20, 39, 59]


def test_the_log_of_a_run(home: Path) -> None:
    record, lines = run("gru4rec", home / "run", "epochs=2", "model.embedding_dim=8", "run.track=[]")
    text = (home / "run" / "train.log").read_text()
    stored = [line.partition(" ")[2] for line in text.splitlines()]
    assert [line for line in stored if not line.startswith("epoch")] == lines
    epochs = [line for line in stored if line.startswith("epoch")]
    assert epochs[1].startswith(f"epoch 2: loss {json.loads(last_line(home / 'run' / 'history.jsonl'))['loss']:.4f}")
    assert record["cost"]["epochs"] == 2
    assert record["cost"]["epoch_seconds"] > 0
    assert record["monitor"]["flops_per_step"] > 0


def last_line(path: Path) -> str:
    return path.read_text().splitlines()[-1]


def test_the_log_has_warnings_and_the_error_that_ended_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, shown = RunLog(tmp_path, lambda text: None), list[str]()
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest: shown.append(str(message)))

    def fail() -> None:
        with log:
            warnings.simplefilter("always")
            warnings.warn("take care", stacklevel=1)
            log("a message")
            raise ValueError("too bad")

    with pytest.raises(ValueError, match="too bad"):
        fail()
    stored = [line.partition(" ")[2] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert stored == ["warning: take care", "a message", "ValueError: too bad"]
    assert shown == ["take care"]


def test_problems_of_trackers_are_warnings_of_the_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tracker: BackgroundTracker, step: int, values: Any) -> None:
        tracker.submit(lambda: 1 / 0)

    pytest.importorskip("tensorboard")
    monkeypatch.setattr(BackgroundTracker, "log", fail)
    record, lines = run("gru4rec", home / "run", "epochs=2", "model.embedding_dim=8", 'run.track=["tensorboard"]')
    problems = [text for text in record["warnings"] if "tracker tensorboard" in text]
    expected = "tracker tensorboard: ZeroDivisionError: division by zero"
    assert problems == [expected, "tracker tensorboard: 2 calls failed"]
    assert [line for line in lines if "tracker tensorboard" in line] == [f"warning: {expected}"]
    stored = json.loads((home / "run" / "metrics.json").read_text())
    assert stored["warnings"] == record["warnings"]
    assert expected in (home / "run" / "card.md").read_text()
    assert expected in (home / "run" / "train.log").read_text()


def test_runs_are_listed_with_metrics_and_cost(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("train", "gru4rec", "--data", DATA, "--recipe", "none", "--set", "epochs=2")
    record = result(capsys, *arguments, "--track", "none", "--set", "model.embedding_dim=8")
    assert not (home / "runs" / record["run"] / "events").exists()
    (listed,) = result(capsys, "runs")
    assert listed["monitor"] == record["monitor"]
    status, out, _ = call(capsys, "runs")
    assert status == 0
    for title in ("Recall@10", "HitRate@10", "NDCG@10", "MRR@10", "device", "epoch", "total time", "parameter"):
        assert title in out
    for metric in ("recall@10", "hit_rate@10", "ndcg@10", "mrr@10"):
        assert f"{record['valid'][metric]:.4f}" in out
    assert f"cpu {record['monitor']['device_percent']:.0f} %" in out


def test_runs_of_older_versions_are_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, _ = run("popular", home / "runs" / "old", "run.track=[]")
    del record["monitor"], record["cost"]["epoch_seconds"], record["cost"]["epochs"]
    (home / "runs" / "old" / "metrics.json").write_text(json.dumps(record))
    status, out, err = call(capsys, "runs")
    assert status == 0, err
    assert "popular" in out
