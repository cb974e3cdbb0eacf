"""What training and evaluation report: validation, readings of the test part, baselines, repeats, empty parts."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.messages import QualityWarning
from segue.core.types import Dataset

DATA = "simulated?users=60&items=40&seed=5"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


def readings(run: Path) -> list[Any]:
    path = run / "test_readings.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ratings(users: int = 30, items: int = 20) -> Dataset:
    rows = [(u, (u * 7 + i * 3) % items, 1 + (u * i) % 5, i) for u in range(users) for i in range(12)]
    return segue.load(pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row"))


def repeats(users: int = 20) -> Dataset:
    """Users who return to the same three items."""
    rows = [(u, (u + t) % 3 + 3 * (u % 5), t) for u in range(users) for t in range(9)]
    return segue.load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))


def test_training_reports_validation_and_does_not_read_the_test(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    run = home / "runs" / "one"
    found = result(capsys, "train", "ease", "--data", DATA, "--out", str(run))
    assert found["part"] == "valid"
    assert found["ndcg@10"] == found["valid"]["ndcg@10"]
    assert readings(run) == []
    tested = result(capsys, "evaluate", "one")
    assert tested["part"] == "test"
    assert tested["ndcg@10"] != found["ndcg@10"]
    assert call(capsys, "verify", "one")[0] == 0


def test_each_reading_of_the_test_is_recorded_and_counted_over_runs(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    first, second = home / "runs" / "first", home / "runs" / "second"
    assert result(capsys, "train", "popular", "--data", DATA, "--out", str(first), "--test")["part"] == "test"
    result(capsys, "train", "ease", "--data", DATA, "--out", str(second))
    result(capsys, "evaluate", "second", "--part", "valid")
    assert len(readings(first)) == 1
    assert readings(second) == []
    tested = result(capsys, "evaluate", "second")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QualityWarning)
        segue.evaluate(str(second))
    lines = readings(second)
    assert [line["metrics"]["ndcg@10"] for line in lines] == [tested["ndcg@10"]] * 2
    assert {line["split"] for line in lines} == {readings(first)[0]["split"]}
    audit = result(capsys, "evaluate", "second", "--audit")
    assert audit["leakage"] == []
    assert (len(audit["test_readings"]), audit["readings_of_this_run"]) == (3, 2)
    out = call(capsys, "evaluate", "first", "--audit")[1]
    assert "test part: read 3 times with this data and split, by 2 runs" in out
    result(capsys, "train", "popular", "--data", DATA, "--set", "split.valid=0", "--out", str(home / "runs" / "other"))
    assert result(capsys, "evaluate", "other", "--audit")["test_readings"] == []


def test_training_with_nothing_held_out_is_evaluated_on_nothing_and_exported(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    out = ("--out", str(home / "runs" / "all"))
    status, _, err = call(capsys, "train", "ease", "--data", DATA, "--set", "split.strategy=none", *out)
    assert status == 0, err
    assert "nothing was held out" in err
    assert result(capsys, "export", "all", "--engine", "native")["key"] == "ease"
    status, _, err = call(capsys, "train", "ease", "--data", DATA, "--set", "split.strategy=none", "--test")
    assert status == 2
    assert "train without --test" in err


def test_a_part_that_was_asked_for_and_is_empty_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--set", "split.strategy=per_user_ratio", "--set", "split.test=0.001", "--set", "split.valid=0")
    status, _, err = call(capsys, "train", "popular", "--data", DATA, *settings)
    assert status == 2
    assert "the test part has no query: test=0.001 of the data is rounded down to nothing" in err
    split = segue.split(ratings(), "per_user_ratio", test=0.2, valid=0.01)
    with pytest.raises(ValueError, match=r"the valid part has no query: .*; .* set split.valid=0 to train without"):
        segue.train("popular", split)
    assert segue.train("popular", segue.split(ratings(), "per_user_ratio", test=0.2, valid=0)).key == "popular"


def test_the_queries_of_each_part_are_counted_before_training(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    log = home / "log.csv"
    rows = [f"u{u},i{i},{i}" for u in range(20) for i in range(2 if u < 5 else 9)]
    log.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    _, _, err = call(capsys, "train", "popular", "--data", str(log))
    assert "15 validation and 15 test queries; 5 of 20 training users have no test query" in err


def test_a_model_below_the_simple_baseline_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    split = segue.split("simulated?users=200&items=60&seed=1")
    with pytest.warns(QualityWarning, match=r"random is below a simple baseline: ndcg@10 .* of (popular|ease|transit)"):
        trained = segue.train("random", split)
    found = trained.metadata["validation"]
    assert found["value"] < found["baseline_value"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", QualityWarning)
        assert "validation" not in segue.train("random", split, baseline="none").metadata
    stored = result(capsys, "train", "random", "--data", "simulated?users=200&items=60&seed=1")
    assert any("random is below a simple baseline" in text for text in stored["warnings"])


def test_a_rating_model_says_that_it_does_not_rank(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    split = segue.split(ratings(), "random")
    with pytest.warns(QualityWarning, match=r"als predicts ratings and is not trained to rank.*validation ndcg@10"):
        trained = segue.train("als", split, embedding_dim=2, iterations=2)
    assert trained.metadata["validation"]["baseline"] == "item_and_user_means"
    with pytest.warns(QualityWarning, match="als predicts ratings and is not trained to rank"):
        segue.evaluate(trained, split)
    messages: list[str] = []
    segue.export(trained, home / "artifact", engine="native", log=messages.append)
    assert any("als predicts ratings" in text for text in messages)


def test_repeat_consumption_is_reported_with_its_share_and_setting() -> None:
    split = segue.split(repeats())
    text = r"all (20 )?(held-out )?targets are items that the user's history already contains.*set exclude_seen=False"
    with pytest.warns(QualityWarning, match=text):
        trained = segue.train("popular", split)
    with pytest.warns(QualityWarning, match=text):
        segue.evaluate(trained, split)
    with pytest.warns(QualityWarning, match=r"100% of .*exclude_seen=False"):
        segue.recommend(trained, [0, 1], k=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", QualityWarning)
        included = segue.train("popular", split, exclude_seen=False, baseline="none")
        assert segue.evaluate(included, split, exclude_seen=False)["hit_rate@10"].mean > 0
        segue.recommend(included, [0, 1], k=2, exclude_seen=False)


def test_evaluating_a_model_that_was_trained_on_the_test_queries_is_reported() -> None:
    data = segue.load(DATA)
    split = segue.split(data)
    trained = segue.train("popular", data)
    with pytest.warns(QualityWarning, match="60 of 60 targets are events that the model was trained on"):
        segue.evaluate(trained, split)
    with warnings.catch_warnings():
        warnings.simplefilter("error", QualityWarning)
        segue.evaluate(segue.train("popular", split, baseline="none"), split)
