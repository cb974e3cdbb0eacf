"""Send a run to MLflow: a tracking server or a database."""

from __future__ import annotations

import csv
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from segue.core.messages import hide_passwords
from segue.training.trackers.addresses import TrackerAddress, check_tracking_uri
from segue.training.trackers.client import (
    PredictionRows,
    RunDescription,
    RunResults,
    StartedRun,
    Status,
    check_folder,
    plain_name,
)

__all__ = ["MlflowTracker"]

EXPERIMENT = "segue"
"""Experiment of runs whose address names none, without the variables of MLflow."""

MAX_PARAMETERS = 100
"""Parameters and tags per request, a limit of MLflow."""

MAX_TAG_CHARACTERS = 5_000
"""A longer model card is cut where it is shown as the run's description; the artifact is complete."""

SQLITE_HEADER = b"SQLite format 3\0"
"""First bytes of a database."""

STATUS: Mapping[Status, str] = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MlflowTracker:
    """Tracker that sends a run to MLflow; needs the extra ``track``.

    Without a URI it uses ``MLFLOW_TRACKING_URI``; without an experiment ``MLFLOW_EXPERIMENT_ID`` or
    ``MLFLOW_EXPERIMENT_NAME``.

    Raises:
        ValueError: MLflow is not installed, ``MLFLOW_TRACKING_URI`` is not a tracking URI, or the file or folder of a
            local one cannot be written.
    """

    def __init__(self, address: TrackerAddress) -> None:
        try:
            import mlflow
        except ImportError:
            raise ValueError("MLflow is not installed: pip install 'segue[track]'") from None
        self._uri = address.place or mlflow.get_tracking_uri()
        self.name = str(TrackerAddress("mlflow", self._uri))
        if not address.place:
            try:
                check_tracking_uri(self._uri)
            except ValueError as error:
                raise ValueError(f"MLFLOW_TRACKING_URI: got '{hide_passwords(self._uri)}', {error}") from None
        if self._uri.startswith("file:") and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
            raise ValueError(
                f"{self.name}: MLflow no longer writes to folders, expected a database such as sqlite:///mlflow.db; or "
                "set MLFLOW_ALLOW_FILE_STORE=true"
            )
        _check_place(self._uri, self.name)
        self._experiment = address.experiment
        self._client: Any = None
        self._run_id = ""

    def start(self, about: RunDescription, run_id: str | None) -> StartedRun:
        """Create a run in the experiment, or set the run back to running."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(self._uri)
        run = None if run_id is None else self._find_run(run_id)
        if run is not None:
            self._client.update_run(run.info.run_id, status="RUNNING")
        else:
            tags = {f"segue.{name}": value for name, value in about.tags.items()}
            tags |= {"mlflow.source.name": about.tags.get("command", "segue"), "mlflow.source.type": "JOB"}
            run = self._client.create_run(self._experiment_id(), tags=tags, run_name=about.name)
            parameters = [Param(plain_name(name), str(value)) for name, value in about.parameters.items()]
            for first in range(0, len(parameters), MAX_PARAMETERS):
                self._client.log_batch(run.info.run_id, params=parameters[first : first + MAX_PARAMETERS])
        self._run_id = str(run.info.run_id)
        place = urlsplit(self._uri)
        url = None
        if place.scheme in ("http", "https"):
            server = f"{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path.rstrip('/')}"
            url = f"{server}/#/experiments/{run.info.experiment_id}/runs/{self._run_id}"
        return StartedRun(self._run_id, url)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log one metric per value."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(plain_name(name), value, now, step) for name, value in values.items()]
        )

    def log_results(self, results: RunResults) -> None:
        """Log final metrics; figures, files, predictions and the model card are artifacts."""
        self.log(0, results.metrics)
        self._client.set_tag(self._run_id, "mlflow.note.content", results.card[:MAX_TAG_CHARACTERS])
        for name, path in results.files.items():
            parent = PurePosixPath(name).parent.as_posix()
            self._client.log_artifact(self._run_id, str(path), None if parent == "." else parent)
        for path in results.figures.values():
            self._client.log_artifact(self._run_id, str(path), "figures")
        if results.predictions is not None:
            self._log_predictions(results.predictions)

    def finish(self, status: Status) -> None:
        """Set the state of the run."""
        self._client.set_terminated(self._run_id, STATUS[status])

    def abandon(self) -> None:
        """Do nothing: the thread of the client ends with the process."""

    def _find_run(self, run_id: str) -> Any:
        """Return the run; ``None`` if it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _experiment_id(self) -> str:
        """Return the id of the experiment, which is created where necessary."""
        from mlflow.exceptions import MlflowException

        if not self._experiment and (given := os.environ.get("MLFLOW_EXPERIMENT_ID")):
            return given
        name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another process created it in between
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _log_predictions(self, predictions: PredictionRows) -> None:
        """Log predictions as CSV, which the page of a run shows as a table."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "predictions.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([predictions.columns, *predictions.rows])
            self._client.log_artifact(self._run_id, str(path))


def _check_place(uri: str, name: str) -> None:
    """Check the file or folder of a tracking URI, if it has one.

    Raises:
        ValueError: it cannot be written, or the file is no database.
    """
    if uri.startswith("file:"):
        check_folder(Path(unquote(urlsplit(uri).path)), name)
    elif uri.startswith("sqlite"):
        file = Path(uri.partition(":///")[2].partition("?")[0])
        check_folder(file.parent, name)
        if not file.exists():
            return
        try:
            with file.open("r+b") as opened:
                head = opened.read(len(SQLITE_HEADER))
        except OSError as error:
            raise ValueError(f"{name}: cannot write to {file}: {error.strerror}; name another file") from None
        if head and head != SQLITE_HEADER:
            raise ValueError(f"{name}: {file} is no SQLite database; name another file, or delete it")
