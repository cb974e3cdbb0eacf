"""Addresses of trackers; a tracker that fails or blocks does not change a training."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segue.core.messages import hide_passwords
from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab
from segue.experiment.plan import format_plan, make_plan, read_plan
from segue.training.settings import Training
from segue.training.trackers.addresses import TrackerAddress, parse_address
from segue.training.trackers.background import BackgroundTracker
from segue.training.trackers.client import RunDescription, RunResults, StartedRun, Status, plain_name
from segue.training.trackers.tracking import TRACKER_RUNS, Tracking, open_clients
from segue.training.train import train
from tests.unit.command_line import call

SECRET = "geheim%2Fx"
WITH_PASSWORD = f"mlflow:http://bob:{SECRET}@127.0.0.1:5000#trial"
ABOUT = RunDescription("run", Path("run"), {"model.embedding_dim": 4}, {"model": "gru4rec"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tensorboard", TrackerAddress("tensorboard")),
        ("tensorboard:logs/all", TrackerAddress("tensorboard", "logs/all")),
        ("mlflow", TrackerAddress("mlflow")),
        ("mlflow#trial", TrackerAddress("mlflow", experiment="trial")),
        ("mlflow:sqlite:///x.db", TrackerAddress("mlflow", "sqlite:///x.db")),
        ("mlflow:http://host:5000#a b", TrackerAddress("mlflow", "http://host:5000", experiment="a b")),
        ("mlflow:postgresql+psycopg://u:p@host/db", TrackerAddress("mlflow", "postgresql+psycopg://u:p@host/db")),
        ("mlflow:databricks", TrackerAddress("mlflow", "databricks")),
        ("wandb", TrackerAddress("wandb")),
        ("wandb:team/films", TrackerAddress("wandb", "team/films")),
        ("wandb:films?mode=offline", TrackerAddress("wandb", "films", mode="offline")),
        ("wandb?mode=offline", TrackerAddress("wandb", mode="offline")),
    ],
)
def test_addresses_are_parsed(text: str, expected: TrackerAddress) -> None:
    assert parse_address(text) == expected
    if "p@" not in text:
        assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unknown tracker"),
        ("tensorbord", "did you mean 'tensorboard'"),
        ("mflow:http://x", "begins with tensorboard, mlflow, wandb; of an MLflow server: mlflow:http"),
        ("http://host:5000", "of an MLflow server: mlflow:http://host:5000"),
        ("mlflow:", "nothing follows 'mlflow:'"),
        ("mlflow:host:5000", "a tracking URI of MLflow such as sqlite:///mlflow.db"),
        ("mlflow:http://", "names no host"),
        ("mlflow:http://host:99999", "a port between 0 and 65535"),
        ("mlflow:sqlite://x.db", "expected a file: sqlite:///mlflow.db"),
        ("mlflow:ftp://host", "a tracking URI of MLflow"),
        ("mlflow:http://host#", "the name of an experiment"),
        ("wandb:a/b/c", "wandb:ENTITY/PROJECT"),
        ("wandb:https://host/x", "WANDB_BASE_URL"),
        ("wandb:films?mode=of", "one of online, offline, disabled, shared"),
        ("wandb:films?color=red", "'?color=red', expected ?mode="),
        ("tensorboard#x", "expected tensorboard:FOLDER"),
        ("tensorboardx", "unknown tracker"),
    ],
)
def test_wrong_addresses_are_rejected_with_value_and_expectation(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"run\.track") as caught:
        make_plan({"model": "popular", "data": "x"}, [f"run.track=[{text!r}]".replace("'", '"')])
    assert repr(text) in str(caught.value)
    assert reason in str(caught.value)


def test_wrong_addresses_stop_the_command_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    for address, reason in {
        "mlflow:nowhere": "run.track.0: got 'mlflow:nowhere': expected a tracking URI",
        f"wandb://bob:{SECRET}/y@z@h": "got 'wandb://bob:***@h'",
    }.items():
        status, _, err = call(capsys, "train", "popular", "--data", "no such file", "--track", address)
        assert status != 0
        assert reason in err
        assert SECRET not in err
    status, _, err = call(capsys, "train", "popular", "--data", "x", "--track", "none", "--track", "wandb")
    assert status != 0
    assert "expected none alone" in err
    with pytest.raises(ValueError, match="'tensorboard' is given twice"):
        make_plan({"model": "popular", "data": "x"}, ['run.track=["tensorboard","tensorboard"]'])


def test_passwords_are_hidden() -> None:
    assert hide_passwords(WITH_PASSWORD) == "mlflow:http://bob:***@127.0.0.1:5000#trial"
    assert hide_passwords("postgresql://h/d?user=a&password=b&x=1") == "postgresql://h/d?user=a&password=***&x=1"
    assert hide_passwords("http://h?api_key=b") == "http://h?api_key=***"
    for text in ("mlflow:sqlite:////a:b@c.db", "http://host:5000/x", "postgresql://user@host/db", "a@b.org", ""):
        assert hide_passwords(text) == text


def test_passwords_are_not_stored_and_have_to_be_given_again(tmp_path: Path) -> None:
    plan = make_plan({"model": "popular", "data": "x"}, [f'run.track=["{WITH_PASSWORD}"]'])
    assert plan.run.track == (WITH_PASSWORD,)
    assert SECRET not in format_plan(plan)
    (tmp_path / "settings.toml").write_text(format_plan(plan))
    again = read_plan(tmp_path / "settings.toml")  # every command reads it, and needs no password
    assert again.run.track == ("mlflow:http://bob:***@127.0.0.1:5000#trial",)
    with pytest.raises(ValueError, match=r"got 'mlflow:http://bob:\*\*\*@.*whose password is not stored"):
        open_clients(again.run.track, tmp_path)


def test_trackers_do_not_decide_about_a_run() -> None:
    plain, tracked = (
        make_plan({"model": "popular", "data": "x"}, texts) for texts in ([], ['run.track=["tensorboard"]'])
    )
    assert plain.fingerprint() == tracked.fingerprint()
    assert plain.diff(tracked) == []


def test_the_environment_of_the_tools_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ValueError, match="found no API key, expected WANDB_API_KEY"):
        open_clients(["wandb:films"], tmp_path)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password abc")
    assert len(open_clients(["wandb:films"], tmp_path)) == 1
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert len(open_clients(["wandb:films"], tmp_path)) == 1


def test_places_that_cannot_be_written_stop_the_command_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    file, free = tmp_path / "file", tmp_path / "free"
    file.write_text("other content")
    for address, reason in {
        f"tensorboard:{file}": f"cannot write to {file}: it is a file; expected a writable folder",
        f"tensorboard:{file}/inside": f"cannot write to {file}/inside: Not a directory; expected a writable folder",
        f"mlflow:sqlite:///{file}/x.db": f"cannot write to {file}: it is a file",
        f"mlflow:sqlite:///{file}": f"{file} is no SQLite database; name another file, or delete it",
        f"mlflow:sqlite:///{tmp_path}": f"cannot write to {tmp_path}: Is a directory; name another file",
        f"mlflow:file://{file}": f"cannot write to {file}: it is a file",
        "wandb:films?mode=offline": f"cannot write to {file}: it is a file",
    }.items():
        status, _, err = call(capsys, "train", "popular", "--data", "no such file", "--track", address)
        assert (status, f"error: {address}: {reason}" in err) == (2, True), err
    monkeypatch.setenv("WANDB_DIR", str(free / "w"))
    places = [f"tensorboard:{free}/t", f"mlflow:sqlite:///{free}/m/x.db", "wandb:films?mode=offline"]
    assert len(open_clients(places, tmp_path)) == 3
    assert sorted(path.name for path in free.iterdir()) == ["m", "t", "w"]


@dataclass
class FakeClient:
    """A client that records its calls, and raises in those named in ``failing``."""

    failing: tuple[str, ...] = ()
    blocked: threading.Event = field(default_factory=threading.Event)
    blocking: tuple[str, ...] = ()
    name: str = "fake"
    calls: list[Any] = field(default_factory=list)
    is_abandoned: bool = False

    def start(self, about: RunDescription, run_id: str | None) -> StartedRun:
        self._call("start", run_id)
        return StartedRun("id-1", "http://host/runs/id-1")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._call("log", step)

    def log_results(self, results: RunResults) -> None:
        self._call("log_results", dict(results.metrics))

    def finish(self, status: Status) -> None:
        self._call("finish", status)

    def abandon(self) -> None:
        self.is_abandoned = True

    def _call(self, name: str, value: Any) -> None:
        self.calls.append((name, value))
        if name in self.blocking:
            self.blocked.wait(30)
        if name in self.failing:
            raise ConnectionError(f"no route to http://bob:{SECRET}@host\nsecond line")


def test_a_run_is_tracked_in_order_and_continued(tmp_path: Path) -> None:
    client, lines = FakeClient(), list[str]()
    tracking = Tracking([client], tmp_path, lines.append)
    tracking.start(ABOUT)
    (tracker,) = tracking.trackers
    for step in (1, 2):
        tracker.log(step, {"loss": 0.5})
    assert tracking.finish("finished", RunResults({"final/valid/ndcg@10": 0.5}, "# card")) == []
    steps = [("log", 1), ("log", 2), ("log_results", {"final/valid/ndcg@10": 0.5}), ("finish", "finished")]
    assert client.calls == [("start", None), *steps]
    assert lines == ["tracker fake: http://host/runs/id-1"]
    assert (tmp_path / TRACKER_RUNS).exists()
    again = FakeClient()
    resumed = Tracking([again], tmp_path, lines.append)
    resumed.start(ABOUT)
    resumed.finish("interrupted")
    assert again.calls == [("start", "id-1"), ("finish", "interrupted")]


@pytest.mark.parametrize(("failing", "n_calls"), [(("start",), 1), (("log",), 5), (("log_results", "finish"), 5)])
def test_errors_are_reported_once(failing: tuple[str, ...], n_calls: int, tmp_path: Path) -> None:
    client, lines = FakeClient(failing), list[str]()
    tracking = Tracking([client], tmp_path, lines.append)
    tracking.start(ABOUT)
    for step in (1, 2):
        tracking.trackers[0].log(step, {})
    problems = tracking.finish("finished", RunResults({}, ""))
    warnings = [line for line in lines if line.startswith("warning")]
    assert warnings == ["warning: tracker fake: ConnectionError: no route to http://bob:***@host"]
    assert problems[0] == "tracker fake: ConnectionError: no route to http://bob:***@host"
    assert problems[1:] == (["tracker fake: 2 calls failed"] if failing != ("start",) else [])
    assert len(client.calls) == n_calls


def test_a_blocked_tracker_is_given_up() -> None:
    client, lines = FakeClient(blocking=("log",)), list[str]()
    tracker = BackgroundTracker(client, lambda: None, lines.append, max_calls=3)
    for step in range(10):  # returns at once
        tracker.log(step, {})
    tracker.submit(lambda: client.finish("finished"), is_required=True)
    tracker.close()
    tracker.wait(flush_seconds=5.0, stall_seconds=0.05, grace_seconds=0.05)
    assert client.is_abandoned
    assert client.calls == [("log", 0)]
    assert any("3 calls are waiting" in line for line in lines)
    assert any("gave up, its last call took" in line for line in lines)
    assert tracker.problems[-1].endswith("calls were dropped")
    client.blocked.set()
    tracker._thread.join(5)
    assert client.calls == [("log", 0)]  # nothing more is written after the end of the run


def test_a_slow_tracker_gets_its_time() -> None:
    client = FakeClient()
    tracker = BackgroundTracker(client, lambda: threading.Event().wait(0.3), lambda text: None)
    tracker.log(1, {})
    tracker.close()
    tracker.wait(flush_seconds=30.0, stall_seconds=20.0)
    assert client.calls == [("log", 1)]
    assert tracker.problems == []


def world() -> Dataset:
    rows = [[(user + step) % 9 for step in range(4)] for user in range(12)]
    return Dataset("walk", Vocab([f"u{u}" for u in range(12)]), Vocab([str(i) for i in range(9)]), Events.of(rows))


@pytest.mark.parametrize("case", ["raises", "blocks", "unreachable"])
def test_the_trained_model_does_not_depend_on_trackers(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, training = {"embedding_dim": 4, "max_length": 4}, Training(epochs=3, batch_size=4)
    expected: Any = train("gru4rec", settings, training, world(), Run(0))
    blocked = FakeClient(blocking=("start",))
    if case == "unreachable":
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        clients = open_clients([f"mlflow:http://127.0.0.1:{port}"], tmp_path)
    else:
        clients = [FakeClient(("log", "finish")) if case == "raises" else blocked]
    tracking = Tracking(clients, tmp_path, lambda text: None)
    tracking.start(ABOUT)
    actual: Any = train("gru4rec", settings, training, world(), Run(0, trackers=tracking.trackers))
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(actual.arrays()[name], array)
    tracker = tracking.trackers[0]
    tracker.close()
    tracker.wait(flush_seconds=20.0, stall_seconds=0.1 if case == "blocks" else 20.0, grace_seconds=0.1)
    assert tracker.problems
    blocked.blocked.set()


def test_names_of_metrics() -> None:
    assert plain_name("valid/ndcg@10") == "valid/ndcg_at_10"
    assert plain_name("final/valid/diversity:genres@5") == "final/valid/diversity_genres_at_5"
