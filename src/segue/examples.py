"""Labeled examples from Python: load, split, train, tune, evaluate, compare.

An example is one row of a table with a label, such as an impression with or without a click. Every function here is a
thin wrapper around :mod:`segue.experiment.clicks`; the command line calls the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from segue.core.config import parse
from segue.core.examples.click_model import ClickModel
from segue.core.memory_check import check_not_forked
from segue.core.types import Dataset
from segue.data.examples import from_log
from segue.data.examples.read import MemoryMode, read_examples, read_parts
from segue.data.examples.splits import ExampleSplit, ExampleSplitSettings, split_table
from segue.data.examples.table import ExampleRows, ExampleTable
from segue.data.load import load
from segue.data.raw_log import no_log
from segue.experiment.arguments import as_assignments, check_device, check_seed
from segue.experiment.clicks.click_plan import ClickPlan, given_settings, make_click_plan
from segue.experiment.clicks.evaluate_click_model import (
    ClickComparison,
    ClickEvaluation,
    compare_click_models,
    evaluate_click_model,
)
from segue.experiment.clicks.train_click_model import open_click_model, train_click_model
from segue.experiment.clicks.tune_click_models import check_click_plans, tune_click_plans
from segue.experiment.inference.argument_checks import Described, FilePath, check_arguments, describe_value
from segue.experiment.paths import runs_folder
from segue.experiment.tuning.model_study import Budget, check_trials
from segue.experiment.tuning.result import TuningResult
from segue.experiment.tuning.tune import parse_duration

__all__ = [
    "compare_clicks",
    "derive_examples",
    "evaluate_clicks",
    "load_examples",
    "open_clicks",
    "split_examples",
    "train_clicks",
    "tune_clicks",
]

ClickModelLike: TypeAlias = Annotated[ClickModel | FilePath, Described("a trained click-through model, or its folder")]
ClickModelKey: TypeAlias = Annotated[str, Described("the key of a model, as in train_clicks('deepfm', train)")]
ClickModels: TypeAlias = Annotated[Mapping[str, Any], Described('a mapping such as {"a": model, "b": other}')]


@check_arguments()
def load_examples(
    source: Any,
    *,
    valid: Any = None,
    test: Any = None,
    query: str | None = None,
    separator: str | None = None,
    memory: MemoryMode = "auto",
    log: Callable[[str], None] | None = None,
) -> ExampleRows:
    """Load a table of labeled examples.

    Args:
        source: a table of pandas, Polars, pyarrow, ..., or a mapping from columns to values; a name such as
            ``frappe-x1``; a file, folder or pattern of files (CSV, TSV, JSON Lines, Parquet, Arrow, libfm); or the
            address of a database (``sqlite:///FILE``, ``postgresql://...``).
        valid: the validation part, if it is separate: as ``source``. :func:`split_examples` then returns these parts.
        test: the test part, likewise.
        query: SQL query whose result is the table; required with a database.
        separator: what separates the columns of delimited text; by default it is detected.
        memory: ``streamed`` leaves the rows in Parquet files, from which networks are trained by row groups, and all
            models evaluated; ``all`` reads them into memory; ``auto`` streams if the files have more than 2 GiB.
        log: receives decisions and messages, such as ``print``.

    Raises:
        ValueError: the source is unknown, or a row is malformed; the message names file and line.
    """
    check_not_forked("load data")
    log = log or no_log
    table = read_parts(source, valid, test, query, separator, log, memory)
    for note in table.notes:
        log(note)
    return table


@check_arguments()
def derive_examples(
    data: Any,
    *,
    threshold: float | None = None,
    impression: str | None = None,
    negatives: int = 0,
    history: int = 50,
    seed: int = 0,
) -> ExampleTable:
    """Make labeled examples from the events of an interaction log.

    Exactly one of three rules gives the labels: ``threshold``, ``impression`` or ``negatives``. Each row has ``label``,
    ``user``, ``item``, ``time`` if the log has times, the features with the prefixes ``user.`` and ``item.``, the
    context with the prefix ``context.``, and ``history``, all as known before the event.

    Args:
        data: a dataset, or anything that :func:`segue.load` reads.
        threshold: for ratings: events whose value is greater are positive, others negative.
        impression: the action of showing an item. Each of these events is an example, positive if an event with
            another action (with the target action, if the log has one) of the same user and item follows before the
            item is shown to the user again.
        negatives: every event is positive, and has this many negative examples with the same user and time, whose items
            are drawn evenly from those with which the user had no event until then or at the same time.
        history: maximum number of items in ``history``: those that the user rated above the threshold, clicked, or had
            an event with, at an earlier time. The last ones are kept, oldest first; 0: no such column.
        seed: determines the sampled negatives.

    Raises:
        ValueError: none or several rules are given, the log lacks what the rule needs, or all labels would be equal.
    """
    check_not_forked("use a dataset")
    from_log.choose_rule(threshold, impression, negatives)
    return from_log.derive_examples(
        data if isinstance(data, Dataset) else load(data),
        threshold=threshold,
        impression=impression,
        negatives=negatives,
        history=history,
        seed=check_seed(seed),
    )


@check_arguments()
def split_examples(
    table: Any, strategy: Literal["random", "time", "user", "given"] | None = None, **settings: Any
) -> ExampleSplit:
    """Split a table of examples into training, validation and test.

    Args:
        table: what :func:`load_examples` returns or reads.
        strategy: ``random``; ``time``, by a column of times; ``user``, which keeps the rows of a user together; or
            ``given``, by a column with the values ``train``, ``valid`` and ``test``. ``None``: ``given`` if the table
            has parts, else ``random``.
        settings: see :class:`segue.data.examples.splits.ExampleSplitSettings`, such as ``test=0.2`` or
            ``column="day"``.
    """
    return split_table(_read(table, "table"), parse(ExampleSplitSettings, {"strategy": strategy, **settings}, "split"))


@check_arguments(skip=("seed",))
def train_clicks(
    name: ClickModelKey,
    train: Any,
    valid: Any = None,
    *,
    label: str = "label",
    calibration: Literal["platt", "temperature", "isotonic"] | None = None,
    folder: FilePath | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
    log: Callable[[str], None] | None = None,
    **settings: Any,
) -> ClickModel:
    """Train a click-through model on labeled examples.

    Everything that encodes the columns is learned from the training rows alone.

    Args:
        name: key of the model, such as ``deepfm``.
        train: a split, whose validation part is used; or what :func:`load_examples` returns or reads, of which the
            parts for training and validation are used if it has parts.
        valid: rows that choose the best epoch, fit the calibration and choose the threshold of F1.
        label: column of the labels: 0 or 1, or true or false.
        calibration: how probabilities are calibrated on the validation rows.
        folder: where checkpoints, the training history and, in ``model``, the trained model are written. The same call
            resumes an interrupted training.
        seed: determines every random choice.
        device: a torch device, such as ``cuda``.
        progress: whether to draw a progress bar.
        log: receives decisions, such as which columns are left out.
        settings: of the model, its training and the columns, by name: ``embedding_dim=16``, ``epochs=5``,
            ``columns={"price": "number"}``; see :class:`segue.core.examples.settings.ExampleSettings`.

    Raises:
        ValueError: an unknown model or setting, a cell that does not fit its column, labels other than 0 and 1, or the
            folder holds something else.
    """
    seed, device = check_seed(seed), check_device(device)
    memory = _memory_mode(name, settings)
    if not isinstance(train, ExampleSplit):
        table = _read(train, "train", memory)
        train = table if table.part_column is None else split_table(table, ExampleSplitSettings())
    if isinstance(train, ExampleSplit):
        if valid is not None:
            raise ValueError("valid: got a table, but the split has a validation part, expected one of them")
        table, held_out = train.train, train.valid if len(train.valid) else None
    else:
        table = train
        held_out = None if valid is None else _table(valid, "valid", memory)
    run = {"run.seed": seed, "run.device": device, "run.calibration": calibration, "examples.label": label}
    overrides = as_assignments({**settings, **{key: value for key, value in run.items() if value is not None}})
    plan = make_click_plan({"model": name, "data": table.name}, overrides)
    _check_no_split(plan)
    if isinstance(train, ExampleSplit):
        plan = replace(plan, split=train.settings)
    out = None if folder is None else Path(folder).expanduser()
    data_hash = train.rows_hash if isinstance(train, ExampleSplit) else None
    options: dict[str, Any] = {"folder": out, "progress": progress, "log": log or no_log}
    return train_click_model(plan, table, held_out, data_hash=data_hash, **options)


@check_arguments(skip=("models", "trials", "time", "seed"))
def tune_clicks(
    models: Any,
    train: Any,
    *,
    trials: int = 20,
    time: float | str | None = None,
    label: str = "label",
    folder: FilePath | None = None,
    storage: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
    log: Callable[[str], None] | None = None,
    **settings: Any,
) -> TuningResult:
    """Choose the settings of click-through models on validation rows.

    Each model has the same budget. The first trial of a model has its given and default settings; the others have
    values from the space that the settings of the model declare. The test part is not read. The same call continues an
    interrupted one.

    Args:
        models: a key, several keys, or a mapping from keys to settings, which are not searched.
        train: a split, or what :func:`load_examples` returns or reads, with parts.
        trials: number of trials of each model.
        time: time of the trials of each model, in seconds or as ``"10m"``; ``None``: no limit.
        label: column of the labels.
        folder: where trials and recipes are stored; ``None``: ``tune`` in the folder of the runs.
        storage: database of the trials: ``sqlite:///FILE``, or ``postgresql://...`` for several processes that work on
            the same trials; ``None``: a file in ``folder``.
        seed: of the models and of the values that are tried.
        device: a torch device, such as ``cuda``.
        progress: whether to draw progress bars.
        log: receives one line per trial, such as ``print``.
        settings: for all models, see :func:`train_clicks`; they are not searched. ``metric`` is ``auc`` or
            ``log_loss``.

    Returns:
        ``result.best`` is the model that is best on validation, with its ``settings``, the arguments of
        :func:`train_clicks`; ``result.table`` has all trials.

    Raises:
        ValueError: an unknown model or setting, a model without a search space, or a split without validation rows.
    """
    seed, device, budget = check_seed(seed), check_device(device), Budget(check_trials(trials), parse_duration(time))
    given = _settings_by_model(models)
    shared = {**settings, "run.seed": seed, "run.device": device, "examples.label": label}
    if not isinstance(train, ExampleSplit):
        modes = {_memory_mode(key, {**settings, **own}) for key, own in given.items()}
        table = _read(train, "train", modes.pop() if len(modes) == 1 else "all")
        if table.part_column is None:
            raise ValueError(f"train: {table.name} has no parts, expected a split: split_examples(table)")
        train = split_table(table, ExampleSplitSettings())
    plans, fixed = {}, {}
    for key, own in given.items():
        overrides = as_assignments({**shared, **own})
        plan = make_click_plan({"model": key, "data": train.train.name}, overrides)
        _check_no_split(plan)
        plans[key] = replace(plan, split=train.settings)
        fixed[key] = given_settings(key, overrides)
    check_click_plans(plans, fixed)
    out = runs_folder() / "tune" if folder is None else Path(folder).expanduser()
    options: dict[str, Any] = {"folder": out, "storage": storage, "progress": progress, "log": log or no_log}
    tuned = tune_click_plans(plans, fixed, train, budget, **options)
    return TuningResult(train.train.name, next(iter(plans.values())).metric, tuned)


def _check_no_split(plan: ClickPlan) -> None:
    if plan.split != ExampleSplitSettings():
        raise ValueError(
            "split: rows are split by split_examples, whose result is trained on; expected no such setting"
        )


def _settings_by_model(models: Any) -> dict[str, Mapping[str, Any]]:
    """Return the settings of each model by its key.

    Raises:
        ValueError: ``models`` is none of a key, several keys, and a mapping from keys to settings.
    """
    if isinstance(models, Mapping):
        found = dict(models)
    else:
        keys = [models] if isinstance(models, str) else list(models) if isinstance(models, list | tuple) else []
        found = {key: {} for key in keys} if all(isinstance(key, str) for key in keys) else {}
        if len(found) < len(keys):
            found = {}
    if not found or not all(isinstance(key, str) and isinstance(own, Mapping) for key, own in found.items()):
        raise ValueError(
            f"models: got {describe_value(models)}, expected the key of a model, several different ones, or a mapping "
            'such as {"deepfm": {"epochs": 5}}'
        )
    return found


@check_arguments()
def open_clicks(path: FilePath) -> ClickModel:
    """Open a click-through model: its folder, or the folder of its training.

    Raises:
        ValueError: there is no such model, or a file in it is broken.
    """
    return open_click_model(Path(path))


@check_arguments(skip=("seed",))
def evaluate_clicks(model: ClickModelLike, table: Any, *, seed: int = 0) -> ClickEvaluation:
    """Compute the metrics of a click-through model on labeled examples.

    AUC, UAUC and logarithmic loss have 95 % intervals.


    Args:
        model: a trained model, or its folder.
        table: what :func:`load_examples` returns or reads, such as ``split.test``.
        seed: of the bootstrap.

    Returns:
        a mapping with ``auc``, ``log_loss``, ``average_precision``, ``calibration_error`` and ``f1``; ``uauc`` and
        ``gauc`` if the table has users with both labels. Its ``reliability`` is a table of predicted probabilities and
        observed shares of positive rows, and ``uncalibrated`` the same before calibration.
    """
    return evaluate_click_model(_model(model), _table(table), check_seed(seed))


@check_arguments(skip=("seed",))
def compare_clicks(models: ClickModels, table: Any, *, baseline: str | None = None, seed: int = 0) -> ClickComparison:
    """Compare click-through models by paired tests of AUC and logarithmic loss.

    Args:
        models: two or more trained models or their folders, by name; a list of them, such as one per seed, is averaged.
        table: what :func:`load_examples` returns or reads, such as ``split.test``.
        baseline: test every other model against this one; ``None``: every pair.
        seed: of intervals and tests.
    """
    opened = {name: [_listed_model(name, one) for one in _as_list(model)] for name, model in models.items()}
    if empty := [name for name, repeated in opened.items() if not repeated]:
        raise ValueError(f"models: got no model for {empty[0]!r}, expected at least one")
    return compare_click_models(opened, _table(table), baseline, check_seed(seed))


def _as_list(models: Any) -> list[Any]:
    return list(models) if isinstance(models, list | tuple) else [models]


def _listed_model(name: Any, model: Any) -> ClickModel:
    if not isinstance(name, str) or not isinstance(model, ClickModel | str | Path):
        got = f"{name!r}: {describe_value(model)}"
        raise ValueError(f"models: got {got}, expected trained click-through models or their folders by name")
    return _model(model)


def _table(source: Any, name: str = "table", memory: MemoryMode = "auto") -> ExampleRows:
    """Read a table of one part.

    Raises:
        ValueError: the source is a split, or has parts.
    """
    if isinstance(source, ExampleSplit):
        raise ValueError(f"{name}: got a split, expected one of its parts, such as split.test")
    table = _read(source, name, memory)
    if table.part_column is not None:
        raise ValueError(f"{name}: {table.name} has given parts, expected one of them: split_examples(table).test")
    return table


def _read(source: Any, name: str, memory: MemoryMode = "auto") -> ExampleRows:
    try:
        return read_examples(source, memory=memory)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _memory_mode(name: str, settings: Mapping[str, Any]) -> MemoryMode:
    """Return where the rows of files are read to, as the settings say.

    It is ``all`` for models that cannot stream.
    """
    given = settings.get("memory", settings.get("run.memory"))
    overrides = [] if given is None else as_assignments({"run.memory": given})
    return make_click_plan({"model": name, "data": ""}, overrides).memory


def _model(model: ClickModelLike) -> ClickModel:
    check_not_forked("use a model")
    return model if isinstance(model, ClickModel) else open_click_model(Path(model))
