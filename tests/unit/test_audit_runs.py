"""``segue audit`` finds what was planted in the records of runs: readings, tuning on the test, boards, sampling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import call, result

import segue
from segue.experiment.audit.findings import AuditReport, Finding

DATA = "simulated?users=40&items=120&mean_length=15&seed=2"


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path / "runs"


@pytest.fixture
def train(runs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    def run(name: str, *settings: str, model: str = "popular") -> Path:
        options = [part for one in settings for part in ("--set", one)]
        out = runs / name
        result(capsys, "train", model, "--data", DATA, "--test", "--out", str(out), *options, "--set", "baseline=none")
        return out

    return run


def found(report: AuditReport, check: str) -> Finding | None:
    return next((one for one in report.findings if one.check == check), None)


def date_back(run: Path, time: str = "2020-01-01T00:00:00+00:00") -> None:
    """Let the readings of a run be older."""
    path = run / "test_readings.jsonl"
    lines = [{**json.loads(line), "time": time} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def change_record(run: Path, **values: Any) -> None:
    path = run / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_run_is_clean_and_its_readings_are_counted(train: Callable[..., Path]) -> None:
    train("first")
    report = segue.audit("first")
    assert report.is_clean, repr(report)
    assert (report.facts["test_readings"], report.facts["runs_that_read_the_test"]) == (1, 1)
    assert report.facts["split"] == "leave_one_out"


def test_repeated_readings_with_other_results_are_a_note(
    train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    train("first")
    result(capsys, "evaluate", "first")
    assert segue.audit("first").is_clean, "the same result again"
    result(capsys, "evaluate", "first", "--set", "ks=[3]")
    finding = found(segue.audit(DATA), "test_readings")
    assert finding is not None
    assert (finding.grade, finding.count) == ("note", 1)
    assert finding.example == {"run": "first", "readings": 3}


def test_readings_of_simple_baselines_are_no_fault(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for metrics in ("ndcg@10", "mrr@10"):
        result(capsys, "baselines", DATA, "--test", "--metrics", metrics)
    assert len((runs / "test_readings.jsonl").read_text().splitlines()) > 5
    assert segue.audit(DATA).is_clean


def test_readings_of_many_runs_are_a_warning(train: Callable[..., Path], runs: Path) -> None:
    run = train("first")
    (line,) = (run / "test_readings.jsonl").read_text().splitlines()
    others = [{**json.loads(line), "run": f"other {number}"} for number in range(20)]
    (runs / "test_readings.jsonl").write_text("".join(json.dumps(one) + "\n" for one in others[:19]))
    assert segue.audit("first").is_clean
    (runs / "test_readings.jsonl").write_text("".join(json.dumps(one) + "\n" for one in others))
    finding = found(segue.audit("first"), "test_readings")
    assert finding is not None
    assert (finding.grade, finding.count) == ("warning", 21)


def test_settings_chosen_after_a_reading_are_a_warning(train: Callable[..., Path], runs: Path) -> None:
    first = train("first")
    date_back(first)
    train("seed", "run.seed=1")
    train("other", model="ease")
    assert segue.audit(DATA).is_clean, "other seeds and models are not chosen by it"
    train("second", "smoothing=5")
    report = segue.audit(DATA)
    finding = found(report, "tuning_on_test")
    assert finding is not None
    assert (finding.grade, finding.count) == ("warning", 1)
    assert finding.example == {"run": "second", "after": "first", "model": "popular"}
    assert report.exit_status == 0
    folder = runs / "compare" / "both"
    folder.mkdir(parents=True)
    records = {name: json.loads((runs / name / "metrics.json").read_text()) for name in ("first", "seed", "second")}
    (folder / "comparison.json").write_text(json.dumps({"models": records}))
    assert segue.audit(DATA).is_clean, "runs of one comparison are planned together"


def test_runs_trained_before_the_reading_are_no_fault(train: Callable[..., Path]) -> None:
    train("first")
    second = train("second", "smoothing=5")
    change_record(second, date="2020-01-01T00:00:00+00:00")
    assert found(segue.audit(DATA), "tuning_on_test") is None


def test_sampled_metrics_are_a_note_and_another_order_a_warning(train: Callable[..., Path]) -> None:
    first = train("first", "evaluation.sampled=5", model="ease")
    finding = found(segue.audit("first"), "sampled_metrics")
    assert finding is not None
    assert (finding.grade, finding.count) == ("note", 1)
    assert "among 5 sampled items: sampled_ndcg@" in finding.text
    second = train("second", "evaluation.sampled=5", model="random")
    change_record(first, **{"ndcg@10": 0.3, "sampled_ndcg@10": 0.6})
    change_record(second, **{"ndcg@10": 0.2, "sampled_ndcg@10": 0.7})
    for target in (DATA, ["first", "second"]):
        finding = found(segue.audit(target), "sampled_metrics")
        assert finding is not None
        assert finding.grade == "warning"
        assert "1 of 1 pairs of runs are in the other order" in finding.text


def test_runs_on_different_boards_are_an_error_where_they_are_compared(
    train: Callable[..., Path], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("first")
    train("second", model="ease")
    assert segue.audit(["first", "second"]).is_clean
    train("third", "split.strategy=per_user_ratio", "evaluation.exclude_seen=false")
    finding = found(segue.audit(DATA), "mixed_boards")
    assert finding is not None
    assert (finding.grade, finding.count) == ("note", 3)
    status, out, err = call(capsys, "audit", "first", "third")
    assert status == 1, err
    assert "error: mixed_boards: 2 runs are on 2 boards (1, 1 runs)" in out
    assert "split.strategy: 'leave_one_out' here, 'per_user_ratio' there" in out
    assert "evaluation.exclude_seen: True here, False there" in out
    change_record(runs / "second", counts={"items": 29}, data_hash="other")
    report = segue.audit(DATA)
    texts = [one.text for one in report.findings]
    assert any("3 boards" in text and "120 and 29 items" in text for text in texts), texts


def test_a_stored_comparison_of_different_boards_is_an_error(train: Callable[..., Path], runs: Path) -> None:
    train("first")
    train("second", "split.strategy=random", model="ease")
    records = {name: json.loads((runs / name / "metrics.json").read_text()) for name in ("first", "second")}
    for name, models in (("mixed", records), ("one board", {"first": records["first"]}), ("broken", None)):
        (runs / "compare" / name).mkdir(parents=True)
        (runs / "compare" / name / "comparison.json").write_text(json.dumps({"models": models}))
    report = segue.audit(DATA)
    finding = report.findings[0]
    assert (finding.check, finding.grade) == ("mixed_boards", "error")
    assert finding.text.startswith("comparison mixed: 2 runs are on 2 boards")
    assert report.exit_status == 1


def test_a_saved_model_is_audited_by_its_log_and_readings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = segue.split(DATA)
    model = segue.train("popular", parts)
    segue.save(model, tmp_path / "saved")
    report = segue.audit(tmp_path / "saved")
    assert report.is_clean
    assert report.facts["test_readings"] == 0
    segue.evaluate(model, parts, ks=(3,))
    segue.evaluate(model, parts)
    segue.save(model, tmp_path / "saved")
    report = segue.audit(tmp_path / "saved")
    assert [one.grade for one in report.findings] == ["note"]
    assert result(capsys, "audit", tmp_path / "saved")["facts"]["test_readings"] == 2
    status, _, err = call(capsys, "audit", tmp_path / "saved", "--set", "split.strategy=random")
    assert status == 2
    assert "--set: not used for" in err
