"""Click-through models are compared by their rows, not by the path of the file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue

OPTIONS = ("--label", "click", "--split", "time", "--column", "day", "--set", "iterations=1",
           "--set", 'columns={"day": "ignore"}')  # fmt: skip


def write(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=200)
    click = (2 * x + rng.normal(size=200) > 0).astype(int)
    pl.DataFrame({"click": click, "user": rng.integers(5, size=200), "x": x, "day": range(200)}).write_csv(path)
    return path


def train(capsys: pytest.CaptureFixture[str], table: Any, folder: Path, *options: str) -> Path:
    result(capsys, "clicks", "train", "logistic_regression", "--data", table, *OPTIONS, *options, "--out", folder)
    return folder


def test_runs_on_the_same_rows_under_other_paths_are_compared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    absolute = write(tmp_path / "shown.csv")
    (tmp_path / "link.csv").symlink_to(absolute)
    (tmp_path / "other").mkdir()
    shutil.copy(absolute, tmp_path / "other" / "copy.csv")
    paths = {"relative": "shown.csv", "absolute": absolute, "link": "link.csv", "copy": "other/copy.csv"}
    folders = [train(capsys, path, tmp_path / f"run-{name}", "--set", f"l2_features={at + 1}")
               for at, (name, path) in enumerate(paths.items())]  # fmt: skip
    for first in folders:
        for second in (one for one in folders if one != first):
            record = result(capsys, "clicks", "compare", first, second)
            assert record["rows"] == 20
    # a key, and a folder whose relative path leads nowhere from here
    monkeypatch.chdir(tmp_path / "other")
    record = result(
        capsys, "clicks", "compare", folders[0], "logistic_regression", "--data", "copy.csv", *OPTIONS, "--out", "c"
    )
    assert list(record["models"]) == [str(folders[0]), "logistic_regression"]
    # all rows, under another path: the models know most of them
    for table in ("copy.csv", "../link.csv", absolute):
        status, _, err = call(capsys, "clicks", "compare", *folders[:2], "--data", table)
        assert status == 2
        assert "was trained on rows of" in err


def test_other_rows_are_not_compared_even_under_the_same_path(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "shown.csv")
    first = train(capsys, path, tmp_path / "first")
    second = train(capsys, write(path, seed=1), tmp_path / "second")
    status, _, err = call(capsys, "clicks", "compare", first, second)
    assert status == 2
    assert f"{first}: it was not trained on the training part of this split" in err


def test_the_validation_rows_must_be_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A model whose calibration has read the test rows of the other is not compared on them."""
    table = pl.read_csv(write(tmp_path / "shown.csv"))
    swap = {"train": "train", "valid": "test", "test": "valid"}
    for name, parts in {"a": {"valid": "valid", "test": "test", "train": "train"}, "b": swap}.items():
        day = pl.col("day")
        part = pl.when(day < 120).then(pl.lit("train")).when(day < 160).then(pl.lit("valid")).otherwise(pl.lit("test"))
        marked = table.with_columns(part=part.replace_strict(parts))
        marked.write_csv(tmp_path / f"{name}.csv")
        options = ("--label", "click", "--split", "given", "--column", "part", "--set", "iterations=1")
        result(capsys, "clicks", "train", "logistic_regression", "--data", tmp_path / f"{name}.csv", *options,
               "--out", tmp_path / name)  # fmt: skip
    status, _, err = call(capsys, "clicks", "compare", tmp_path / "a", tmp_path / "b", "--read-test")
    assert status == 2
    assert "its validation rows, of" in err
    later = segue.load_examples(tmp_path / "b.csv")
    assert later.rows_hash == segue.load_examples(str(tmp_path / "b.csv")).rows_hash
