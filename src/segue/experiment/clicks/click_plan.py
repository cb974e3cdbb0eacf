"""Resolve and store all settings of the training of a click-through model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import tomlkit
from annotated_types import Ge
from pydantic import AfterValidator

from segue.core.config import Settings, apply_overrides, parse
from segue.core.examples.calibration import CalibrationMethod
from segue.core.examples.settings import ExampleSettings
from segue.core.model import Solver
from segue.core.registry import model_class
from segue.data.examples.database import hide_password
from segue.data.examples.read import MemoryMode
from segue.data.examples.splits import ExampleSplitSettings
from segue.experiment.plan import format_group, read_groups, read_none
from segue.experiment.settings import TrackerText, unused_training
from segue.training.settings import Training
from segue.training.trackers.addresses import check_addresses
from segue.training.train import check_reads_examples
from segue.version import __version__

__all__ = [
    "GROUPS",
    "ClickPlan",
    "ClickRunSettings",
    "ClickTask",
    "changed_values",
    "given_settings",
    "make_click_plan",
    "read_click_plan",
]

TRAINING_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"batch_size": 4_096, "epochs": 30, "patience": 3, "metric": "auc"}
)
"""Settings of training that differ from those of other networks, as examples are small."""

METRICS = ("auc", "log_loss")
"""Validation metrics that can choose the best epoch."""


class ClickTask(Settings):
    """Which model is trained on which data."""

    model: str
    """Key of the model."""
    data: str
    """Name or address of the examples."""
    query: str | None = None
    """SQL query, if the data is a database."""
    separator: str | None = None
    """What separates the columns of delimited text; by default it is detected."""
    valid: str | None = None
    """File of the validation examples, if they are separate."""
    test: str | None = None
    """File of the test examples, if they are separate."""


class ClickRunSettings(Settings):
    """How the model is trained."""

    seed: Annotated[int, Ge(0)] = 0
    """Seed of all random choices of the training."""
    device: str = "cpu"
    """Device of torch: ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    memory: MemoryMode = "auto"
    """Where rows are: ``all`` reads them into memory; ``streamed`` leaves them in Parquet files, whose row groups are
    read in random order, and trains networks alone; ``auto`` streams for networks if the files have more than 2 GiB."""
    buffer_rows: Annotated[int, Ge(1)] = 2_000_000
    """Encoded rows in memory among which streamed rows are shuffled, at least one row group; up to as many rows of
    validation stay in memory, too."""
    calibration: CalibrationMethod | None = None
    """How probabilities are calibrated on the validation examples: ``platt``, ``temperature``, ``isotonic`` or none."""
    track: Annotated[tuple[TrackerText, ...], AfterValidator(check_addresses)] = ()
    """Trackers of ``segue clicks train``: ``tensorboard``, ``mlflow:URI``, ``wandb:PROJECT`` and others, as those of
    ``segue train``. Passwords are not stored."""


@dataclass(frozen=True)
class ClickPlan:
    """The resolved settings of one training."""

    task: ClickTask
    examples: ExampleSettings
    split: ExampleSplitSettings
    model: Settings
    training: Training
    run: ClickRunSettings

    @property
    def metric(self) -> str:
        """The validation metric, which chooses the best epoch and the best trial."""
        return str(self.training.metric)

    @property
    def memory(self) -> MemoryMode:
        """Where the rows are read to; models that cannot stream need them in memory."""
        is_solver = issubclass(model_class(self.task.model), Solver)
        return "all" if self.run.memory == "auto" and is_solver else self.run.memory

    def values(self) -> dict[str, dict[str, Any]]:
        """Return all values as JSON holds them, by group.

        Passwords of databases are left out.
        """
        found = {field.name: getattr(self, field.name).model_dump(mode="json") for field in fields(self)}
        addresses = {name: hide_password(found["task"][name]) for name in ("data", "valid", "test")
                     if found["task"][name] is not None}  # fmt: skip
        return {**found, "task": {**found["task"], **addresses}}

    def to_toml(self) -> str:
        """Format all settings as TOML, each below its documentation; see :meth:`values`."""
        document = tomlkit.document()
        document.add(tomlkit.comment(f"Every setting of this training, as resolved by Segue {__version__}."))
        for name, values in self.values().items():
            document.add(tomlkit.nl())
            document.add(name, format_group(getattr(self, name), values))
        return tomlkit.dumps(document)


GROUPS: Mapping[str, type[Settings]] = MappingProxyType(
    {"training": Training, "examples": ExampleSettings, "split": ExampleSplitSettings, "run": ClickRunSettings}
)
"""Groups of settings that all models share."""


def _groups(model: str) -> dict[str, type[Settings]]:
    return {"model": model_class(model).Config, **GROUPS}


def make_click_plan(
    task: Mapping[str, Any], overrides: Iterable[str] = (), base: Mapping[str, Mapping[str, Any]] | None = None
) -> ClickPlan:
    """Resolve the settings of a training.

    Args:
        task: values of :class:`ClickTask`, at least ``model`` and ``data``.
        overrides: texts ``group.key=value`` or ``key=value``.
        base: values by group that the overrides change; ``None``: the defaults.

    Raises:
        ValueError: the model is not trained on examples, or a setting is unknown, invalid or not read; one error per
            line.
    """
    key = str(task["model"])
    check_reads_examples(key)
    groups = _groups(key)
    errors: list[str] = []
    unused = {"training": unused_training(key), "model": _unused_of_model(key)}
    texts = list(overrides)
    for text in [one for one in texts if one.partition("=")[0].strip() in unused["model"]]:
        name = text.partition("=")[0].strip()
        errors.append(f"{name}: {unused['model'][name]}")
        texts.remove(text)
    given = apply_overrides(groups, texts, errors, unused)
    for group, reasons in unused.items():
        errors += [f"{group}.{name}: {reasons[name]}" for name in given[group] if name in reasons]
    values = {name: dict((base or {}).get(name, {})) | given[name] for name in groups}
    values["training"] = {**_training_defaults(key), **values["training"]}
    settings: dict[str, Any] = {}
    every: dict[str, type[Settings]] = {"task": ClickTask, **groups}
    for name, kind in every.items():
        found = task if name == "task" else values[name]
        try:
            settings[name] = parse(kind, {one: read_none(kind, one, value) for one, value in found.items()}, name)
        except ValueError as error:
            errors.append(str(error))
    if not errors and settings["training"].metric not in METRICS:
        got = settings["training"].metric
        errors.append(f"training.metric: got '{got}', expected {' or '.join(METRICS)} for labeled examples")
    if errors:
        raise ValueError("\n".join(errors))
    return ClickPlan(**settings)


def _training_defaults(key: str) -> Mapping[str, Any]:
    """Return the settings of training whose defaults differ from those on a log.

    Other models than networks read the metric alone.
    """
    is_network = not issubclass(model_class(key), Solver)
    return TRAINING_DEFAULTS if is_network else {"metric": TRAINING_DEFAULTS["metric"]}


def given_settings(key: str, overrides: Iterable[str]) -> list[str]:
    """Return the settings that overrides of a model give, such as ``model.dropout``."""
    unused = {"training": unused_training(key), "model": _unused_of_model(key)}
    given = apply_overrides(_groups(key), list(overrides), [], unused)
    return [f"{group}.{name}" for group, values in given.items() for name in values]


def changed_values(plan: ClickPlan) -> dict[str, dict[str, Any]]:
    """Return by group the values of a recipe: those that are not the defaults.

    Seed, device and trackers are not part of it.
    """
    task = {"model": plan.task.model, "data": plan.task.data}
    every, defaults = plan.values(), make_click_plan(task).values()
    found = {
        group: {name: value for name, value in every[group].items() if value != defaults[group][name]}
        for group in ("model", *GROUPS)
    }
    found["run"] = {name: value for name, value in found["run"].items() if name not in ("seed", "device", "track")}
    return {group: values for group, values in found.items() if values}


def _unused_of_model(key: str) -> dict[str, str]:
    reason = f"'{key}' uses this setting only if it is trained on an interaction log, not on labeled examples"
    return dict.fromkeys(model_class(key).settings_of_logs, reason)


def read_click_plan(path: Path, task: Mapping[str, Any], overrides: Iterable[str] = ()) -> ClickPlan:
    """Read the settings of an earlier training, and change some of them.

    Args:
        path: a file such as ``training.toml`` of a saved model.
        task: values of :class:`ClickTask` that replace those of the file.
        overrides: as in :func:`make_click_plan`.

    Raises:
        ValueError: the file is missing or malformed, or a setting is invalid.
    """
    stored = read_groups(path, (), [])[1]
    task = {**stored, **task}
    if not {"model", "data"} <= task.keys():
        raise ValueError(f"{path}: [task] has {', '.join(task) or 'no keys'}, expected at least model and data")
    errors: list[str] = []
    groups = _groups(str(task["model"]))
    values = read_groups(path, groups, errors)[0]
    if errors:
        raise ValueError("\n".join(errors))
    return make_click_plan(task, overrides, values)
