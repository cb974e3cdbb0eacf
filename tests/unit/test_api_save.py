"""Saving a model deletes nothing but a saved model."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return segue.train("popular", pl.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 2]}))


def test_a_new_an_empty_and_a_saved_folder_are_accepted(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new/er", "empty", "empty"):
        segue.save(model, tmp_path / name)
        assert repr(segue.open(tmp_path / name)) == repr(model)
    monkeypatch.setenv("HOME", str(tmp_path))
    segue.save(model, "~/mine")
    assert repr(segue.open("~/mine")) == repr(segue.open(tmp_path / "mine"))


def test_other_files_are_never_deleted(model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    notes = tmp_path / "folder" / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(ValueError, match=r"folder: '.*folder' holds other files \(notes.txt\)"):
        segue.save(model, tmp_path / "folder")
    with pytest.raises(ValueError, match=r"notes.txt' is a file"):
        segue.save(model, notes)
    segue.save(model, tmp_path / "saved")
    notes.rename(tmp_path / "saved" / "notes.txt")
    with pytest.raises(ValueError, match="holds other files"):
        segue.save(model, tmp_path / "saved")
    assert (tmp_path / "saved" / "notes.txt").read_text() == "mine"
    monkeypatch.chdir(tmp_path / "folder")
    for path in (".", ".."):
        with pytest.raises(ValueError, match="holds the working directory"):
            segue.save(model, path)
