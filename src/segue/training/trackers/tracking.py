"""Track a run with several tools at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from segue.core.files import read_json, write_json
from segue.core.messages import HIDDEN
from segue.training.trackers.addresses import AUTO, TrackerAddress, parse_address
from segue.training.trackers.background import BackgroundTracker
from segue.training.trackers.client import RunDescription, RunResults, Status, TrackerClient

__all__ = ["EVENTS", "TRACKER_RUNS", "Tracking", "model_files", "open_clients"]

EVENTS = "events"
"""Folder of TensorBoard events within a run."""

TRACKER_RUNS = "trackers.json"
"""File with the id that each tool gave to the run."""


MAX_MODEL_BYTES = 64 * 2**20
"""A larger model is not sent to trackers."""


def model_files(folder: Path, model: str) -> dict[str, Path]:
    """Return the files of a model by their path within the folder of its run.

    Args:
        model: name of the folder of the model. Large models have no files here.
    """
    files = [path for path in sorted((folder / model).rglob("*")) if path.is_file()]
    if sum(path.stat().st_size for path in files) > MAX_MODEL_BYTES:
        return {}
    return {path.relative_to(folder).as_posix(): path for path in files}


def open_clients(addresses: Sequence[str], folder: Path) -> list[TrackerClient]:
    """Import and configure the clients of all trackers, without any connection.

    Args:
        addresses: see :mod:`segue.training.trackers.addresses`.
        folder: of the run.

    Raises:
        ValueError: a package is missing, the environment lacks what a client needs, or an address was read from a run
            without its password.
    """
    clients: list[TrackerClient] = []
    for text in addresses:
        if text == AUTO:
            if find_spec("tensorboard") is not None:
                clients.append(_open_client(TrackerAddress("tensorboard"), folder))
            continue
        if HIDDEN in text:
            raise ValueError(f"run.track: got '{text}', whose password is not stored; give the address again: --track")
        clients.append(_open_client(parse_address(text), folder))
    return clients


def _open_client(address: TrackerAddress, folder: Path) -> TrackerClient:
    if address.kind == "tensorboard":
        from segue.training.trackers.tensorboard import TensorBoard

        return TensorBoard(address, folder / EVENTS)
    if address.kind == "mlflow":
        from segue.training.trackers.mlflow import MlflowTracker

        return MlflowTracker(address)
    from segue.training.trackers.wandb import WandbTracker

    return WandbTracker(address)


class Tracking:
    """The trackers of one run.

    Args:
        clients: from :func:`open_clients`.
        folder: of the run; it holds the ids by which an interrupted run is continued.
        log: receives addresses and problems, also from other threads.
    """

    def __init__(self, clients: Sequence[TrackerClient], folder: Path, log: Callable[[str], None]) -> None:
        self._clients, self._folder, self._log = clients, folder, log
        self._lock, self._is_finished = threading.Lock(), False
        self.trackers: tuple[BackgroundTracker, ...] = ()

    def start(self, about: RunDescription) -> None:
        """Begin to track; every tool connects in a thread of its own."""
        self.trackers = tuple(
            BackgroundTracker(client, self._starter(client, about), self._log) for client in self._clients
        )

    def finish(self, status: Status, results: RunResults | None = None) -> list[str]:
        """Send the results, end all trackers, and return their problems.

        It takes a limited time.
        """
        trackers, self.trackers = self.trackers, ()
        try:
            for tracker in trackers:
                _end(tracker, status, results)
            for tracker in trackers:
                tracker.wait()
        finally:
            with self._lock:
                self._is_finished = True
        return [f"tracker {problem}" for tracker in trackers for problem in tracker.problems]

    def _starter(self, client: TrackerClient, about: RunDescription) -> Callable[[], None]:
        def start() -> None:
            started = client.start(about, self._ids().get(client.name))
            with self._lock:
                if self._is_finished:  # given up: the run's folder is complete
                    return
                if started.run_id is not None:
                    write_json(self._folder / TRACKER_RUNS, {**self._ids(), client.name: started.run_id})
            if started.url is not None:
                self._log(f"tracker {client.name}: {started.url}")

        return start

    def _ids(self) -> Mapping[str, str]:
        """Return the id of the run by tracker."""
        path = self._folder / TRACKER_RUNS
        found = read_json(path) if path.exists() else {}
        return found if isinstance(found, dict) else {}


def _end(tracker: BackgroundTracker, status: Status, results: RunResults | None) -> None:
    """Let a tracker send the results and end the run, after the calls that wait."""
    client = tracker.client
    if results is not None:
        tracker.submit(lambda: client.log_results(results), is_required=True)
    tracker.submit(lambda: client.finish(status), is_required=True)
    tracker.close()
