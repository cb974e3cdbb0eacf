"""Read, split and train by a plan."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from segue.core.examples.click_model import ClickModel
from segue.core.messages import hide_passwords
from segue.core.run import Interrupted, Tracker
from segue.data.examples.read import read_parts
from segue.data.examples.splits import ExampleSplit, split_table
from segue.data.raw_log import Log, no_log
from segue.experiment.clicks.click_plan import ClickPlan
from segue.experiment.clicks.evaluate_click_model import evaluate_click_model
from segue.experiment.clicks.train_click_model import MODEL_FOLDER, record_estimates, train_click_model
from segue.experiment.paths import runs_folder
from segue.training.trackers.client import RunDescription, RunResults, to_markdown
from segue.training.trackers.tracking import Tracking, model_files, open_clients
from segue.version import __version__

__all__ = ["ClickRun", "new_click_folder", "run_click_plan"]


@dataclass(frozen=True)
class ClickRun:
    """A training from addresses."""

    folder: Path
    model: ClickModel
    split: ExampleSplit
    test: dict[str, list[float | None]] | None
    """Metrics of the test part with the ends of their intervals; ``None``: it was not read."""

    def record(self) -> dict[str, Any]:
        """Return everything as JSON holds it."""
        metadata = dict(self.model.metadata or {})
        rows = {"train": len(self.split.train), "valid": len(self.split.valid), "test": len(self.split.test)}
        calibration = self.model.calibration
        return {
            "model": self.model.key,
            "data": metadata["data"],
            "folder": str(self.folder),
            "split": self.split.settings.model_dump(mode="json"),
            "rows": rows,
            "columns": metadata["columns"],
            "calibration": None if calibration is None else calibration.method,
            "threshold": self.model.threshold,
            "valid": metadata["valid"]["metrics"] if "valid" in metadata else None,
            "test": self.test,
        }


def run_click_plan(
    plan: ClickPlan,
    folder: Path,
    *,
    read_test: bool = False,
    progress: bool = False,
    log: Log = no_log,
    command: str = "",
) -> ClickRun:
    """Train the model of ``plan`` on the training part of its data.

    Args:
        folder: where checkpoints, the training history and the model are stored.
        read_test: whether to evaluate the model on the test part.
        log: receives decisions.
        command: the command line, for trackers.

    Raises:
        ValueError: the data cannot be read or split, the model cannot be trained on it, or a tracker cannot be used.
        Interrupted: the user asked to stop; the checkpoint is written.
    """
    tracking = Tracking(open_clients(plan.run.track, folder), folder, log)
    try:
        run = _train(plan, folder, read_test, progress, log, tracking, command)
    except BaseException as error:
        tracking.finish("interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed")
        raise
    tracking.finish("finished", _tracked_results(run) if tracking.trackers else None)
    return run


def _train(
    plan: ClickPlan, folder: Path, read_test: bool, progress: bool, log: Log, tracking: Tracking, command: str
) -> ClickRun:
    """Train and evaluate; see :func:`run_click_plan`."""
    task = plan.task
    table = read_parts(task.data, task.valid, task.test, task.query, task.separator, log, plan.memory)
    split = split_table(table, plan.split)
    if read_test and not len(split.test):
        raise ValueError(f"test: the split of {table.name} has no test part, expected some rows to evaluate")
    counts = f"{len(split.train):,} training, {len(split.valid):,} validation and {len(split.test):,} test rows"
    log(f"split: {split.settings.strategy}; {counts}")
    valid = split.valid if len(split.valid) else None

    def start_trackers() -> tuple[Tracker, ...]:
        tracking.start(_describe_tracked(plan, folder, command))
        return tracking.trackers

    options: dict[str, Any] = {"folder": folder, "progress": progress, "log": log, "start_trackers": start_trackers}
    model = train_click_model(plan, split.train, valid, data_hash=split.rows_hash, **options)
    test = record_estimates(evaluate_click_model(model, split.test, plan.run.seed)) if read_test else None
    return ClickRun(folder, model, split, test)


def _describe_tracked(plan: ClickPlan, folder: Path, command: str) -> RunDescription:
    """Return what trackers are given before training."""
    values = plan.values()
    settings = {
        f"{group}.{key}": hide_passwords(value) if isinstance(value, str) else value
        for group, found in values.items()
        for key, value in found.items()
        if value is not None and (group, key) != ("run", "track")
    }
    tags = {"model": plan.task.model, "data": hide_passwords(str(values["task"]["data"])), "version": __version__}
    return RunDescription(folder.name, folder, settings, {**tags, **({"command": command} if command else {})})


def _tracked_results(run: ClickRun) -> RunResults:
    """Return what trackers are given after training."""
    record = run.record()
    metrics = {
        f"final/{part}/{name}": value[0]
        for part in ("valid", "test")
        for name, value in (record[part] or {}).items()
        if value[0] is not None
    }
    rows = [(name, f"{value:.6f}") for name, value in metrics.items()]
    card = f"# {record['model']} on {hide_passwords(record['data'])}\n\n{to_markdown(('metric', 'mean'), rows)}\n"
    history = run.folder / "history.jsonl"
    files = {"history.jsonl": history} if history.exists() else {}
    return RunResults(metrics, card, files={**files, **model_files(run.folder, MODEL_FOLDER)})


def new_click_folder(model: str) -> Path:
    """Return a folder for a new training, which does not exist yet."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = runs_folder() / f"clicks-{model}-{stamp}"
    number = 1
    while path.exists():
        number += 1
        path = runs_folder() / f"clicks-{model}-{stamp}-{number}"
    return path
