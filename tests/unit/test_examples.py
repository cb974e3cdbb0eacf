"""The examples run, from top to bottom."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_basic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    runpy.run_path(str(EXAMPLES / "basic.py"))
    assert "probability" in capsys.readouterr().out


def test_movielens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if not os.environ.get("SEGUE_ARCHIVES"):
        pytest.skip("SEGUE_ARCHIVES names no folder with ml-100k")
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["movielens.py", "1"])
    runpy.run_path(str(EXAMPLES / "movielens.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert "ease on test" in told
    assert "Return of the Jedi (1983)" in told


@pytest.mark.filterwarnings("ignore")
def test_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code if not cell.source.startswith("models"))


def test_the_notebook_is_kept_without_output() -> None:
    import nbformat

    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
