"""Verbs on saved models, run folders and unfinished runs, and options that are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import call

import segue
from segue.cli import main
from segue.experiment.inference import batch

DATA = "simulated?users=40&items=60&mean_length=10&seed=3"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(home))
    monkeypatch.delenv("SEGUE_ARCHIVES", raising=False)


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """Folder of a finished run."""
    folder = home / "runs" / "ease-run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(home))
        with pytest.raises(SystemExit) as left:
            main(["train", "ease", "--data", DATA, "--out", str(folder)])
    assert not left.value.code
    return folder


@pytest.fixture(scope="module")
def saved(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``segue.save`` wrote."""
    folder = tmp_path_factory.mktemp("saved") / "mine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(run.parents[1]))
        segue.save(segue.open(run), folder)
    return folder


def serve(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: str | Path) -> Path:
    """The artifact that ``segue serve`` would serve."""
    configs: list[Any] = []
    monkeypatch.setattr("segue.serving.server.run", lambda config, **options: configs.append(config))
    status, _, err = call(capsys, "serve", source)
    assert status == 0, err
    folder: Path = configs[0].folders[0]
    return folder


def test_runs_and_saved_models_are_exported_and_served(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path, run: Path, saved: Path
) -> None:
    for source, name in ((run, "ease-run"), ("ease-run", "ease-run"), (saved, "mine")):
        status, out, err = call(capsys, "export", source, "--json")
        assert status == 0, err
        assert json.loads(out)["name"] == name
        assert Path(json.loads(out)["folder"]) == home / "artifacts" / name
        assert serve(capsys, monkeypatch, source) == home / "artifacts" / name


def test_saved_models_are_evaluated_on_named_data(capsys: pytest.CaptureFixture[str], run: Path, saved: Path) -> None:
    status, out, err = call(capsys, "evaluate", run, "--json")
    assert status == 0, err
    expected = json.loads(out)
    status, out, err = call(capsys, "evaluate", saved, "--data", DATA, "--json")
    assert status == 0, err
    actual = json.loads(out)
    assert actual["run"] == "mine"
    assert actual["ndcg@10"] == expected["ndcg@10"]
    assert call(capsys, "evaluate", saved)[2].endswith("which has no split; expected --data DATA to split\n")
    assert "leave out --data" in call(capsys, "evaluate", run, "--data", DATA)[2]
    assert (
        "none of the 600 items" in call(capsys, "evaluate", saved, "--data", DATA.replace("items=60", "items=600"))[2]
    )


def test_artifacts_of_another_format_are_built_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path, run: Path
) -> None:
    folder = home / "artifacts" / "ease-run"
    for name, text in (("artifact.json", '{"format": 1}'), ("artifact.json", "{"), ("publication.json", "{}")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
        assert serve(capsys, monkeypatch, run) == folder
        assert json.loads((folder / "artifact.json").read_text())["name"] == "ease-run"
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for verb in ("serve", "export"):
        status, _, err = call(capsys, verb, run)
        assert status == 2
        assert "is not a model artifact; name another folder: segue export RUN --out FOLDER" in err
    assert (folder / "notes.txt").read_text() == "mine"
    shutil.rmtree(folder)


def test_an_unfinished_run_says_how_to_resume(capsys: pytest.CaptureFixture[str], home: Path, run: Path) -> None:
    folder = home / "runs" / "unfinished"
    folder.mkdir()
    shutil.copy(run / "settings.toml", folder)
    for arguments in (["recommend", folder, "--user", "u01"], ["evaluate", folder], ["export", folder]):
        status, _, err = call(capsys, *arguments)
        assert status == 2
        assert f"the run is not finished; resume it with: segue train --resume {folder}" in err
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommend", "--user", ""], "--user: got an empty value; leave the option out instead"),
        (["recommend", "--user", "u01,,u02"], "--user: got an empty id in 'u01,,u02'"),
        (["recommend", "--user", "u01", "--deny", "i01,"], "--deny: got an empty id in 'i01,'"),
        (["recommend", "--user", "u01", "--rules", "nofile.json"], "--rules: no such file: 'nofile.json'"),
        (["rank", "--user", "", "--item", "i01"], "--user: got an empty value"),
        (["rank", "--user", "u01", "--item", "none"], "--item: none of the items is in the catalog: 'none'"),
        (["explain", "--user", "u01", "--item", "none"], "--item: 'none' is not in the catalog"),
    ],
)
def test_options_are_named(capsys: pytest.CaptureFixture[str], run: Path, arguments: list[str], message: str) -> None:
    status, _, err = call(capsys, arguments[0], run, *arguments[1:])
    assert status == 2
    assert message in err


def test_an_empty_result_has_a_header(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    status, out, _ = call(capsys, "recommend", run, "--history", segue.open(run).items.ids[0], "--allow", "none")
    assert status == 0
    assert "item_id" in out


def test_unknown_users_are_reported_once(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "users.txt").write_text("\n".join(f"stranger{number}" for number in range(9)))
    monkeypatch.setattr("segue.experiment.inference.batch.recommend_to_file.__kwdefaults__", {
        **(batch.recommend_to_file.__kwdefaults__ or {}), "block_users": 2})  # fmt: skip
    arguments = ["--users-file", tmp_path / "users.txt", "--out", tmp_path / "recs.csv", "-k", "1"]
    status, _, err = call(capsys, "recommend", run, *arguments)
    assert status == 0, err
    assert err.count("warning:") == 1
    assert "'stranger4' and 4 more" in err


def test_an_interruption_says_how_to_continue(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "recommend_block", interrupt)
    status, _, err = call(capsys, "recommend", run, "--all-users", "--out", tmp_path / "recs.csv")
    assert status == 130
    assert "interrupted; repeat the command to continue" in err
