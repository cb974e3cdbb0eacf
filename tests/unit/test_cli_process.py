"""The command line as processes: what starting costs, interruption and resuming."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("torch", "polars", "pydantic", "numpy", "scipy", "segue.core", "segue.data", "segue.experiment")
TRAIN = ["train", "gru4rec", "--data", "simulated?users=150&items=40", "--recipe", "none", "--set", "model.width=16",
         "--set", "epochs=12", "--set", "batch_size=4", "--set", "patience=100"]  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "SEGUE_HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom segue.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as left:\n    assert not left.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout.strip()


def test_importing_segue_imports_nothing_heavy() -> None:
    code = f"import segue, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_interrupted_training_goes_on_to_the_same_model(tmp_path: Path) -> None:
    segue = [sys.executable, "-m", "segue"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(
        [*segue, *TRAIN, "--out", str(whole), "--json"], env=environment(tmp_path), check=True, capture_output=True
    )
    with subprocess.Popen(
        [*segue, *TRAIN, "--out", str(cut)], env=environment(tmp_path), stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and not (cut / "checkpoint").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
    assert process.returncode == 130
    assert f"segue train --resume {cut}" in told.decode()
    assert not (cut / "metrics.json").exists()
    done = subprocess.run(
        [*segue, "train", "--resume", str(cut), "--json"], env=environment(tmp_path), check=True, capture_output=True
    )
    record = json.loads(done.stdout)
    expected = json.loads((whole / "metrics.json").read_text())
    assert record["ndcg@10"] == expected["ndcg@10"]
    assert (cut / "bundle/arrays.safetensors").read_bytes() == (whole / "bundle/arrays.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (cut / "history.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


def test_compare_trains_once_and_tests_pairs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "segue", "compare", "simulated?users=60&items=40", "popular", "random", "--json"]
    first = subprocess.run(command, env=environment(tmp_path), check=True, capture_output=True, text=True)
    result = json.loads(first.stdout)
    (test,) = result["tests"]
    difference = result["models"]["popular"]["ndcg@10"] - result["models"]["random"]["ndcg@10"]
    assert test["difference"] == pytest.approx(difference, abs=2e-6)
    assert test["low"] <= test["difference"] <= test["high"]
    assert (Path(result["folder"]) / "values.parquet").exists()
    second = subprocess.run(command, env=environment(tmp_path), check=True, capture_output=True, text=True)
    assert second.stderr.count("trained before with these settings") == 2
    assert json.loads(second.stdout)["models"] == result["models"]
