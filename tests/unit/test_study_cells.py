"""Studies: damaged measurements and protocols that do not fit are errors before any training."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import call

DATA = "simulated?users=40&items=60&seed=1"


@pytest.mark.parametrize("damaged", ["[1]", "{}", '{"model": "popular", "seed": 0}'])
def test_a_damaged_cell_is_rejected(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    command = ["study", "seed_variance", "--data", DATA, "--models", "popular,ease", "--seeds", "0,1", "--out", "page"]
    assert call(capsys, *command)[0] == 0
    cell = min(tmp_path.rglob("cells/*.json"))
    cell.write_text(damaged)
    status, _, err = call(capsys, *command)
    assert status == 2
    assert f"{cell.name}: expected the measurements of model, seed; delete it to measure again" in err


def test_protocols_are_checked_before_the_first_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    status, _, err = call(capsys, "study", "protocols", "--data", DATA, "--models", "lstm", "--set", "epochs=1")
    assert status == 2
    assert "sampled: got 99, expected fewer than the 60 items of the catalog" in err
    assert "training" not in err
