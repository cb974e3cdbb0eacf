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

from segue.core import bundle
from segue.core.files import write_json, write_text
from segue.core.model import Model, Predictor
from segue.core.run import Run, Tracker
from segue.core.types import Dataset, HeldOut, Queries, Split
from segue.data.splits import split
from segue.evaluation.beyond_accuracy.training_data import TrainingData
from segue.evaluation.evaluate import EvaluationResult, make_validator
from segue.evaluation.leakage import check_leakage
from segue.evaluation.rating_metrics import training_errors
from segue.evaluation.warmth import Warmth, select_candidates
from segue.experiment.arguments import device_of_model
from segue.experiment.baselines.strongest import describe_baseline
from segue.experiment.data import load_data, report_inputs, user_feature_names, validate_inputs
from segue.experiment.evaluate import check_list_inputs, interval_values, mean_values, user_labels
from segue.experiment.evaluate_run import (
    describe_warmth,
    evaluate_plan,
    validate_metrics,
    values_per_query,
    warmth_values,
)
from segue.experiment.plan import Plan
from segue.experiment.quality import (
    Quality,
    check_parts,
    cold_item_note,
    count_parts,
    explain_result,
    judge_model,
    training_repeat_share,
)
from segue.experiment.records.held_out_readings import describe_reading, record_reading
from segue.experiment.records.model_card import format_card
from segue.experiment.records.recommended_lists import write_lists
from segue.experiment.records.training_record import RECORD, check_unchanged, describe_plan, describe_training_data
from segue.experiment.resources import StageTimer, count_parameters, describe_machine, peak_memory, thread_count
from segue.experiment.run_folder import METRICS, WARMTH, write_manifest
from segue.experiment.run_history import mark_best
from segue.training.train import train
from segue.version import __version__

__all__ = ["TensorBoard", "run_plan"]

Log = Callable[[str], None]


def run_plan(
    plan: Plan, folder: Path, *, log: Log, progress: bool = False, command: str = "", read_test: bool = False
) -> dict[str, Any]:
    """Run ``plan`` in ``folder``, resuming from its checkpoint if there is one.

    Args:
        log: receives decisions, counts and warnings that a reader of the result should know.
        progress: whether progress is displayed.
        command: the command line, for the record.
        read_test: whether to evaluate on the test part, too. Each reading is recorded in the folder.

    Returns:
        The record, as written to ``metrics.json``.
    """
    device, device_note = device_of_model(plan.task.model, plan.run.device)
    if device_note is not None:
        log(device_note)
    validate_metrics(plan)
    validate_inputs(plan, plan.split.use_query_time, plan.split.use_query_context)
    timer = StageTimer()
    with timer("data"):
        data = load_data(plan, log, progress)
    with timer("split"):
        parts = split(data, plan.split)
    with timer("leakage check"):
        check_unchanged(folder, {**describe_plan(plan), **describe_training_data(parts)})
        if faults := check_leakage(parts):
            raise ValueError("\n".join(["the split leaks, nothing was trained:", *faults]))
    log(count_parts(parts))
    check_parts(parts)
    training = _check_evaluation(plan, parts, read_test)
    log(f"run: {folder}")
    report_inputs(plan, data, log)
    run = Run(plan.run.seed, folder, device, _trackers(plan, folder, log if progress else None), progress)
    with timer("train"):
        validate = None
        if len(parts.valid):
            validate = make_validator(parts.valid, plan.metric, exclude_seen=plan.evaluation.exclude_seen)
        model = train(plan.task.model, plan.model, plan.training, parts.train, run, validate)
    metadata = _describe_run(plan, data, parts, folder) | _report_notes(model, log)
    bundle.save(folder / "bundle", bundle.create(plan.task.model, model, parts.train, metadata))
    with timer("evaluate"):
        valid = _evaluate(plan, model, parts, parts.valid, training) if len(parts.valid) else None
        test = _evaluate(plan, model, parts, parts.test, training) if read_test else None
        train_errors = _training_errors(model, parts.train, plan)
    peak_bytes = peak_memory()  # without that of the baselines
    with timer("baseline"):
        quality = _judge_plan(plan, model, parts)
        name = None if quality.comparison is None else quality.comparison.baseline
        baseline = describe_baseline(plan, parts, name, "test" if read_test else "valid") if name else None
    shown, held_out = (test, parts.test) if read_test else (valid, parts.valid)
    if shown is not None:
        _write_values(folder, held_out.queries, shown, data)
    part = None if shown is None else "test" if read_test else "valid"
    notes = [] if shown is None else explain_result(shown, part, plan)
    metadata["warnings"] += [*quality.warnings, *notes, *cold_item_note(model, plan.evaluation.items)]
    record = {
        **metadata,
        "part": part,
        **({} if shown is None else mean_values(shown)),
        "intervals": {} if shown is None else interval_values(shown),
        "valid": {} if valid is None else mean_values(valid),
        "train": train_errors,
        "protocol": {} if shown is None else dict(shown.metadata),
        "warmth": [] if shown is None else describe_warmth(shown),
        "baseline": baseline,
        "validation": quality.metadata().get("validation"),
        "cost": {
            "seconds": _seconds(timer, run),
            "peak_memory_bytes": peak_bytes,
            "parameters": count_parameters(model),
            "threads": thread_count(),
        },
        "machine": describe_machine(),
        "command": command,
    }
    _finish(plan, folder, record, run)
    if test is not None:
        record_reading(folder, describe_reading(folder.name, parts, mean_values(test), command or "run_plan"))
    return record


def _evaluate(plan: Plan, model: Model, parts: Split, held_out: HeldOut, training: TrainingData) -> EvaluationResult:
    """Evaluate a model on a part of a split as the plan says."""
    return evaluate_plan(model, held_out, plan, training, user_labels(held_out, parts.train))


def _write_values(folder: Path, queries: Queries, shown: EvaluationResult, data: Dataset) -> None:
    """Write the values per query, those of groups of users and items, and the lists."""
    values_per_query(queries, shown, data.users).write_parquet(folder / "values.parquet")
    warmth_values(shown).write_parquet(folder / WARMTH)
    write_lists(folder, queries, shown.top, data.users, data.items)


def _check_evaluation(plan: Plan, parts: Split, read_test: bool) -> TrainingData:
    """Return the training data, after a check that the metrics can be computed.

    Raises:
        ValueError: no test query is held out for ``read_test``, no target of a part that is evaluated is among the
            items that are ranked, or the data lacks what a metric needs.
    """
    if read_test and not len(parts.test):
        raise ValueError(f"test: split.strategy={plan.split.strategy} holds no test query out; train without --test")
    training = TrainingData.of(parts.train)
    candidates = Warmth(training.item_events, plan.evaluation.thresholds).candidates(plan.evaluation.items)
    for held_out in [parts.valid, *([parts.test] if read_test else [])]:
        if len(held_out):
            select_candidates(held_out, candidates, plan.evaluation.items)
            check_list_inputs(plan.evaluation.metrics, plan.evaluation.ks, held_out, parts.train)
    return training


def _judge_plan(plan: Plan, model: Model, parts: Split) -> Quality:
    """Compare the model of a plan with the strongest simple baseline on validation."""
    return judge_model(
        plan.task.model,
        model,
        parts.train,
        parts.valid,
        plan.metric,
        exclude_seen=plan.evaluation.exclude_seen,
        baseline=plan.evaluation.baseline,
        seed=plan.run.seed,
        is_ranked=bool(validate_metrics(plan)),
    )


def _describe_run(plan: Plan, data: Dataset, parts: Split, folder: Path) -> dict[str, Any]:
    header = data.header
    return {
        "run": folder.name,
        "model": plan.task.model,
        "data": plan.task.data,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": plan.run.seed,
        "device": device_of_model(plan.task.model, plan.run.device)[0],
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
        "repeat_share": round(training_repeat_share(parts), 6),
    }


def _report_notes(model: Model, log: Log) -> dict[str, Any]:
    """Log what a model says about its training, and return it for the record."""
    for note in model.training_notes:
        log(note)
    return {"training_notes": list(model.training_notes)}


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
    (folder / RECORD).unlink(missing_ok=True)
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
