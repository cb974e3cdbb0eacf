"""``segue clicks``: train, evaluate, predict, and train again from the stored settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue

FAST = ("--set", "epochs=2", "--set", "batch_size=64", "--set", "embedding_dim=4")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    users, x = rng.integers(5, size=300), rng.normal(size=300)
    frame = pl.DataFrame(
        {"click": (x + rng.normal(size=300) > 0).astype(int), "user": users, "x": x, "day": range(300)}
    )
    path = tmp_path_factory.mktemp("data") / "shown.csv"
    frame.with_columns(shop=pl.lit("a")).write_csv(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def test_train_evaluate_predict(capsys: pytest.CaptureFixture[str], table: Path, folder: Path, tmp_path: Path) -> None:
    options: tuple[Any, ...] = ("--split", "time", "--column", "day", "--calibration", "platt", "--read-test")
    columns = ("--set", 'columns={"day": "ignore"}')
    status, out, err = call(
        capsys, "clicks", "train", "deepfm", "--data", table, "--label", "click", *options, *columns, *FAST,
        "--out", folder,
    )  # fmt: skip
    assert status == 0, err
    for text in (
        "5 categories",
        "constant in training",
        "ignored by columns",
        "(validation, 30 rows)",
        "(test, 30 rows)",
    ):
        assert text in out
    assert "split: time; 240 training, 30 validation and 30 test rows" in err
    model = segue.open_clicks(folder)
    assert model.calibration is not None
    assert model.encoder.label == "click"

    found = result(capsys, "clicks", "evaluate", folder, table)
    expected = segue.evaluate_clicks(model, table)
    assert found["metrics"]["auc"] == pytest.approx([expected["auc"].mean, expected["auc"].low, expected["auc"].high])
    assert found["metrics"]["f1"][1:] == [None, None]
    assert found["rows"] == 300
    status, out, _ = call(capsys, "clicks", "evaluate", folder, table)
    assert f"{expected['log_loss'].mean:.4f}" in out

    assert result(capsys, "clicks", "predict", folder, table, "--out", tmp_path / "p.parquet")["rows"] == 300
    written = pl.read_parquet(tmp_path / "p.parquet")
    np.testing.assert_allclose(written["probability"], model.predict(pl.read_csv(table)))
    assert (written["prediction"] == (written["probability"] >= model.threshold)).all()
    assert written.columns[:5] == ["click", "user", "x", "day", "shop"]

    again = folder.parent / "again"
    record = result(capsys, "clicks", "train", "--recipe", folder / "model" / "training.toml", "--out", again)
    assert record["rows"] == {"train": 240, "valid": 30, "test": 30}
    assert record["split"]["strategy"] == "time"
    assert record["test"] is None
    assert (again / "model" / "arrays.safetensors").read_bytes() == (
        folder / "model" / "arrays.safetensors"
    ).read_bytes()


def test_separate_files_are_given_parts(
    capsys: pytest.CaptureFixture[str], table: Path, folder: Path, tmp_path: Path
) -> None:
    frame = pl.read_csv(table)
    for name, part in {"valid": frame[:50], "test": frame[50:90]}.items():
        part.write_csv(tmp_path / f"{name}.csv")
    files = ("--valid", tmp_path / "valid.csv", "--test", tmp_path / "test.csv")
    columns = ("--set", 'columns={"day": "ignore"}')
    record = result(
        capsys, "clicks", "train", "deepfm", "--data", table, *files, *columns, "--label", "click", *FAST,
        "--out", folder, "--read-test",
    )  # fmt: skip
    assert record["rows"] == {"train": 300, "valid": 50, "test": 40}
    assert record["test"]["auc"] == pytest.approx(
        [getattr(segue.evaluate_clicks(folder, tmp_path / "test.csv")["auc"], name) for name in ("mean", "low", "high")]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "no MODEL given"),
        (["train", "deepfm"], "no --data given"),
        (["train", "ease", "--data", "{table}"], "'ease' is trained on an interaction log"),
        (["train", "deepfm", "--data", "{table}"], "column 'label' is missing"),
        (["train", "deepfm", "--data", "{table}", "--set", "epoch=1"], "did you mean 'epochs'"),
        (["train", "deepfm", "--data", "{table}", "--split", "day"], "split.strategy: got 'day'"),
        (["train", "deepfm", "--data", "{table}", "--calibration", "beta"], "run.calibration: got 'beta'"),
        (["train", "deepfm", "--data", "no.csv"], "no such file"),
        (["train", "--recipe", "no.toml"], "no such file: no.toml"),
        (["evaluate", "nowhere", "{table}"], "'nowhere' has no examples.json"),
        (["evaluate", "nowhere", "{table}", "--part", "dev"], "'nowhere' has no examples.json"),
        (["predict", "nowhere", "{table}", "--out", "p.doc"], "unknown format '.doc'"),
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
    monkeypatch.setenv("SEGUE_HOME", str(folder))
    status, _, err = call(capsys, "clicks", *(one.format(table=table) for one in arguments))
    assert status == 2
    assert message in err
