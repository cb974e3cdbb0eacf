"""``segue runs`` with long names in terminals of common widths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import call

from segue.reports.tables import Table, split_columns

NAME = "amazon-beauty-longer-item_knn-da03975b51"


@pytest.mark.parametrize("width", [80, 100, 120, 250])
def test_names_and_values_are_not_wrapped(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    data = "simulated?users=40&items=50"
    for name in (NAME, "short"):
        assert call(capsys, "train", "popular", "--data", data, "--out", tmp_path / "runs" / name)[0] == 0
    status, out, _ = call(capsys, "runs")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert status == 0
    assert max(map(len, lines)) <= width, out
    assert sum(NAME in line for line in lines) == sum(line.strip().startswith("short") for line in lines) >= 1
    assert (len([line for line in lines if line.startswith("Runs")]) == 1) == (width == 250)
    heads = {head for line in lines for head in re.split(r" {2,}", line.strip())}
    assert heads >= {"data", "model", "Recall@10", "HitRate@10", "NDCG@10", "MRR@10", "test read", "device use",
                     "epoch", "total time", "memory", "parameters", "seed"}  # fmt: skip


def test_columns_are_split_without_loss() -> None:
    table = Table("Runs, oldest first", ("run", "data", "a", "b"), (("x" * 20, "d", "1", "2"), ("y", "e", "3", "4")), 2)
    assert split_columns(table, 80) == [table]
    first, second = split_columns(table, 32)
    assert (first.columns, first.first_numeric) == (("run", "data"), 2)
    assert (second.columns, second.first_numeric) == (("run", "a", "b"), 1)
    assert second.rows == (("x" * 20, "1", "2"), ("y", "3", "4"))
    assert second.title == "Runs (2 of 2)"
    assert [one.columns for one in split_columns(table, 5)] == [("run", "data"), ("run", "a"), ("run", "b")]
