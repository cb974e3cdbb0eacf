"""Read, split and train by a plan."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from segue.core.examples.click_model import ClickModel
from segue.data.examples.read import read_parts
from segue.data.examples.splits import ExampleSplit, split_table
from segue.data.raw_log import Log, no_log
from segue.experiment.clicks.click_plan import ClickPlan
from segue.experiment.clicks.evaluate_click_model import evaluate_click_model
from segue.experiment.clicks.train_click_model import record_estimates, train_click_model
from segue.experiment.paths import runs_folder

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
    plan: ClickPlan, folder: Path, *, read_test: bool = False, progress: bool = False, log: Log = no_log
) -> ClickRun:
    """Train the model of ``plan`` on the training part of its data.

    Args:
        folder: where checkpoints, the training history and the model are stored.
        read_test: whether to evaluate the model on the test part.
        log: receives decisions.

    Raises:
        ValueError: the data cannot be read or split, or the model cannot be trained on it.
        Interrupted: the user asked to stop; the checkpoint is written.
    """
    task = plan.task
    table = read_parts(task.data, task.valid, task.test, task.query, task.separator, log, plan.memory)
    split = split_table(table, plan.split)
    if read_test and not len(split.test):
        raise ValueError(f"test: the split of {table.name} has no test part, expected some rows to evaluate")
    counts = f"{len(split.train):,} training, {len(split.valid):,} validation and {len(split.test):,} test rows"
    log(f"split: {split.settings.strategy}; {counts}")
    valid = split.valid if len(split.valid) else None
    options: dict[str, Any] = {"folder": folder, "progress": progress, "log": log}
    model = train_click_model(plan, split.train, valid, data_hash=split.rows_hash, **options)
    test = record_estimates(evaluate_click_model(model, split.test, plan.run.seed)) if read_test else None
    return ClickRun(folder, model, split, test)


def new_click_folder(model: str) -> Path:
    """Return a folder for a new training, which does not exist yet."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path = runs_folder() / f"clicks-{model}-{stamp}"
    number = 1
    while path.exists():
        number += 1
        path = runs_folder() / f"clicks-{model}-{stamp}-{number}"
    return path
