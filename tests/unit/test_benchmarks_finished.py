"""Results of finished trainings of benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.finished import reuse


def test_a_result_is_reused_for_the_same_commit_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    calls: list[int] = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"scores": np.array([0.25, 0.5])}

    settings = {"model": "deepfm", "seed": 0}
    for _ in range(2):
        assert reuse(settings, compute, "abc")["scores"].tolist() == [0.25, 0.5]
    assert len(calls) == 1
    for other, commit in (({**settings, "seed": 1}, "abc"), (settings, "abd"), (settings, "abc-dirty")):
        reuse(other, compute, commit)
    assert len(calls) == 4
    reuse(settings, compute, "abc-dirty")
    assert len(calls) == 5
    assert not list((tmp_path / "runs").rglob("*-dirty"))
