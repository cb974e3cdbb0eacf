"""A damaged database of trials is an error that names the file and what to do."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from command_line import call

from segue.core.config import Search
from segue.evaluation.bootstrap import Estimate
from segue.experiment.tuning.study import Study, open_study, storage_address
from segue.experiment.tuning.trial import Trial

SPACE = {"model.l2": Search(1.0, 10.0)}


def open_in(folder: Path) -> Study:
    return open_study(storage_address(None, folder), "study", False, 0, SPACE, {"model.l2": 5.0})


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study with two trials."""
    folder = tmp_path_factory.mktemp("study")
    study = open_in(folder)
    for _ in range(2):
        study.run_trial(lambda values, report: Trial("complete", Estimate(0.5, 0.4, 0.6), 1.0), 2)
    return folder


def execute(*statements: str) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return change


def replace_by_other_tables(path: Path) -> None:
    path.unlink()
    execute("CREATE TABLE studies (x)")(path)


def outcome(value: object) -> Callable[[Path], object]:
    text = json.dumps(value).replace("'", "''")
    return execute(f"UPDATE trial_user_attributes SET value_json = '{text}' WHERE key = 'outcome'")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("no database" * 99), "file is not a database"),
    "half": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "disk image is malformed"),
    "other tables": (replace_by_other_tables, "no column named"),
    "no outcome": (execute("DELETE FROM trial_user_attributes"), "a trial in it is damaged (trial 0: no outcome)"),
    "other outcome": (outcome({"a": 1}), "a trial in it is damaged (trial 0: values: Field required)"),
    "outcome of another type": (outcome([1]), "a trial in it is damaged (trial 0: no outcome)"),
    "no number": (
        outcome({"values": None, "state": "complete", "mean": "x", "low": 0, "high": 1, "seconds": 1, "epochs": None,
                 "best_epoch": None, "error": None}),
        "a trial in it is damaged (trial 0: mean: Input should be a valid number",
    ),
    "no JSON": (execute("UPDATE trial_user_attributes SET value_json = '{{'"), "a trial in it is damaged ("),
    "no distribution": (execute("UPDATE trial_params SET distribution_json = '{}'"), "a trial in it is damaged ("),
    "no worker": (
        execute("UPDATE trials SET state = 'RUNNING'", "UPDATE trial_user_attributes SET value_json = "
                f"'\"{socket.gethostname()}:x\"' WHERE key = 'worker'"),
        "a trial in it is damaged (",
    ),
    "other version": (execute("UPDATE alembic_version SET version_num = 'x'"), "is no longer compatible with"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_database_is_named_with_what_to_do(kind: str, intact: Path, tmp_path: Path) -> None:
    change, reason = DAMAGES[kind]
    path = Path(shutil.copytree(intact, tmp_path / "copy")) / "study.db"
    change(path)
    with pytest.raises(ValueError, match="storage: cannot use the database") as caught:
        open_in(path.parent)
    message = str(caught.value)
    assert reason in message
    assert f"cannot use the database {path}: " in message
    assert "; restore the file from a copy, or delete it to begin again, or name another database or folder" in message


def test_a_database_that_is_damaged_meanwhile(intact: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(intact, tmp_path / "copy"))
    study = open_in(folder)
    assert len(study.trials) == 2
    (folder / "study.db").write_text("no database" * 99)
    for read in (lambda: study.trials, lambda: study.run_trial(lambda values, report: Trial("failed", None, 1.0), 9)):
        with pytest.raises(ValueError, match=r"storage: cannot use the database .*study\.db: .*file is not a database"):
            read()


def test_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.db"
    path.write_text("no database" * 99)
    command = ("tune", "item_knn", "--data", "simulated?users=40&items=50&seed=1", "--trials", "2", "--out", tmp_path)
    status, _, err = call(capsys, *command, "--storage", f"sqlite:///{path}")
    assert (status, f"error: storage: cannot use the database {path}: " in err) == (2, True)
    status, _, err = call(capsys, *command, "--storage", f"sqlite:///{tmp_path / 'no' / 'x.db'}")
    assert (status, "unable to open database file" in err) == (2, True)
