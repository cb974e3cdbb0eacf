"""Results of finished trainings of benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.finished import check_earlier, reuse

SETTINGS = {"model": "deepfm", "seed": 0}


def scores(value: float) -> dict[str, np.ndarray]:
    return {"scores": np.array([value])}


def test_a_result_is_reused_for_the_same_commit_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    calls: list[int] = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"scores": np.array([0.25, 0.5])}

    for _ in range(2):
        found = reuse(SETTINGS, compute, "abc")
        assert found.arrays["scores"].tolist() == [0.25, 0.5]
        assert found.commit == "abc"
    assert len(calls) == 1
    for other, commit in (({**SETTINGS, "seed": 1}, "abc"), (SETTINGS, "abd"), (SETTINGS, "abc-dirty")):
        reuse(other, compute, commit)
    assert len(calls) == 4
    reuse(SETTINGS, compute, "abc-dirty")
    assert len(calls) == 5
    assert not list((tmp_path / "runs").rglob("*-dirty"))


@pytest.mark.parametrize("commit", ["abd", "abd-dirty", "unknown"])
def test_a_result_of_an_earlier_commit_is_reused_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit: str
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    reuse(SETTINGS, lambda: scores(1), "abc")
    found = reuse(SETTINGS, lambda: scores(2), commit, earlier="abc")
    assert (found.arrays["scores"].tolist(), found.commit) == ([1], "abc")
    found = reuse({**SETTINGS, "seed": 1}, lambda: scores(3), commit, earlier="abc")  # the earlier commit has none
    assert (found.arrays["scores"].tolist(), found.commit) == ([3], commit)


def test_a_result_of_the_same_commit_comes_before_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    for value, commit in ((1, "abc"), (2, "abd")):
        reuse(SETTINGS, lambda value=value: scores(value), commit)  # type: ignore[misc]
    found = reuse(SETTINGS, lambda: scores(3), "abd", earlier="abc")
    assert (found.arrays["scores"].tolist(), found.commit) == ([2], "abd")


def test_a_commit_without_trainings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    check_earlier(None)
    with pytest.raises(ValueError, match=r"--reuse: .*benchmarks has no trainings of the commit 'abc', expected no --"):
        check_earlier("abc")
    reuse(SETTINGS, lambda: scores(1), "abc")
    check_earlier("abc")
    for wrong in ("abd", "", "..", "ab"):
        with pytest.raises(ValueError, match=rf"no trainings of the commit '{wrong}', expected one of abc"):
            check_earlier(wrong)
