"""Start-up cost of the command line; interruption, resuming and reuse of runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from segue.cli import main
from segue.experiment.records.run_log import EpochLog
from tests.nightly import only_nightly

HEAVY = ("torch", "polars", "numpy", "scipy", "segue.core.types", "segue.data", "segue.experiment", "matplotlib")
EPOCHS = 5
TRAIN = ["train", "gru4rec", "--data", "simulated?users=150&items=40", "--recipe", "none",
         "--set", "model.embedding_dim=16", "--set", f"epochs={EPOCHS}",
         "--set", "batch_size=16", "--set", "patience=100"]  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom segue.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as left:\n    assert not left.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stderr.strip() == "[]"
    assert process.stdout.strip()


def test_importing_segue_imports_nothing_heavy() -> None:
    code = f"import segue, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def in_process(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert not left.value.code, err
    return json.loads(out), err


def test_an_interrupted_training_resumes_to_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected, _ = in_process(capsys, *TRAIN, "--out", str(whole))

    def press(tracker: EpochLog, step: int, values: Mapping[str, float]) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    whole_log = EpochLog.log
    monkeypatch.setattr(EpochLog, "log", press)
    with pytest.raises(SystemExit) as left:
        main([*TRAIN, "--out", str(cut)])
    monkeypatch.setattr(EpochLog, "log", whole_log)
    assert left.value.code == 130
    stderr = capsys.readouterr().err
    assert f"segue train --resume {cut}" in stderr
    assert not (cut / "metrics.json").exists()
    record, _ = in_process(capsys, "train", "--resume", str(cut))
    assert record["ndcg@10"] == expected["ndcg@10"]
    assert (cut / "bundle/arrays.safetensors").read_bytes() == (whole / "bundle/arrays.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (cut / "history.jsonl").read_text().splitlines()]
    assert steps == list(range(1, EPOCHS + 1))


@only_nightly
def test_compare_trains_once_and_tests_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    command = ("compare", "simulated?users=60&items=40", "popular", "random")
    result, _ = in_process(capsys, *command)
    (test,) = result["tests"]
    difference = result["models"]["popular"]["ndcg@10"] - result["models"]["random"]["ndcg@10"]
    assert test["difference"] == pytest.approx(difference, abs=2e-6)
    assert test["low"] <= test["difference"] <= test["high"]
    assert (Path(result["folder"]) / "values.parquet").exists()
    assert "popular" in Path(result["page"]).read_text()
    again, err = in_process(capsys, *command)
    assert err.count("trained before with these settings") == 2
    assert again["models"] == result["models"]
