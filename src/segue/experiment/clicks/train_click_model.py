"""Train a click-through model on a table of labeled examples.

The encoding of the columns is learned from the training rows alone. The validation rows choose the best epoch, fit the
calibration, and choose the threshold of F1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.core.examples.calibration import Calibration
from segue.core.examples.click_model import ABOUT, ClickModel
from segue.core.examples.columns import Column
from segue.core.examples.encoder import ExampleEncoder
from segue.core.examples.fields import Examples
from segue.core.examples.propensities import find_propensities, weight_clicks
from segue.core.examples.queries import examples_with_users
from segue.core.examples.settings import ExampleSettings
from segue.core.examples.stream import ExampleStream
from segue.core.messages import QualityWarning, arg, warn
from segue.core.model import Solver, Validate
from segue.core.registry import model_class
from segue.core.run import Run, Tracker
from segue.data.examples.streamed import StreamedTable
from segue.data.examples.table import ExampleRows, ExampleTable
from segue.data.raw_log import Log, no_log
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.click_metrics import best_threshold
from segue.evaluation.evaluate_examples import evaluate_predictions, make_row_validator
from segue.experiment.arguments import check_device, device_of_model
from segue.experiment.clicks.click_plan import ClickPlan
from segue.experiment.clicks.encoded_rows import EncodedRows, ShuffledRows, encode_rows, fit_rows
from segue.experiment.records.training_record import check_training_folder, check_unchanged, hash_table
from segue.features.text.text_columns import with_text_columns
from segue.training.train import train

__all__ = [
    "MODEL_FOLDER",
    "PreparedRows",
    "describe_columns",
    "find_click_model",
    "make_click_validator",
    "open_click_model",
    "prepare_rows",
    "record_estimates",
    "train_click_model",
]

MODEL_FOLDER = "model"
"""Folder of the trained model in the folder of its training."""

VALIDATION_HINT = (
    "set a greater split.valid, or name a table of validation rows; with split.strategy=given, mark rows as valid"
)
"""How to get validation rows."""

MIN_GROUPS = 4
"""Row groups that are shuffled together, below which a message says so."""

MAX_SHOWN = 10
"""Propensities in the log."""


def train_click_model(
    plan: ClickPlan,
    table: ExampleRows,
    valid: ExampleRows | None = None,
    *,
    data_hash: str | None = None,
    folder: Path | None = None,
    progress: bool = False,
    log: Log = no_log,
    start_trackers: Callable[[], tuple[Tracker, ...]] | None = None,
) -> ClickModel:
    """Train the model of ``plan`` on ``table``.

    Args:
        valid: further rows; ``None``: no validation.
        data_hash: hash of the rows of all parts; ``None``: ``table`` is all there is.
        folder: where checkpoints, the training history and the model are stored; the same call resumes an interrupted
            training.
        log: receives decisions, such as which columns are left out.
        start_trackers: called once the folder is known to be that of this training.

    Raises:
        ValueError: a column is missing, a cell does not fit its column (the message names file and line), labels are
            not 0 and 1, or the folder holds something else.
        Interrupted: the user asked to stop; with ``folder``, the checkpoint is written.
    """
    _check_validation(plan, valid)
    if plan.run.track and start_trackers is None:
        raise ValueError("run.track: only segue clicks train has trackers; leave it out")
    rows = prepare_rows(plan, table, valid, progress, log)
    table, held_out = rows.table, rows.held_out
    if held_out is None:
        is_solver = issubclass(model_class(plan.task.model), Solver)
        epochs = "" if is_solver else f"all {plan.training.epochs} epochs are trained, and "
        warn(
            f"train: there are no validation rows, so {epochs}the threshold of F1 is 0.5; {VALIDATION_HINT}",
            category=QualityWarning,
        )
    if folder is not None:
        _claim_folder(folder, plan, table, held_out)
    trackers = () if start_trackers is None else start_trackers()
    run = Run(plan.run.seed, folder, rows.device, trackers, progress)
    validate = None if held_out is None else make_click_validator(held_out)
    model = train(plan.task.model, plan.model, plan.training, rows.examples, run, validate)
    for note in model.training_notes:
        log(note)
    metadata: dict[str, Any] = {
        "data": table.name,
        "rows": len(table),
        "rows_hash": (rows_hash := table.rows_hash),
        "data_hash": rows_hash if data_hash is None else data_hash,
        "positives": rows.n_positive,
        "seed": plan.run.seed,
        "columns": describe_columns(rows.encoder),
    }
    trained = ClickModel(plan.task.model, model, rows.encoder, metadata=metadata, settings=plan.to_toml())
    if held_out is not None:
        trained = _fit_to_validation(trained, held_out, plan)
    if folder is not None:
        trained.save(folder / MODEL_FOLDER)
    return trained


@dataclass(frozen=True, eq=False)
class PreparedRows:
    """Encoded rows of training and validation."""

    table: ExampleRows
    """The training rows, without a column of given parts."""
    encoder: ExampleEncoder
    n_positive: int
    examples: Examples | ExampleStream
    held_out: EncodedRows | None
    device: str


def prepare_rows(
    plan: ClickPlan, table: ExampleRows, valid: ExampleRows | None, progress: bool, log: Log
) -> PreparedRows:
    """Learn from the training rows how columns are encoded, and encode all rows.

    The settings of the model, except ``objective``, and of the training loop change nothing here.

    Raises:
        ValueError: see :func:`train_click_model`.
    """
    device, note = device_of_model(plan.task.model, check_device(plan.run.device))
    if note is not None:
        warn(f"train: {note}")
    check_streams(plan, table)
    table = table.without_parts()
    encoder, n_positive = fit_rows(table, plan.examples, Run(plan.run.seed, device=device, show_progress=progress))
    examples = _training_examples(plan, table, encoder, log)
    for text in (*table.notes, *(f"column '{name}' is left out: {why}" for name, why in _unused(encoder).items())):
        log(text)
    held_out = None if valid is None else EncodedRows(valid, encoder, plan.run.buffer_rows)
    return PreparedRows(table, encoder, n_positive, examples, held_out, device)


def _check_validation(plan: ClickPlan, valid: ExampleRows | None) -> None:
    """Check that there are validation rows where they are given or needed.

    Raises:
        ValueError: there are none.
    """
    if valid is not None and not len(valid):
        raise ValueError(f"valid: the validation part has no rows (of {valid.name}), expected some; {VALIDATION_HINT}")
    if valid is None and plan.run.calibration is not None:
        raise ValueError(
            f"{arg('calibration', plan.run.calibration)}: there are no validation rows to fit it on, expected some; "
            f"{VALIDATION_HINT}"
        )


def make_click_validator(held_out: EncodedRows) -> Validate:
    """Return the function that computes the validation metrics.

    Raises:
        ValueError: all labels are equal.
    """
    labels_T = held_out.labels_T
    if labels_T.min() == labels_T.max():
        raise ValueError(
            f"valid: {held_out.table.name}: column '{held_out.encoder.label}': all {len(labels_T):,} labels are "
            f"{int(labels_T[0])} in validation, expected both 0 and 1; {VALIDATION_HINT}"
        )
    return make_row_validator(labels_T, held_out.predict)


def _weight_by_position(examples: Examples, table: ExampleTable, settings: ExampleSettings, log: Log) -> Examples:
    """Return the examples with the weights of their positions.

    The settings name the column of positions; without one there are no weights.

    Raises:
        ValueError: a position is wrong, or propensities cannot be estimated; names the file, and the line of a cell.
    """
    if settings.position is None:
        return examples
    assert examples.labels is not None
    with table.located():
        positions_T, propensities_P = find_propensities(table.frame, examples.labels, settings)
    shown = ", ".join(f"{value:.2f}" for value in propensities_P[:MAX_SHOWN])
    more = ", ..." if len(propensities_P) > MAX_SHOWN else ""
    log(f"propensities of positions 1 to {len(propensities_P)}: {shown}{more}")
    return replace(
        examples, weights=weight_clicks(positions_T, examples.labels, propensities_P, settings.min_propensity)
    )


def check_streams(plan: ClickPlan, table: ExampleRows) -> None:
    """Check that a model can be trained on rows that stay on the disk.

    Raises:
        ValueError: the model or a setting needs all rows in memory.
    """
    if not isinstance(table, StreamedTable):
        return
    key = plan.task.model
    if issubclass(model_class(key), Solver):
        raise ValueError(
            f"memory: got 'streamed', but '{key}' needs all rows in memory; set memory=all, or choose a network such "
            "as deepfm"
        )
    if getattr(plan.model, "objective", "binary") == "softmax":
        raise ValueError(
            "memory: got 'streamed', but objective=softmax needs all rows of a query at once; set memory=all"
        )
    if plan.examples.position is not None:
        raise ValueError("memory: got 'streamed', but position needs all rows in memory; set memory=all")


def _training_examples(
    plan: ClickPlan, table: ExampleRows, encoder: ExampleEncoder, log: Log
) -> Examples | ExampleStream:
    """Return the encoded rows, or those on the disk, which are encoded in each epoch."""
    if not isinstance(table, StreamedTable):
        assert isinstance(table, ExampleTable)
        examples = _weight_by_position(encode_rows(encoder, table), table, plan.examples, log)
        objective = getattr(plan.model, "objective", "binary")
        return examples if objective == "binary" else examples_with_users(examples, objective)
    largest = max(group.rows for group in table.groups)
    log(
        f"memory: rows stay on the disk; {len(table.groups):,} row groups are read in random order, and shuffled among "
        f"{max(plan.run.buffer_rows, largest):,} rows in memory"
    )
    if largest > plan.run.buffer_rows / MIN_GROUPS:
        log(
            f"memory: row groups have up to {largest:,} rows, so that few are shuffled together; write smaller ones, "
            f"or set buffer_rows to {MIN_GROUPS * largest:,}"
        )
    return ShuffledRows(table, encoder, plan.run.buffer_rows)


def _claim_folder(folder: Path, plan: ClickPlan, table: ExampleRows, held_out: EncodedRows | None) -> None:
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
        "data.training_hash": _hash_rows(table),
        "data.validation_hash": None if held_out is None else _hash_rows(held_out.table),
    }
    if isinstance(table, StreamedTable):
        record |= {"memory": "streamed", "run.buffer_rows": plan.run.buffer_rows}
    check_unchanged(folder, record)


def _hash_rows(table: ExampleRows) -> str:
    return str(hash_table(table.frame)) if isinstance(table, ExampleTable) else table.rows_hash


def _fit_to_validation(trained: ClickModel, held_out: EncodedRows, plan: ClickPlan) -> ClickModel:
    """Fit calibration and threshold to the validation rows; add their metrics."""
    method, labels_T = plan.run.calibration, held_out.labels_T
    logits_T = held_out.predict(trained.model)
    calibration = None if method is None else Calibration.fit(method, logits_T, labels_T)
    trained = replace(trained, calibration=calibration)
    probabilities_T = trained.probabilities(logits_T)
    threshold = best_threshold(labels_T, probabilities_T)
    found = evaluate_predictions(labels_T, probabilities_T, held_out.users_T, threshold, plan.run.seed)
    metadata = {
        **(trained.metadata or {}),
        "valid": {
            "data": held_out.table.name,
            "rows": len(held_out),
            "rows_hash": held_out.table.rows_hash,
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
    if column.kind in ("vector", "text"):
        return f"{column.size} numbers"
    return "hour, weekday and month"


def find_click_model(path: Path) -> Path:
    """Return the folder of a saved model: ``path``, or one within it.

    Raises:
        ValueError: there is none.
    """
    path = path.expanduser()
    for folder in (path, path / MODEL_FOLDER):
        if (folder / ABOUT).is_file():
            return folder
    found = sorted(one.parent.parent.name for one in path.glob(f"*/{MODEL_FOLDER}/{ABOUT}"))
    hint = f"; it holds the models {', '.join(found)}, name one of them" if found else ""
    raise ValueError(f"model: '{path}' has no {ABOUT}, expected a folder that segue clicks train or save wrote{hint}")


def open_click_model(path: Path) -> ClickModel:
    """Open a saved model, or the model in the folder of a training.

    Raises:
        ValueError: there is none, or a file in it is broken.
    """
    return with_text_columns(ClickModel.load(find_click_model(path)))
