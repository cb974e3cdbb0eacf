"""``segue export``: from a run to a publication, once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from segue.cli import main
from segue.cli.export import export, published
from segue.experiment.run_folder import verify as verify_run
from segue.serving.artifacts.artifact import open_publication
from segue.serving.artifacts.manifest import MANIFEST


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with a finished run of ease."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(home))
        with pytest.raises(SystemExit) as left:
            main(["train", "ease", "--data", "simulated?users=60&items=40&seed=3", "--out", str(home / "runs" / "one")])
    assert not left.value.code
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same run, in a place of its own."""
    shutil.copytree(home / "runs", tmp_path / "runs")
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path / "runs" / "one"


def test_a_run_is_published_once(run: Path) -> None:
    said: list[str] = []
    folder = published(run, say=said.append)
    assert folder == run.parent.parent / "publications" / "one"
    found = open_publication(folder)
    assert (found.name, found.engine.name) == ("one", "native")
    assert found.histories is not None
    assert len(found.histories) == 60
    assert found.facts["data"].startswith("simulated")
    assert found.facts["trained"]
    assert 0 <= found.facts["metrics"]["ndcg@10"] <= 1
    assert verify_run(run) == [], "the run is as it was sealed"
    before = (folder / MANIFEST).stat().st_mtime_ns
    assert published(run, say=said.append) == folder
    assert (folder / MANIFEST).stat().st_mtime_ns == before
    assert len(said) == 1


def test_what_is_broken_or_other_is_made_again(run: Path) -> None:
    folder = published(run)
    (folder / "popularity.npy").write_bytes(b"")
    published(run)
    open_publication(folder)
    about = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**about, "name": "two"}))
    published(run)
    assert open_publication(folder).name == "one"


def test_a_broken_bundle_is_not_published(run: Path) -> None:
    arrays = run / "bundle" / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"arrays\.safetensors: sha256"):
        published(run)
    shutil.rmtree(run / "bundle")
    with pytest.raises(ValueError, match="not finished: it has no bundle"):
        published(run)


def test_without_the_data_nobody_is_known(run: Path) -> None:
    record = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**record, "data_folder": "/nowhere"}))
    said: list[str] = []
    found = open_publication(published(run, say=said.append))
    assert found.histories is None
    assert any("published without histories" in line for line in said)


def test_the_command(run: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(export)
    told = CliRunner().invoke(
        app, [str(run), "--out", str(tmp_path / "p"), "--name", "best", "--engine", "native", "--json"]
    )
    assert told.exit_code == 0, told.output
    about = json.loads(told.stdout)
    assert (about["name"], about["key"], about["engine"]) == ("best", "ease", "native")
    assert Path(about["folder"]) == tmp_path / "p"
    words = CliRunner().invoke(app, [str(run), "--out", str(tmp_path / "p"), "--name", "best", "--engine", "native"])
    assert words.stdout == f"{tmp_path / 'p'}: best, ease {about['version']}, engine native (asked for)\n"
    with pytest.raises(ValueError, match="is no network"):
        published(run, engine="onnx")
