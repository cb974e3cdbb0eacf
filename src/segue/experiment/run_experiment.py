"""Run one experiment: train, evaluate and record a model in a folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segue.core import bundle
from segue.core.files import write_json, write_text
from segue.core.messages import hide_passwords
from segue.core.model import LOWER_IS_BETTER, Model, Predictor
from segue.core.run import Interrupted, Run, Tracker
from segue.core.types import Dataset, HeldOut, Queries, Split
from segue.data.splits import split
from segue.evaluation.beyond_accuracy.list_metrics import metric_names
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
from segue.experiment.protocols.presets import PROTOCOLS
from segue.experiment.quality import (
    Quality,
    check_parts,
    check_sampled_ranking,
    cold_item_note,
    count_parts,
    describe_data_warnings,
    explain_result,
    judge_model,
    training_repeat_share,
)
from segue.experiment.records.held_out_readings import describe_reading, record_reading
from segue.experiment.records.model_card import format_card
from segue.experiment.records.predictions import PREDICTIONS, predict_queries, readable_predictions
from segue.experiment.records.recommended_lists import write_lists
from segue.experiment.records.run_log import EpochLog, RunLog
from segue.experiment.records.training_record import RECORD, check_unchanged, describe_plan, describe_training_data
from segue.experiment.resources import StageTimer, count_parameters, describe_machine, peak_memory, thread_count
from segue.experiment.run_folder import METRICS, WARMTH, write_manifest
from segue.experiment.run_history import mark_best
from segue.training.monitor import Monitor
from segue.training.trackers.addresses import AUTO
from segue.training.trackers.client import PredictionRows, RunDescription, RunResults
from segue.training.trackers.tracking import Tracking, model_files, open_clients
from segue.training.train import train
from segue.version import __version__

__all__ = ["run_plan"]

Log = Callable[[str], None]

TRACKED_FILES = ("settings.toml", "metrics.json", "card.md", "history.jsonl", "train.log", PREDICTIONS)
"""Files of a run that are sent to trackers, apart from the model and figures."""


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

    Raises:
        ValueError: settings and data do not fit together, or a package that a tracker needs is missing.
        Interrupted: the run was interrupted; it can be resumed.
    """
    clients = open_clients(plan.run.track, folder)
    with RunLog(folder, log) as run_log:
        tracking = Tracking(clients, folder, run_log)
        try:
            return _run_plan(plan, folder, run_log, tracking, progress, command, read_test)
        except BaseException as error:
            tracking.finish("interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed")
            raise


def _run_plan(
    plan: Plan, folder: Path, log: RunLog, tracking: Tracking, progress: bool, command: str, read_test: bool
) -> dict[str, Any]:
    """Run a plan; see :func:`run_plan`."""
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
    tracking.start(_describe_tracked(plan, folder, command))
    monitor = Monitor(device, plan.training.precision)
    trackers = (*_epoch_logs(plan, log, progress), *tracking.trackers)
    run = Run(plan.run.seed, folder, device, trackers, progress, monitor)
    with timer("train"), monitor:
        validate = None
        if len(parts.valid):
            validate = make_validator(parts.valid, plan.metric, exclude_seen=plan.evaluation.exclude_seen)
        model = train(plan.task.model, plan.model, plan.training, parts.train, run, validate)
    metadata = _describe_run(plan, data, parts, folder) | _report_notes(model, log)
    trained = bundle.create(plan.task.model, model, parts.train, metadata)
    bundle.save(folder / "bundle", trained)
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
    predictions = None
    if shown is not None:
        _write_values(folder, held_out.queries, shown, data)
        with timer("predictions"):
            predictions = _write_predictions(folder, trained, held_out, plan, training)
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
        "cost": _describe_cost(timer, run, model, peak_bytes),
        "monitor": monitor.summary(),
        "machine": describe_machine(),
        "command": command,
    }
    _finish(plan, folder, record, run, tracking, predictions)
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
            items that are ranked, a user has too few items to sample from, or the data lacks what a metric needs.
    """
    if read_test and not len(parts.test):
        raise ValueError(f"test: split.strategy={plan.split.strategy} holds no test query out; train without --test")
    training = TrainingData.of(parts.train)
    candidates = Warmth(training.item_events, plan.evaluation.thresholds).candidates(plan.evaluation.items)
    if validate_metrics(plan):
        check_sampled_ranking(parts, plan.evaluation.sampled, candidates)
    for held_out in [parts.valid, *([parts.test] if read_test else [])]:
        if len(held_out):
            select_candidates(held_out, candidates, plan.evaluation.items)
            check_list_inputs(plan.evaluation.metrics, plan.evaluation.ks, held_out, parts.train)
    return training


def _judge_plan(plan: Plan, model: Model, parts: Split) -> Quality:
    """Compare the model of a plan with the strongest simple baseline on validation.

    They are compared by the metric of the protocol, if it has one, as in a comparison of models.
    """
    return judge_model(
        plan.task.model,
        model,
        parts.train,
        parts.valid,
        _baseline_metric(plan),
        exclude_seen=plan.evaluation.exclude_seen,
        baseline=plan.evaluation.baseline,
        seed=plan.run.seed,
        is_ranked=bool(validate_metrics(plan)),
    )


def _baseline_metric(plan: Plan) -> str:
    """Return the metric by which a model is compared with simple baselines.

    It is the one by which the protocol orders models, where it is computed, else the validation metric.
    """
    protocol = PROTOCOLS.get(str(plan.evaluation.protocol))
    if protocol is None or protocol.headline is None or plan.metric in LOWER_IS_BETTER:
        return plan.metric
    metric = protocol.headline.removeprefix("sampled_")
    return metric if metric in metric_names(validate_metrics(plan), plan.evaluation.ks) else plan.metric


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
        "warnings": describe_data_warnings(plan, parts),
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


def _describe_cost(timer: StageTimer, run: Run, model: Model, peak_bytes: int) -> dict[str, Any]:
    """Return time, memory and size.

    The time of an epoch is the mean, and includes its validation.
    """
    epochs = [line for line in run.history() if "seconds" in line]
    seconds = [line["seconds"] + line.get("validation_seconds", 0.0) for line in epochs]
    return {
        "seconds": _seconds(timer, run),
        "epochs": len(epochs),
        "epoch_seconds": round(sum(seconds) / len(seconds), 4) if seconds else None,
        "peak_memory_bytes": peak_bytes,
        "parameters": count_parameters(model),
        "threads": thread_count(),
    }


def _seconds(timer: StageTimer, run: Run) -> dict[str, float]:
    """Return seconds by stage.

    Training time includes the time before an interruption.
    """
    logged = sum(line.get("seconds", 0.0) + line.get("validation_seconds", 0.0) for line in run.history())
    seconds = {**timer.seconds, "train": max(logged, timer.seconds["train"])}
    return {name: round(value, 3) for name, value in seconds.items()}


def _epoch_logs(plan: Plan, log: RunLog, progress: bool) -> tuple[Tracker, ...]:
    """Return the tracker that reports epochs.

    Where a progress bar is drawn, it only writes to the file.
    """
    return (EpochLog(log if progress and not sys.stderr.isatty() else log.write, plan.metric),)


def _describe_tracked(plan: Plan, folder: Path, command: str) -> RunDescription:
    """Return what trackers are given before training."""
    settings = {
        f"{group}.{key}": hide_passwords(value) if isinstance(value, str) else value
        for group, values in plan.values().items()
        for key, value in values.items()
        if value is not None and (group, key) != ("run", "track")
    }
    tags = {"model": plan.task.model, "data": hide_passwords(plan.task.data), "version": __version__}
    return RunDescription(folder.name, folder, settings, {**tags, **({"command": command} if command else {})})


def _write_predictions(
    folder: Path, trained: bundle.TrainedModel, held_out: HeldOut, plan: Plan, training: TrainingData
) -> PredictionRows:
    """Write the predictions for some queries of a part, and return them as text."""
    warmth = Warmth(training.item_events, plan.evaluation.thresholds)
    allowed = warmth.candidates(plan.evaluation.items)
    table = predict_queries(trained, held_out, plan.evaluation.exclude_seen, allowed)
    table.write_parquet(folder / PREDICTIONS)
    return readable_predictions(table)


def _finish(
    plan: Plan,
    folder: Path,
    record: dict[str, Any],
    run: Run,
    tracking: Tracking,
    predictions: PredictionRows | None,
) -> None:
    """Write card, figures and metrics, send them to trackers, and complete the run.

    Problems of trackers become warnings of the record.
    """
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    (folder / RECORD).unlink(missing_ok=True)
    _write_record(plan, folder, record)
    figures = _draw_training(folder, plan, run)
    if tracking.trackers:
        problems = tracking.finish("finished", _tracked_results(folder, record, figures, predictions))
        if problems:
            record["warnings"] += problems
            _write_record(plan, folder, record)
    write_manifest(folder)
    mark_best(folder, plan)


def _write_record(plan: Plan, folder: Path, record: Mapping[str, Any]) -> None:
    write_text(folder / "card.md", format_card(plan, record))
    write_json(folder / METRICS, record)


def _tracked_results(
    folder: Path, record: Mapping[str, Any], figures: Mapping[str, Path], predictions: PredictionRows | None
) -> RunResults:
    """Return what trackers are given after the evaluation."""
    metrics = {f"final/valid/{name}": value for name, value in record["valid"].items()}
    if record["part"] == "test":
        metrics |= {f"final/test/{name}": record[name] for name in record["intervals"]}
    metrics |= {f"final/train/{name}": value for name, value in record["train"].items()}
    cost = {"parameters": record["cost"]["parameters"], "peak_memory_bytes": record["cost"]["peak_memory_bytes"]}
    metrics |= {f"final/cost/{name}": float(value) for name, value in cost.items()}
    metrics |= {f"final/cost/{name}_seconds": value for name, value in record["cost"]["seconds"].items()}
    for name, value in record["monitor"].items():
        if isinstance(value, int | float):
            metrics[f"final/monitor/{name}"] = float(value)
    files = {name: folder / name for name in TRACKED_FILES if (folder / name).exists()}
    files |= {path.relative_to(folder).as_posix(): path for path in sorted((folder / "figures").glob("*"))}
    files |= model_files(folder, "bundle")
    return RunResults(metrics, (folder / "card.md").read_text(encoding="utf-8"), figures, files, predictions)


def _draw_training(folder: Path, plan: Plan, run: Run) -> dict[str, Path]:
    """Draw loss and validation by epoch to ``figures/training.svg``.

    Where trackers are named, they are given a PNG, too. Nothing is drawn without epochs or without matplotlib.
    """
    history = run.history()
    if find_spec("matplotlib") is None or not any("loss" in line for line in history):
        return {}
    from segue.reports.plots import plot_training_curves, save_figure, to_svg

    figure = plot_training_curves({plan.task.model: history}, plan.metric)
    write_text(folder / "figures" / "training.svg", to_svg(figure) + "\n")
    if all(address == AUTO for address in plan.run.track):
        return {}
    save_figure(figure, folder / "figures" / "training.png")
    return {"training": folder / "figures" / "training.png"}
