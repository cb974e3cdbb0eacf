"""``segue clicks compare``: trained folders and keys on one split, or on a table; reliability and its plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result
from scipy.special import expit

import segue
from segue.evaluation.auc_variance import auc_difference, mean_auc_estimate
from segue.evaluation.click_metrics import auc
from segue.evaluation.evaluate_examples import evaluate_predictions, evaluate_repeated, reliability_table

FAST = ("--set", "epochs=2", "--set", "batch_size=64", "--set", "embedding_dim=4")
SPLIT = ("--label", "click", "--split", "time", "--column", "day", "--set", 'columns={"day": "ignore"}')


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    frame = pl.DataFrame(
        {
            "click": (2 * x + rng.normal(size=600) > 0).astype(int),
            "user": rng.integers(5, size=600),
            "x": x,
            "day": range(600),
        }
    )
    path = tmp_path_factory.mktemp("data") / "shown.csv"
    frame.write_csv(path)
    frame.with_columns(day=pl.col("day") + 600).write_csv(path.with_name("later.csv"))
    return path


@pytest.fixture(scope="module")
def folders(table: Path) -> list[Path]:
    """Two models that were trained on the same split: one sees ``x``, one does not."""
    found = []
    for name, columns in {"seeing": {"day": "ignore"}, "blind": {"day": "ignore", "x": "ignore"}}.items():
        split = segue.split_examples(str(table), "time", column="day")
        folder = table.parent / name
        segue.train_clicks("ctr_factorization_machine", split, label="click", columns=columns, epochs=3,
                           batch_size=64, learning_rate=0.05, embedding_dim=4, folder=folder)  # fmt: skip
        found.append(folder)
    return found


def test_keys_are_trained_on_one_split_and_compared_on_validation(
    capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path
) -> None:
    models = ("ctr_factorization_machine", "logistic_regression@blind", "logistic_regression")
    own = ("--set", 'logistic_regression@blind.columns={"day": "ignore", "x": "ignore"}',
           "--set", "ctr_factorization_machine.embedding_dim=4", "--set", "epochs=2", "--set", "batch_size=64",
           "--set", "learning_rate=0.05")  # fmt: skip
    arguments: tuple[Any, ...] = ("clicks", "compare", *models, "--data", table, *own, *SPLIT, "--out", tmp_path / "c")
    record = result(capsys, *arguments, "--seeds", "0,1", "--baseline", "logistic_regression")
    assert (record["part"], record["rows"], record["seeds"]) == ("valid", 60, [0, 1])
    assert list(record["models"]) == list(models)
    assert [(one["first"], one["second"]) for one in record["tests"]["auc"]] == [
        (models[0], models[2]),
        (models[1], models[2]),
    ]
    blind, seeing = (record["models"][name]["metrics"]["auc"][0] for name in (models[1], models[2]))
    assert seeing > 0.9 > 0.7 > blind
    assert record["tests"]["auc"][1]["p_holm"] < 0.05

    # the mean over the seeds, of models that are stored
    rows = segue.split_examples(str(table), "time", column="day").valid
    stored = [segue.open_clicks(tmp_path / "c" / models[0] / f"seed-{seed}") for seed in (0, 1)]
    areas = [segue.evaluate_clicks(one, rows)["auc"].mean for one in stored]
    assert areas[0] != areas[1]
    assert record["models"][models[0]]["metrics"]["auc"][0] == pytest.approx(np.mean(areas))
    same = segue.compare_clicks({"fm": stored, "one": stored[:1]}, rows)
    assert same.metrics["fm"]["auc"].mean == pytest.approx(np.mean(areas))

    status, out, err = call(capsys, *arguments, "--seeds", "0,1", "--read-test")
    assert status == 0, err
    assert "(test, 60 rows, mean of 2 seeds)" in out
    assert "Paired tests of AUC (DeLong)" in out
    assert "Paired tests of log loss" in out
    assert f"models: {tmp_path / 'c'}" in err


def test_trained_folders_are_compared_on_the_part_that_their_split_holds_out(
    capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path
) -> None:
    folders = []
    for name, columns in {"all": '{"day": "ignore"}', "blind": '{"day": "ignore", "x": "ignore"}'}.items():
        options = ("--label", "click", "--split", "time", "--column", "day", "--set", f"columns={columns}")
        folders.append(tmp_path / name)
        result(capsys, "clicks", "train", "logistic_regression", "--data", table, *options, "--out", folders[-1])
    parts = segue.split_examples(str(table), "time", column="day")
    for option, part, rows in (((), "valid", parts.valid), (("--read-test",), "test", parts.test)):
        record = result(capsys, "clicks", "compare", *folders, *option)
        assert (record["part"], record["rows"]) == (part, 60)
        expected = segue.compare_clicks({str(one): one for one in folders}, rows)
        assert record["tests"]["auc"][0]["p"] == pytest.approx(expected.tests["auc"][0].p)
        assert record["tests"]["log_loss"][0]["difference"] == expected.tests["log_loss"][0].difference
    # a folder next to a key
    mixed = ("clicks", "compare", folders[0], "ctr_factorization_machine", "--data", table, *SPLIT, *FAST)
    record = result(capsys, *mixed, "--out", tmp_path / "mixed")
    assert record["models"][str(folders[0])]["model"] == "logistic_regression"
    status, _, err = call(capsys, *mixed, "--set", "split.valid=0.2", "--out", tmp_path / "other")
    assert status == 2
    assert "split.valid is 0.2, but 0.1 for" in err
    # another table
    later = table.with_name("later.csv")
    record = result(capsys, "clicks", "compare", *folders, "--data", later)
    assert (record["part"], record["rows"]) == ("table", 600)
    status, _, err = call(capsys, "clicks", "compare", *folders, "--data", table)
    assert status == 2
    assert "was trained on rows of" in err
    assert "leave out the table" in err
    status, _, err = call(capsys, "clicks", "compare", *folders, "--data", later, "--seeds", "0,1")
    assert status == 2
    assert "seeds has no effect" in err


def test_models_that_were_trained_on_other_rows_are_not_compared_on_their_split(
    capsys: pytest.CaptureFixture[str], table: Path, folders: list[Path], tmp_path: Path
) -> None:
    """A model of the Python API that was trained on the whole file knows the rows of the test part."""
    record = result(capsys, "clicks", "compare", *folders)  # Python stores the split, too
    assert record["split"]["strategy"] == "time"
    assert record["tests"]["auc"][0]["p"] < 0.05
    columns, later = {"day": "ignore"}, str(table.with_name("later.csv"))
    options: dict[str, Any] = {"label": "click", "columns": columns, "iterations": 1}
    for name, rows in (("a", str(table)), ("b", str(table))):
        segue.train_clicks("logistic_regression", rows, later, folder=tmp_path / name, **options)
    status, _, err = call(capsys, "clicks", "compare", tmp_path / "a", tmp_path / "b")
    assert status == 2
    assert f"training part of this split, which has 480 rows of {table}, but on 600 rows of {table}" in err
    other = segue.split_examples(str(table), "time", column="day").train
    frame = other.frame.with_columns(x=-pl.col("x"))
    frame.write_csv(tmp_path / "changed.csv")
    with pytest.raises(ValueError, match="split: rows are split by split_examples"):
        segue.train_clicks("logistic_regression", other, strategy="user", **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deepfm"], "models: got deepfm, expected at least 2, each once"),
        (["deepfm", "deepfm"], "expected at least 2, each once"),
        (["deepfm", "depfm"], "'depfm' is neither a folder nor the key of a model, did you mean 'deepfm'"),
        (["deepfm", "dcn_v2"], "no --data given"),
        (["deepfm", "ease", "--data", "{table}"], "'ease' is trained on an interaction log"),
        (["deepfm", "logistic_regression", "--data", "{table}", "--set", "hidden=[8]"], "set it for one model"),
        (["deepfm", "dcn_v2", "--data", "{table}", "--set", "epoch=1"], "did you mean 'epochs'"),
        (["deepfm", "dcn_v2", "--data", "{table}", "--seeds", "a"], "--seeds: got 'a'"),
        (["deepfm", "dcn_v2", "--data", "{table}", "--baseline", "fm"], "baseline: unknown 'fm'"),
        (["deepfm", "dcn_v2", "--data", "{table}", "--set", "valid=0"], "valid: the split has no such part"),
    ],
)
def test_errors(
    capsys: pytest.CaptureFixture[str],
    table: Path,
    arguments: list[str],
    message: str,
    monkeypatch: Any,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    status, _, err = call(capsys, "clicks", "compare", *(one.format(table=table) for one in arguments))
    assert status == 2
    assert message in err


def test_means_over_seeds_are_compared_by_their_covariance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=300)
    first = labels + rng.normal(size=(2, 300))
    second = labels + 2 * rng.normal(size=300)
    found, p = auc_difference(labels, first, second)
    assert found.mean == pytest.approx(np.mean([auc(labels, one) for one in first]) - auc(labels, second))
    assert p < 0.05
    # a model twice is that model; the mean of two has a smaller variance than each
    twice = auc_difference(labels, np.stack([first[0]] * 2), second)
    once = auc_difference(labels, first[0], second)
    assert (twice[0].mean, twice[0].low, twice[1]) == pytest.approx((once[0].mean, once[0].low, once[1]))
    assert found.high - found.low < once[0].high - once[0].low
    mean = mean_auc_estimate(labels, first)
    users, p_MT = np.arange(300) % 7, expit(first)
    repeated = evaluate_repeated(labels, p_MT, users, (0.5, 0.6), 3)
    singles = [evaluate_predictions(labels, one, users, at, 3) for one, at in zip(p_MT, (0.5, 0.6), strict=True)]
    assert repeated["auc"] == mean
    for name, one in repeated.items():
        assert one.mean == pytest.approx(np.mean([single[name].mean for single in singles]))
    assert evaluate_repeated(labels, p_MT[:1], users, (0.5,), 3).keys() == singles[0].keys()


def test_reliability_of_known_probabilities() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(6_000)
    labels = rng.random(6_000) < p
    found = reliability_table(labels, p, 10)
    assert found["rows"].sum() == 6_000
    is_inside = (found["low"] <= found["predicted"]) & (found["predicted"] <= found["high"])
    assert is_inside.sum() >= 9
    assert ((found["low"] <= found["observed"]) & (found["observed"] <= found["high"])).all()
    one = reliability_table(np.array([1] * 10), np.full(10, 0.5))
    assert one.row(0)[:3] == (10, 0.5, 1.0)
    assert one.row(0)[3:] == pytest.approx((0.7224672, 1.0))  # Wilson's interval of 10 of 10


def test_reliability_is_part_of_the_result_and_plotted(
    capsys: pytest.CaptureFixture[str], table: Path, folders: list[Path], tmp_path: Path
) -> None:
    split = segue.split_examples(str(table), "time", column="day")
    model = segue.train_clicks("ctr_factorization_machine", split, label="click", calibration="platt", epochs=1,
                               columns={"day": "ignore"}, embedding_dim=2)  # fmt: skip
    found = segue.evaluate_clicks(model, split.test)
    assert found.uncalibrated is not None
    assert list(found.reliability_curves) == ["before calibration", "calibrated"]
    assert found.reliability["rows"].sum() == found.rows == 60
    assert not found.uncalibrated.equals(found.reliability)
    expected = (
        found.reliability["rows"] * (found.reliability["predicted"] - found.reliability["observed"]).abs()
    ).sum()
    assert found["calibration_error"].mean == pytest.approx(expected / 60)
    assert segue.evaluate_clicks(folders[0], split.test).uncalibrated is None
    model.save(tmp_path / "m")
    for suffix in (".svg", ".png", ".pdf"):
        record = result(capsys, "clicks", "evaluate", tmp_path / "m", table, "--plot", tmp_path / f"p{suffix}")
        assert [len(record["reliability"][name]) > 3 for name in ("before calibration", "calibrated")] == [True] * 2
        assert json.loads(json.dumps(record)) == record
    text = (tmp_path / "p.svg").read_text()
    assert text.startswith("<svg")
    for words in ("predicted probability", "before calibration, calibration error", "calibrated, calibration error"):
        assert words in text
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")
    status, _, err = call(capsys, "clicks", "evaluate", tmp_path / "m", table, "--plot", tmp_path / "p.gif")
    assert status == 2
    assert "unknown format '.gif', expected .svg, .png, .pdf" in err
