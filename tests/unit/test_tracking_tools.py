"""One run, interrupted and resumed, in four trackers at once, read back with the clients of the tools.

MLflow is tracked on SQLite, and on its own REST server, here in a thread and behind a password. Weights & Biases is
tracked offline.
"""

from __future__ import annotations

import base64
import json
import logging
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from segue.cli import main
from segue.core.run import Run
from segue.training.trackers.background import BackgroundTracker
from tests.folders import new_folder
from tests.wandb_files import StoredRun, read_stored_run

pytest.importorskip("mlflow")
pytest.importorskip("wandb")
pytest.importorskip("tensorboard")
pytest.importorskip("flask")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the clients

USER, PASSWORD = "bob", "geheim%2Fx"
EXPERIMENT = "trial"


@dataclass(frozen=True)
class Tracked:
    folder: Path
    sqlite: str
    server: str
    events: Path
    wandb: list[StoredRun]
    wandb_folder: Path
    output: str

    @property
    def record(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "metrics.json").read_text()))


class PasswordCheck:
    """Middleware that lets nothing pass without the password, as the server's own authentication does."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app
        self.expected = "Basic " + base64.b64encode(f"{USER}:geheim/x".encode()).decode()

    def __call__(self, environ: Mapping[str, Any], start: Callable[..., Any]) -> Any:
        if environ.get("HTTP_AUTHORIZATION") != self.expected:
            start("401 Unauthorized", [])
            return [b""]
        return self.app(environ, start)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    """Start the REST server of MLflow; yields the addresses of its database and of itself."""
    patch, folder = pytest.MonkeyPatch(), new_folder()
    database = f"sqlite:///{folder}/mlflow.db"
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    patch.chdir(folder)  # artifacts of the database go to mlruns here
    from mlflow import MlflowClient

    MlflowClient(database).search_experiments()  # creates the tables, which takes seconds
    shutil.copy(folder / "mlflow.db", folder / "server.db")
    patch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{folder}/server.db")
    patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", "mlflow-artifacts:/")
    patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(folder / "artifacts"))
    patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    from mlflow.server import app
    from werkzeug.serving import make_server

    served = make_server("127.0.0.1", 0, PasswordCheck(app.wsgi_app), threaded=True)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield database, f"127.0.0.1:{served.server_port}"
    served.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def tracked(server: tuple[str, str]) -> Tracked:
    """Train three epochs, of which the second is interrupted after its end."""
    folder, patch = new_folder(), pytest.MonkeyPatch()
    patch.setenv("SEGUE_HOME", str(folder))
    patch.setenv("WANDB_DIR", str(folder / "wandb-files"))
    patch.setenv("WANDB_SILENT", "true")
    run, address = folder / "run", f"http://{USER}:{PASSWORD}@{server[1]}"
    trackers = [f"tensorboard:{folder / 'logs'}", f"mlflow:{server[0]}", f"mlflow:{address}#{EXPERIMENT}",
                "wandb:films?mode=offline"]  # fmt: skip
    options = [part for tracker in trackers for part in ("--track", tracker)]
    arguments = ["train", "gru4rec", "--data", "simulated?users=80&items=30", "--recipe", "none", "--set", "epochs=3",
                 "--set", "model.embedding_dim=8", "--set", "batch_size=16", "--out", str(run), *options]  # fmt: skip
    whole_log = Run.log

    def interrupt(self: Run, step: int, values: Mapping[str, float]) -> None:
        whole_log(self, step, values)
        self.interrupted = step == 2

    lines: list[str] = []
    patch.setattr("segue.cli.console.Terminal.log", lambda self, text: lines.append(text))
    patch.setattr("segue.cli.console.Terminal.table", lambda self, table: None)
    patch.setattr(Run, "log", interrupt)
    wait = partialmethod(BackgroundTracker.wait, flush_seconds=240.0, stall_seconds=120.0)  # on a busy machine, too
    patch.setattr(BackgroundTracker, "wait", wait)
    for command, status in ((arguments, 130), (["train", "--resume", str(run), *options], 0)):
        patch.setattr(sys, "argv", ["segue", *command])
        with pytest.raises(SystemExit) as left:
            main(command)
        assert (left.value.code or 0) == status, lines
        patch.setattr(Run, "log", whole_log)
    stored = [read_stored_run(path) for path in sorted((folder / "wandb-files").rglob("run-*.wandb"))]
    patch.undo()
    events = folder / "logs" / "run"
    return Tracked(run, server[0], address, events, stored, folder / "wandb-files", "\n".join(lines))


def test_nothing_failed_and_no_password_is_stored(tracked: Tracked) -> None:
    assert not [text for text in tracked.record["warnings"] if "tracker" in text]
    secret = (PASSWORD, "geheim/x")
    for path in [*tracked.folder.rglob("*"), *tracked.wandb_folder.rglob("*")]:
        if path.is_file():
            assert not [word for word in secret if word.encode() in path.read_bytes()], path
    assert not [word for word in secret if word in tracked.output]
    assert f"http://{USER}:***@" in tracked.record["command"]
    assert "/#/experiments/" in tracked.output  # where the run can be seen


@pytest.mark.parametrize("place", ["sqlite", "server"])
def test_mlflow_holds_one_run_with_everything(place: str, tracked: Tracked) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(getattr(tracked, place))
    experiment = client.get_experiment_by_name("segue" if place == "sqlite" else EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["model.embedding_dim"] == "8"
    assert run.data.params["training.epochs"] == "3"
    assert not [name for name in run.data.params if "track" in name]
    history = client.get_metric_history(run.info.run_id, "valid/ndcg_at_10")
    lines = [json.loads(line) for line in (tracked.folder / "history.jsonl").read_text().splitlines()]
    assert {one.step: one.value for one in history} == {line["step"]: line["valid/ndcg@10"] for line in lines}
    record = tracked.record
    assert run.data.metrics["final/valid/ndcg_at_10"] == record["valid"]["ndcg@10"]
    assert run.data.metrics["final/cost/parameters"] == record["cost"]["parameters"]
    assert "monitor/cpu_percent" in run.data.metrics
    assert run.data.tags["mlflow.note.content"].startswith("# gru4rec on simulated")
    paths = {
        found.path
        for parent in ("", "figures", "bundle")
        for found in client.list_artifacts(run.info.run_id, parent or None)
    }
    assert {"card.md", "settings.toml", "metrics.json", "predictions.parquet", "train.log"} <= paths
    assert {"figures/training.png", "figures/training.svg", "bundle/arrays.safetensors"} <= paths
    table = pl.read_csv(client.download_artifacts(run.info.run_id, "predictions.csv", str(new_folder())))
    assert table.columns[:4] == ["user", "newest events", "targets", "item 1"]
    assert table["item 1"].str.contains(r" \(\d{4}\) \(\d+\.\d%\)$").all()  # a title and its probability
    assert len(table) == 80


def test_wandb_holds_one_run_with_everything(tracked: Tracked) -> None:
    interrupted, resumed = tracked.wandb
    ids = json.loads((tracked.folder / "trackers.json").read_text())
    assert interrupted.run_id == resumed.run_id == ids["wandb:films?mode=offline"]
    assert (resumed.project, resumed.name) == ("films", "run")
    assert (interrupted.exit_code, resumed.exit_code) == (130, 0)
    assert resumed.config["model.embedding_dim"] == 8
    steps = [line["_step"] for one in tracked.wandb for line in one.history if "loss" in line]
    assert steps[:2] == [1, 2]
    assert steps[-1] == 3
    record = tracked.record
    assert resumed.summary["final/valid/ndcg_at_10"] == record["valid"]["ndcg@10"]
    keys = set().union(*(line for line in resumed.history))
    assert {"figures/training/path", "predictions/nrows", "card/path", "monitor/rss_bytes"} <= keys
    (files,) = [paths for name, paths in resumed.artifacts.items() if name.startswith("run-") and "predict" not in name]
    assert {"card.md", "predictions.parquet", "bundle/arrays.safetensors", "figures/training.png"} <= set(files)
    (table,) = tracked.wandb_folder.rglob("predictions*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"][0] == "user"
    assert len(content["data"]) == 80


def test_tensorboard_holds_everything_but_files(tracked: Tracked) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    events = EventAccumulator(str(tracked.events), size_guidance={"scalars": 0, "tensors": 0, "images": 0}).Reload()
    lines = [json.loads(line) for line in (tracked.folder / "history.jsonl").read_text().splitlines()]
    scalars = {one.step: one.value for one in events.Scalars("valid/ndcg@10")}
    assert scalars == pytest.approx({line["step"]: line["valid/ndcg@10"] for line in lines})
    (final,) = events.Scalars("final/valid/ndcg@10")
    assert final.value == pytest.approx(tracked.record["valid"]["ndcg@10"])
    (figure,) = events.Images("training")
    assert figure.encoded_image_string.startswith(b"\x89PNG")
    texts = {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in
             ("parameters", "model card", "predictions")}  # fmt: skip
    assert "| model.embedding_dim | 8 |" in texts["parameters"]
    assert texts["model card"].startswith("# gru4rec on simulated")
    assert texts["predictions"].count("\n") == 21  # a head and twenty queries
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["training.epochs"].number_value == 3


def test_a_run_that_was_deleted_in_mlflow_begins_again(server: tuple[str, str]) -> None:
    from mlflow import MlflowClient

    from segue.training.trackers.client import RunDescription
    from segue.training.trackers.tracking import open_clients

    about = RunDescription("gone", Path("gone"), {}, {})
    (first, second) = open_clients([f"mlflow:{server[0]}#gone"] * 2, Path("gone"))
    old = first.start(about, None).run_id
    MlflowClient(server[0]).delete_run(str(old))
    new = second.start(about, old).run_id
    assert new not in (None, old)
    second.finish("failed")
    assert MlflowClient(server[0]).get_run(str(new)).info.status == "FAILED"
