"""``segue export`` builds a model artifact from a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from segue.cli import main
from segue.cli.export import export
from segue.experiment.publish import publish_run
from segue.experiment.run_folder import verify as verify_run
from segue.serving.artifacts.artifact import load_artifact
from segue.serving.artifacts.manifest import MANIFEST


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a home folder with a finished run of ease."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(home))
        with pytest.raises(SystemExit) as left:
            main(["train", "ease", "--data", "simulated?users=60&items=40&seed=3", "--out", str(home / "runs" / "one")])
    assert not left.value.code
    return home


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the run to a home folder of its own."""
    shutil.copytree(home / "runs", tmp_path / "runs")
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path / "runs" / "one"


def test_run_is_exported_once(run: Path) -> None:
    messages: list[str] = []
    folder = publish_run(run, log=messages.append)
    assert folder == run.parent.parent / "artifacts" / "one"
    found = load_artifact(folder)
    assert (found.name, found.engine.name) == ("one", "native")
    assert found.histories is not None
    assert len(found.histories) == 60
    assert found.metadata["data"].startswith("simulated")
    assert found.metadata["trained"]
    assert 0 <= found.metadata["metrics"]["ndcg@10"] <= 1
    assert verify_run(run) == [], "the run is unchanged"
    before = (folder / MANIFEST).stat().st_mtime_ns
    assert publish_run(run, log=messages.append) == folder
    assert (folder / MANIFEST).stat().st_mtime_ns == before
    assert len(messages) == 1


def test_damaged_or_different_artifact_is_rebuilt(run: Path) -> None:
    folder = publish_run(run)
    (folder / "popularity.npy").write_bytes(b"")
    publish_run(run)
    load_artifact(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "name": "two"}))
    publish_run(run)
    assert load_artifact(folder).name == "one"


def test_damaged_bundle_is_not_exported(run: Path) -> None:
    arrays = run / "bundle" / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"arrays\.safetensors: sha256"):
        publish_run(run)
    shutil.rmtree(run / "bundle")
    with pytest.raises(ValueError, match="the run is not finished; resume it with: segue train --resume"):
        publish_run(run)


def test_missing_data_gives_no_histories(run: Path) -> None:
    record = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps({**record, "data_folder": "/nowhere"}))
    messages: list[str] = []
    found = load_artifact(publish_run(run, log=messages.append))
    assert found.histories is None
    assert any("published without histories" in line for line in messages)


def test_command(run: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(export)
    result = CliRunner().invoke(
        app, [str(run), "--out", str(tmp_path / "p"), "--name", "best", "--engine", "native", "--json"]
    )
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)
    assert (manifest["name"], manifest["key"], manifest["engine"]) == ("best", "ease", "native")
    assert Path(manifest["folder"]) == tmp_path / "p"
    text = CliRunner().invoke(app, [str(run), "--out", str(tmp_path / "p"), "--name", "best", "--engine", "native"])
    assert text.stdout == f"{tmp_path / 'p'}: best, ease {manifest['version']}, engine native (requested)\n"
    with pytest.raises(ValueError, match="is not a network"):
        publish_run(run, engine="onnx")
