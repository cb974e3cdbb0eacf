"""Run every example from top to bottom."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nightly import only_nightly

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOKS = ("colab.ipynb", "tour.ipynb")


def require_archives() -> None:
    """Skip a test that needs the archive of MovieLens 100K."""
    if not os.environ.get("SEGUE_ARCHIVES"):
        pytest.skip("SEGUE_ARCHIVES names no folder with ml-100k")


def test_every_example_is_run_here() -> None:
    scripts = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    in_another_file = {"product_database.py"}  # tests/serving/test_product_database.py
    assert scripts == {"basic.py", "movielens.py", "als_ratings.py", "realtime.py", *NOTEBOOKS, *in_another_file}


def test_basic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    runpy.run_path(str(EXAMPLES / "basic.py"))
    output = capsys.readouterr().out
    assert "ndcg@10" in output
    assert "probability" in output


def test_movielens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    require_archives()
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["movielens.py", "1"])
    runpy.run_path(str(EXAMPLES / "movielens.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert "ease on test" in output
    assert "Return of the Jedi (1983)" in output


def test_als_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    require_archives()
    folder = tmp_path / "als"
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["als_ratings.py", "ml-100k", str(folder)])
    runpy.run_path(str(EXAMPLES / "als_ratings.py"), run_name="__main__")
    output = capsys.readouterr().out
    train, test = (float(line.split()[2]) for line in output.splitlines() if " RMSE " in line)
    assert train < test < 0.95
    assert (folder / "convergence.svg").read_text(encoding="utf-8").count("<svg") == 1
    assert (folder / "checkpoint" / "metadata.json").exists()
    assert (folder / "model" / "bundle.json").exists()


def test_realtime(tmp_path: Path) -> None:
    environment = os.environ | {"SEGUE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / "realtime.py")]
    process = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert process.returncode == 0, process.stderr
    before, after = (line.split(":")[1] for line in process.stdout.splitlines() if line.startswith(("before", "after")))
    assert before != after


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["tour.ipynb", pytest.param("colab.ipynb", marks=only_nightly)])
def test_notebook(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("DATASET", "simulated?users=300&items=120&seed=1")
    monkeypatch.setenv("EPOCHS", "2")
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = "".join(str(cell.get("outputs")) for cell in notebook.cells)
    assert "item_id" in outputs
    assert "ndcg@10" in outputs


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_are_committed_without_output(name: str) -> None:
    import nbformat

    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
