"""Run one experiment: train, evaluate and record a model in a folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from segue.core import bundle
from segue.core.files import write_json, write_text
from segue.core.model import Model, Predictor
from segue.core.run import Run, Tracker
from segue.core.types import Dataset, HeldOut, Split
from segue.data.splits import split
from segue.evaluation.evaluate import EvaluationResult, make_validator
from segue.evaluation.leakage import check_leakage
from segue.evaluation.rating_metrics import training_errors
from segue.experiment.arguments import check_device
from segue.experiment.data import load_data, report_inputs, user_feature_names, validate_inputs
from segue.experiment.evaluate import (
    evaluate_baseline,
    evaluate_plan,
    interval_values,
    mean_values,
    validate_metrics,
)
from segue.experiment.model_card import format_card
from segue.experiment.plan import Plan
from segue.experiment.resources import StageTimer, count_parameters, describe_machine, peak_memory, thread_count
from segue.experiment.run_folder import METRICS, write_manifest
from segue.experiment.run_history import mark_best
from segue.training.train import train
from segue.version import __version__

__all__ = ["TensorBoard", "run_plan"]

Log = Callable[[str], None]


def run_plan(plan: Plan, folder: Path, *, log: Log, progress: bool = False, command: str = "") -> dict[str, Any]:
    """Run ``plan`` in ``folder``, resuming from its checkpoint if there is one.

    Args:
        log: receives decisions, counts and warnings that a reader of the result should know.
        progress: whether progress is displayed.
        command: the command line, for the record.

    Returns:
        The record, as written to ``metrics.json``.
    """
    check_device(plan.run.device)
    validate_metrics(plan)
    validate_inputs(plan, plan.split.use_query_time)
    timer = StageTimer()
    with timer("data"):
        data = load_data(plan, log)
    with timer("split"):
        parts = split(data, plan.split)
    with timer("leakage check"):
        if faults := check_leakage(parts):
            raise ValueError("\n".join(["the split leaks, nothing was trained:", *faults]))
    n_train, n_valid, n_test = parts.train.histories.size, len(parts.valid), len(parts.test)
    log(
        f"split: {plan.split.strategy}: {n_train:,} training events, {n_valid:,} validation and {n_test:,} test queries"
    )
    report_inputs(plan, data, log)
    run = Run(plan.run.seed, folder, plan.run.device, _trackers(plan, folder, log if progress else None), progress)
    with timer("train"):
        validate = None
        if len(parts.valid):
            validate = make_validator(parts.valid, plan.metric, exclude_seen=plan.evaluation.exclude_seen)
        model = train(plan.task.model, plan.model, plan.training, parts.train, run, validate)
    metadata = _describe_run(plan, data, parts, folder)
    bundle.save(folder / "bundle", bundle.create(plan.task.model, model, parts.train, metadata))
    with timer("evaluate"):
        test = evaluate_plan(model, parts.test, plan)
        valid = evaluate_plan(model, parts.valid, plan) if len(parts.valid) else None
        train_errors = _training_errors(model, parts.train, plan)
    with timer("baseline"):
        baseline = evaluate_baseline(plan, parts)
    _values_per_query(parts.test, test, data).write_parquet(folder / "values.parquet")
    record = {
        **metadata,
        **mean_values(test),
        "intervals": interval_values(test),
        "valid": {} if valid is None else mean_values(valid),
        "train": train_errors,
        "protocol": dict(test.metadata),
        "baseline": baseline,
        "cost": {
            "seconds": _seconds(timer, run),
            "peak_memory_bytes": peak_memory(),
            "parameters": count_parameters(model),
            "threads": thread_count(),
        },
        "machine": describe_machine(),
        "command": command,
    }
    _finish(plan, folder, record, run)
    return record


def _describe_run(plan: Plan, data: Dataset, parts: Split, folder: Path) -> dict[str, Any]:
    header = data.header
    return {
        "run": folder.name,
        "model": plan.task.model,
        "data": plan.task.data,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": plan.run.seed,
        "device": plan.run.device,
        "segue": __version__,
        "recipe": plan.task.recipe,
        "warnings": list(dict.fromkeys([*parts.metadata.get("warnings", []), *_warnings(plan)])),
        "counts": {
            "users": data.n_users,
            "items": data.n_items,
            "events": data.histories.size,
            "training_events": parts.train.histories.size,
            "test_queries": len(parts.test),
        },
        "leakage": [],
        "split": {key: value for key, value in parts.metadata.items() if key not in ("settings", "warnings")},
        "data_hash": header.get("hash"),
        "data_folder": None if header.get("folder") is None else str(Path(header["folder"]).resolve()),
        "fingerprint": plan.fingerprint(),
        "comparison_key": plan.comparison_key(),
        "user_features": user_feature_names(data),
    }


def _training_errors(model: Model, data: Dataset, plan: Plan) -> dict[str, float]:
    """Return the errors of a rating model on its training pairs.

    They are rounded for the record; other models have none.
    """
    if not (isinstance(model, Predictor) and model.predicts_ratings):
        return {}
    found = training_errors(model, data.histories, use_times=plan.split.use_query_time) or {}
    return {name: round(value, 6) for name, value in found.items()}


def _seconds(timer: StageTimer, run: Run) -> dict[str, float]:
    """Return seconds by stage.

    Training time includes the time before an interruption.
    """
    logged = sum(line.get("seconds", 0.0) + line.get("validation_seconds", 0.0) for line in run.history())
    seconds = {**timer.seconds, "train": max(logged, timer.seconds["train"])}
    return {name: round(value, 3) for name, value in seconds.items()}


def _warnings(plan: Plan) -> list[str]:
    count = plan.task.max_users
    return [] if count is None else [f"limited to the first {count} users: not a result"]


def _values_per_query(held_out: HeldOut, result: EvaluationResult, data: Dataset) -> pl.DataFrame:
    """Return one row per query: the user's id (null if unknown) and every metric."""
    queries = held_out.queries
    users = pl.Series("user", data.users.decode(queries.users)).set(pl.Series(~queries.known), None)
    return pl.DataFrame({"user": users, **result.values})


class TensorBoard:
    """Tracker that writes TensorBoard events; needs the extra ``track``."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError:
            raise ValueError("TensorBoard is not installed: pip install 'segue[track]'") from None
        self._writer = Writer(str(folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one scalar per value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


@dataclass(frozen=True)
class _EpochLog:
    """Tracker that logs one line per epoch, where no progress bar can be drawn."""

    write: Log
    metric: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        keys = {"loss": "loss", self.metric: f"valid/{self.metric}"}
        if found := [f"{name} {values[key]:.4f}" for name, key in keys.items() if key in values]:
            self.write(f"epoch {step}: {', '.join(found)}")


def _trackers(plan: Plan, folder: Path, log: Log | None) -> tuple[Tracker, ...]:
    """Return TensorBoard if installed, and a log of epochs outside a terminal."""
    lines = (_EpochLog(log, plan.metric),) if log is not None and not sys.stderr.isatty() else ()
    if find_spec("tensorboard") is None:
        return lines
    return (*lines, TensorBoard(folder / "events"))


def _finish(plan: Plan, folder: Path, record: Mapping[str, Any], run: Run) -> None:
    """Write the model card, figures, metrics and manifest, and update the links."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    write_text(folder / "card.md", format_card(plan, record))
    _draw_training(folder, plan.task.model, plan.metric, run.history())
    write_json(folder / METRICS, record)
    write_manifest(folder)
    mark_best(folder, plan)


def _draw_training(folder: Path, model: str, metric: str, history: Sequence[Mapping[str, float]]) -> None:
    """Draw loss and validation by epoch to ``figures/training.svg``.

    Nothing is drawn without epochs or without matplotlib.
    """
    if find_spec("matplotlib") is None or not any("loss" in line for line in history):
        return
    from segue.reports.plots import plot_training_curves, to_svg

    write_text(folder / "figures" / "training.svg", to_svg(plot_training_curves({model: history}, metric)) + "\n")
