"""Train a click-through model on a table of labeled examples.

The encoding of the columns is learned from the training rows alone. The validation rows choose the best epoch, fit the
calibration, and choose the threshold of F1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.core.examples.calibration import Calibration
from segue.core.examples.click_model import ABOUT, ClickModel
from segue.core.examples.columns import Column
from segue.core.examples.encoder import ExampleEncoder, fit_encoder
from segue.core.examples.fields import Examples
from segue.core.messages import QualityWarning, arg, warn
from segue.core.model import ExampleModel
from segue.core.run import Run
from segue.data.examples.table import ExampleTable
from segue.data.raw_log import Log, no_log
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.click_metrics import best_threshold
from segue.evaluation.evaluate_examples import evaluate_predictions, make_example_validator
from segue.experiment.arguments import check_device, device_of_model
from segue.experiment.clicks.click_plan import ClickPlan
from segue.experiment.records.training_record import check_training_folder, check_unchanged, hash_table
from segue.training.train import train

__all__ = ["MODEL_FOLDER", "describe_columns", "open_click_model", "record_estimates", "train_click_model"]

MODEL_FOLDER = "model"
"""Folder of the trained model in the folder of its training."""


@dataclass(frozen=True)
class _HeldOut:
    """Encoded validation rows."""

    table: ExampleTable
    examples: Examples


def train_click_model(
    plan: ClickPlan,
    table: ExampleTable,
    valid: ExampleTable | None = None,
    *,
    folder: Path | None = None,
    progress: bool = False,
    log: Log = no_log,
) -> ClickModel:
    """Train the model of ``plan`` on ``table``.

    Args:
        valid: further rows; ``None``: no validation.
        folder: where checkpoints, the training history and the model are stored; the same call resumes an interrupted
            training.
        log: receives decisions, such as which columns are left out.

    Raises:
        ValueError: a column is missing, a cell does not fit its column (the message names file and line), labels are
            not 0 and 1, or the folder holds something else.
        Interrupted: the user asked to stop; with ``folder``, the checkpoint is written.
    """
    if plan.run.calibration is not None and valid is None:
        raise ValueError(
            f"{arg('calibration', plan.run.calibration)}: there are no validation rows to fit it on, expected some"
        )
    device, note = device_of_model(plan.task.model, check_device(plan.run.device))
    if note is not None:
        warn(f"train: {note}")
    table = table.without_parts()
    with table.located():
        encoder = fit_encoder(table.frame, plan.examples)
        examples = encoder.encode(table.frame)
    for text in (*table.notes, *(f"column '{name}' is left out: {why}" for name, why in _unused(encoder).items())):
        log(text)
    held_out = None if valid is None else _encode_valid(encoder, valid.without_parts())
    if held_out is None:
        warn(
            f"train: there are no validation rows, so all {plan.training.epochs} epochs are trained, and the threshold "
            "of F1 is 0.5",
            category=QualityWarning,
        )
    if folder is not None:
        _claim_folder(folder, plan, table, held_out)
    run = Run(plan.run.seed, folder, device, show_progress=progress)
    validate = None if held_out is None else make_example_validator(held_out.examples)
    model = train(plan.task.model, plan.model, plan.training, examples, run, validate)
    metadata: dict[str, Any] = {
        "data": table.name,
        "rows": len(table),
        "positives": int(np.asarray(examples.labels).sum()),
        "seed": plan.run.seed,
        "columns": describe_columns(encoder),
    }
    trained = ClickModel(plan.task.model, model, encoder, metadata=metadata, settings=plan.to_toml())
    if held_out is not None:
        trained = _fit_to_validation(trained, held_out, plan)
    if folder is not None:
        trained.save(folder / MODEL_FOLDER)
    return trained


def _encode_valid(encoder: ExampleEncoder, valid: ExampleTable) -> _HeldOut:
    with valid.located():
        return _HeldOut(valid, encoder.encode(valid.frame))


def _claim_folder(folder: Path, plan: ClickPlan, table: ExampleTable, held_out: _HeldOut | None) -> None:
    """Check that ``folder`` is new or holds this training; write its record."""
    if (folder / ABOUT).exists():
        raise ValueError(f"folder: '{folder}' is the folder of a saved model, expected a new one")
    check_training_folder(folder)
    values = plan.values()
    settings = {
        f"{group}.{key}": value for group in ("model", "training", "examples") for key, value in values[group].items()
    }
    record = {
        **settings,
        "name": plan.task.model,
        "seed": plan.run.seed,
        "data.training_hash": hash_table(table.frame),
        "data.validation_hash": None if held_out is None else hash_table(held_out.table.frame),
    }
    check_unchanged(folder, record)


def _fit_to_validation(trained: ClickModel, held_out: _HeldOut, plan: ClickPlan) -> ClickModel:
    """Fit calibration and threshold to the validation rows; add their metrics."""
    examples, method = held_out.examples, plan.run.calibration
    assert isinstance(trained.model, ExampleModel)
    assert examples.labels is not None
    logits_T = trained.model.predict_logits(examples)
    calibration = None if method is None else Calibration.fit(method, logits_T, examples.labels)
    trained = replace(trained, calibration=calibration)
    probabilities_T = trained.probabilities(logits_T)
    threshold = best_threshold(examples.labels, probabilities_T)
    found = evaluate_predictions(examples.labels, probabilities_T, examples.users, threshold, plan.run.seed)
    metadata = {
        **(trained.metadata or {}),
        "valid": {
            "data": held_out.table.name,
            "rows": len(examples),
            "metrics": record_estimates(found),
        },
    }
    return replace(trained, threshold=threshold, metadata=metadata)


def record_estimates(found: Mapping[str, Estimate]) -> dict[str, list[float | None]]:
    """Return the mean and the interval of each metric as JSON holds them.

    The ends are ``None`` without an interval.
    """
    return {
        name: [value if np.isfinite(value) else None for value in (one.mean, one.low, one.high)]
        for name, one in found.items()
    }


def describe_columns(encoder: ExampleEncoder) -> list[dict[str, str]]:
    """Return the name of each column, how it is read, and why, for the user."""
    found = [{"column": one.name, "kind": one.kind, "details": _details(one)} for one in encoder.columns]
    return found + [{"column": name, "kind": "left out", "details": why} for name, why in _unused(encoder).items()]


def _unused(encoder: ExampleEncoder) -> Mapping[str, str]:
    return encoder.unused or {}


def _details(column: Column) -> str:
    """Describe what was learned about a column."""
    if column.kind in ("category", "tags", "sequence"):
        if column.is_hashed:
            return f"{column.size - 2:,} hash buckets"
        texts = f"{len(column.values):,} categories"
        return texts if column.kind == "category" else f"{texts}, at most {column.max_length} per row"
    if column.kind == "number":
        return f"{column.scaling} scaling"
    if column.kind == "vector":
        return f"{column.size} numbers"
    return "hour, weekday and month"


def open_click_model(path: Path) -> ClickModel:
    """Open a saved model, or the model in the folder of a training.

    Raises:
        ValueError: there is none, or a file in it is broken.
    """
    path = path.expanduser()
    for folder in (path, path / MODEL_FOLDER):
        if (folder / ABOUT).is_file():
            return ClickModel.load(folder)
    raise ValueError(f"model: '{path}' has no {ABOUT}, expected a folder that segue clicks train or save wrote")
