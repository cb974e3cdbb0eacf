"""``segue clicks train --track``: TensorBoard and MLflow hold the training, read back with their own clients."""

from __future__ import annotations

import json
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.training.trackers.background import BackgroundTracker

pytest.importorskip("tensorboard")
pytest.importorskip("mlflow")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the clients

SMALL = ("--label", "click", "--set", "epochs=2", "--set", "batch_size=64", "--set", "embedding_dim=4")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)
    wait = partialmethod(BackgroundTracker.wait, flush_seconds=240.0, stall_seconds=120.0)  # on a busy machine, too
    monkeypatch.setattr(BackgroundTracker, "wait", wait)
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    clicks = (x + rng.normal(size=300) > 0).astype(int)
    path = tmp_path / "shown.csv"
    pl.DataFrame({"click": clicks, "user": rng.integers(5, size=300), "x": x}).write_csv(path)
    return path


def test_a_training_is_tracked(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, address = tmp_path / "model", f"sqlite:///{tmp_path / 'mlflow.db'}"
    record = result(
        capsys, "clicks", "train", "deepfm", "--data", table, *SMALL, "--read-test", "--out", folder, "--track",
        "tensorboard", "--track", f"tensorboard:{tmp_path / 'all'}", "--track", f"mlflow:{address}#clicks",
    )  # fmt: skip
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for events in (folder / "events", tmp_path / "all" / "model"):
        read = EventAccumulator(str(events), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        scalars = {one.step: one.value for one in read.Scalars("valid/auc")}
        assert scalars == pytest.approx({line["step"]: line["valid/auc"] for line in lines if "valid/auc" in line})
        assert read.Scalars("final/test/auc")[0].value == pytest.approx(record["test"]["auc"][0])
        card = read.Tensors("model card")[0].tensor_proto.string_val[0].decode()
        assert card.startswith("# deepfm on ")
    client = MlflowClient(address)
    (run,) = client.search_runs([client.get_experiment_by_name("clicks").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "model")
    assert run.data.params["model.embedding_dim"] == "4"
    assert "run.track" not in run.data.params
    assert run.data.metrics["final/valid/auc"] == pytest.approx(record["valid"]["auc"][0])
    assert run.data.tags["segue.model"] == "deepfm"
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {"history.jsonl", "model"}
    settings = (folder / "model" / "training.toml").read_text()
    assert "mlflow.db#clicks" in settings
    assert segue.open_clicks(folder).key == "deepfm"


def test_a_solver_is_tracked_and_none_is_the_default(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = ("clicks", "train", "logistic_regression", "--data", table, "--label", "click")
    found = result(capsys, *command, "--out", tmp_path / "a", "--track", "tensorboard")
    read = EventAccumulator(str(tmp_path / "a" / "events")).Reload()
    assert read.Scalars("final/valid/auc")[0].value == pytest.approx(found["valid"]["auc"][0])
    for number, options in enumerate([(), ("--track", "none")]):
        folder = tmp_path / f"plain{number}"
        result(capsys, *command, "--out", folder, *options)
        assert not (folder / "events").exists()


def test_unusable_trackers_are_errors_before_anything_is_read(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases: dict[str, Any] = {
        "mlflow:nowhere": "run.track.0: got 'mlflow:nowhere': expected a tracking URI",
        f"tensorboard:{table}": f"cannot write to {table}: it is a file",
    }
    for address, message in cases.items():
        status, _, err = call(capsys, "clicks", "train", "deepfm", "--data", "no file", "--track", address)
        assert (status, message in err) == (2, True), err
    status, _, err = call(
        capsys, "clicks", "compare", "deepfm", "dcn_v2", "--data", table, *SMALL, "--set",
        'run.track=["tensorboard"]', "--out", tmp_path / "compared",
    )  # fmt: skip
    assert (status, "run.track: only segue clicks train has trackers; leave it out" in err) == (2, True), err
