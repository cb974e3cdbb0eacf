"""Every reading of a test part is recorded where the model is stored, and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import call, result

import segue
from segue.core.types import Split

DATA = "simulated?users=60&items=40&seed=5"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def parts() -> Split:
    return segue.split(segue.load(DATA))


def lines(folder: Path) -> list[Any]:
    path = folder / "test_readings.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_readings_by_a_model_in_memory_are_counted_and_saved_with_it(parts: Split, home: Path) -> None:
    model = segue.train("popular", parts)
    segue.evaluate(model, parts.valid)
    assert model.test_readings == []
    found = segue.evaluate(model, parts, metrics=["ndcg@10"])
    segue.evaluate(model, parts.test, metrics=["ndcg@10"])
    assert [line["command"] for line in model.test_readings] == ["segue.evaluate"] * 2
    assert [line["metrics"] for line in model.test_readings] == [{"ndcg@10": round(found["ndcg@10"].mean, 6)}] * 2
    assert {line["split"] for line in model.test_readings} == {parts.test.test_id}
    assert list(home.iterdir()) == [], "a model without a folder writes nothing"
    segue.save(model, home / "saved")
    opened = segue.open(home / "saved")
    assert opened.test_readings == model.test_readings
    segue.evaluate(opened, parts)
    segue.evaluate(str(home / "saved"), parts)
    assert len(opened.test_readings) == 3
    assert [line["run"] for line in lines(home / "runs")] == [str((home / "saved").resolve())] * 2


def test_readings_by_a_run_from_python_are_recorded_in_the_run(
    parts: Split, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = home / "runs" / "one"
    result(capsys, "train", "popular", "--data", DATA, "--out", run)
    model = segue.open("one")
    segue.evaluate(model, parts)
    segue.evaluate(model, parts.test)
    segue.evaluate("one", parts)
    segue.evaluate("one")
    segue.evaluate(model, parts.valid)
    segue.compare([model, "random"], parts)
    assert [line["command"] for line in lines(run)] == ["segue.evaluate"] * 4 + ["segue.compare"]
    assert {line["split"] for line in lines(run)} == {parts.test.test_id}
    audit = result(capsys, "evaluate", "one", "--audit")
    assert audit["readings_of_this_run"] == 5
    (record,) = result(capsys, "runs")
    assert record["test_readings"] == 5
    assert "5 x" in call(capsys, "runs")[1]
    segue.save(segue.open("one"), home / "copy")
    assert result(capsys, "evaluate", home / "copy", "--audit")["readings_of_this_run"] == 5


def test_readings_by_compare_are_recorded_on_the_models(parts: Split) -> None:
    found = segue.compare(["popular", "random"], parts, seeds=(0, 1))
    for model in found.models.values():
        assert [line["command"] for line in model.test_readings] == ["segue.compare"]


def test_the_readings_of_a_saved_model_are_audited(
    parts: Split, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = segue.train("popular", parts)
    segue.save(model, home / "new")
    assert "test part: never read by this model" in call(capsys, "evaluate", home / "new", "--audit")[1]
    segue.evaluate(model, parts)
    segue.save(model, home / "saved")
    result(capsys, "evaluate", home / "saved", "--data", DATA)
    result(capsys, "evaluate", home / "saved", "--data", DATA, "--part", "valid")
    status, out, err = call(capsys, "evaluate", "saved", "--audit")
    assert status == 0, err
    assert "test part: read 2 times by this model" in out
    assert "  segue.evaluate\n" in out
    found = result(capsys, "evaluate", home / "saved", "--audit")
    assert [line["split"] for line in found["test_readings"]] == [parts.test.test_id] * 2
    assert "leakage" not in found


def test_cross_validation_on_the_command_line_records_each_fold_and_model(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result(capsys, "cross-validate", DATA, "popular", "random", "--folds", "2", "--metrics", "ndcg@10")
    found = lines(home / "runs")
    assert [line["run"] for line in found] == ["popular", "random"] * 2
    assert len({line["split"] for line in found}) == 2
    segue.cross_validate(["popular"], DATA, folds=2)
    assert len(lines(home / "runs")) == 4, "the result is the record in Python"


def test_broken_records_are_left_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = home / "runs" / "one"
    result(capsys, "train", "popular", "--data", DATA, "--out", run, "--test")
    with (run / "test_readings.jsonl").open("a") as file:
        file.write('3\n{"split": 1}\n{"time": "2026')
    assert result(capsys, "evaluate", "one", "--audit")["readings_of_this_run"] == 1
    assert [record["test_readings"] for record in result(capsys, "runs")] == [1]


def test_a_split_of_other_data_or_settings_has_another_test(parts: Split) -> None:
    data = segue.load(DATA)
    assert segue.split(data).test.test_id == parts.test.test_id
    assert parts.valid.test_id is None
    others = [segue.split(data, "random"), segue.split(data, valid=0), segue.split(segue.load(f"{DATA}0"))]
    assert len({parts.test.test_id, *(one.test.test_id for one in others)}) == 4


def test_docstrings_say_that_the_test_part_is_read() -> None:
    for function in (segue.compare, segue.cross_validate):
        assert "reads the test part" in str(function.__doc__)
    assert "is compared with the call that created ``folder``" in " ".join(str(segue.train.__doc__).split())
