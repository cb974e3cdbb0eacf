"""Resolve all settings of one experiment, and store them as TOML.

Later wins: defaults < recipe < overrides. Unknown settings are rejected, all errors at once. A recipe is a TOML file of
settings for a model on some data; Segue ships several.
"""

from __future__ import annotations

import hashlib
import json
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, TypeAlias, get_args

import tomlkit
from tomlkit.items import Table

from segue.core.config import Settings, apply_overrides, parse, suggest
from segue.core.registry import model_class
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.experiment.paths import recipes_folder
from segue.experiment.protocols.presets import PROTOCOLS, Origin, check_protocol
from segue.experiment.settings import (
    EvaluationSettings,
    RunSettings,
    TaskSettings,
    setting_groups,
    unused_settings,
    unused_training,
)
from segue.features.knowledge.derive import KnowledgeSettings
from segue.features.text.settings import TextSettings
from segue.training.train import Training
from segue.version import __version__

__all__ = [
    "Plan",
    "find_recipe",
    "format_group",
    "format_plan",
    "make_plan",
    "read_groups",
    "read_none",
    "read_plan",
    "resolve_overrides",
]

COMMENT_WIDTH = 100

Groups: TypeAlias = dict[str, dict[str, Any]]
"""Values by group and key."""


@dataclass(frozen=True)
class Plan:
    """The resolved settings of one experiment."""

    task: TaskSettings
    run: RunSettings
    filters: Filters
    text: TextSettings
    knowledge: KnowledgeSettings
    split: SplitSettings
    model: Settings
    training: Training
    evaluation: EvaluationSettings

    @property
    def metric(self) -> str:
        """The validation metric that chooses the best state of training."""
        return self.training.metric or model_class(self.task.model).validation_metric

    def values(self) -> Groups:
        """Return all values as JSON holds them, by group."""
        return {field.name: getattr(self, field.name).model_dump(mode="json") for field in fields(self)}

    def fingerprint(self) -> str:
        """Hash everything that determines the result.

        The origin of a value does not matter.
        """
        values = self.values()
        del values["task"]["recipe"]
        del values["run"]["track"]
        if self.evaluation.protocol is None:  # as before protocols had names
            del values["evaluation"]["protocol"]
        if not self.text.user_columns:  # as before there were texts of users
            del values["text"]["user_columns"]
        if not (self.text.columns or self.text.user_columns):  # settings without effect
            del values["text"]
        if not self.knowledge.columns:
            del values["knowledge"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def comparison_key(self) -> str:
        """Hash the values that must be equal for metrics to be comparable.

        These are the data, its filters, the split and which items are ranked.
        """
        values = self.values()
        task = {key: value for key, value in values["task"].items() if key not in ("model", "recipe")}
        evaluation = self.evaluation
        rules = [task, values["filters"], values["split"], evaluation.exclude_seen]
        rules += [] if evaluation.items == "all" else [evaluation.items, evaluation.warm_items]
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()

    def diff(self, other: Plan) -> list[str]:
        """Return one line per value in which two plans differ."""
        mine, theirs = self.values(), other.values()
        return [
            f"{group}.{key}: {mine[group].get(key)!r} here, {theirs[group].get(key)!r} there"
            for group in mine
            for key in sorted(mine[group].keys() | theirs[group].keys())
            if mine[group].get(key) != theirs[group].get(key)
            and (group, key) not in (("task", "recipe"), ("run", "track"))
        ]


def make_plan(task: Mapping[str, Any], overrides: Iterable[str] = (), recipe: str | Path | None = None) -> Plan:
    """Resolve the settings of an experiment.

    Args:
        task: values of :class:`TaskSettings`, at least ``model`` and ``data``.
        overrides: texts ``group.key=value`` or ``key=value``.
        recipe: a TOML file; ``None``: the recipe that Segue ships for this model and data, if there is one; ``"none"``:
            no recipe.

    Raises:
        ValueError: every error found, one per line.
    """
    groups = setting_groups(str(task["model"]))
    path = find_recipe(str(task["model"]), str(task["data"])) if recipe is None else Path(recipe).expanduser()
    if recipe == "none":
        path = None
    errors: list[str] = []
    values: Groups = {name: {} for name in groups}
    if path is not None:
        values, recipe_task = read_groups(path, groups, errors)
        if (model := recipe_task.get("model", task["model"])) != task["model"]:
            errors.append(f"{path}: a recipe for '{model}', expected one for '{task['model']}'")
    split = _protocol_values(values["evaluation"])["split"] | values["split"]
    overridden = resolve_overrides([str(task["model"])], overrides, errors, split)
    for group, of_protocol in _protocol_values(values["evaluation"] | overridden["evaluation"]).items():
        values[group] = of_protocol | _without_defaults(groups[group], values[group])
    for name, reason in unused_training(str(task["model"])).items():
        field = Training.model_fields[name]
        if values["training"].get(name, field.default) != field.default:  # a run's settings hold every default
            errors.append(f"{path}: training.{name}: {reason}")
        if name in overridden["training"]:
            errors.append(f"training.{name}: {reason}")
    values = {name: values[name] | overridden[name] for name in groups}

    def origin(group: str, key: str) -> str:
        return "" if path is None or key in overridden[group] else f" in {path}"

    task = {**task, "recipe": None if path is None else _recipe_name(path)}
    return _parse_plan(task, groups, values, errors, origin)


def _protocol_values(evaluation: Mapping[str, Any]) -> Groups:
    """Return what the protocol among evaluation settings sets, by group.

    Nothing without a known protocol.
    """
    name = evaluation.get("protocol")
    return PROTOCOLS[name].values if isinstance(name, str) and name in PROTOCOLS else {"split": {}, "evaluation": {}}


def _without_defaults(kind: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out values that are defaults.

    A run's settings, used as a recipe, hold every default.
    """
    return {key: value for key, value in values.items() if _value(kind, key) != value}


def _value(kind: type[Settings], key: str) -> Any:
    """Return the default of a setting as TOML holds it."""
    default = kind.model_fields[key].default if key in kind.model_fields else None
    return list(default) if isinstance(default, tuple) else default


def resolve_overrides(
    models: Sequence[str],
    overrides: Iterable[str],
    errors: list[str] | None = None,
    split: Mapping[str, Any] = MappingProxyType({}),
) -> Groups:
    """Parse overrides of settings; a bare key belongs to the group that uses it.

    Args:
        models: their keys; the group ``model`` has the settings of the first.
        errors: collects the errors instead of raising them.
        split: settings of the split before the overrides.
    """
    groups, texts = setting_groups(models[0]), list(overrides)
    given = apply_overrides(groups, texts, [])
    split = {**split, **_protocol_values(given["evaluation"])["split"], **given["split"]}
    strategy = split.get("strategy", SplitSettings.model_fields["strategy"].default)
    return apply_overrides(groups, texts, errors, unused_settings(models, strategy))


def read_plan(path: Path) -> Plan:
    """Read the plan in a run's ``settings.toml``."""
    task = read_groups(path, (), [])[1]
    if not {"model", "data"} <= task.keys():
        raise ValueError(f"{path}: [task] has {', '.join(task) or 'no keys'}, expected at least model and data")
    groups, errors = setting_groups(str(task["model"])), list[str]()
    return _parse_plan(task, groups, read_groups(path, groups, errors)[0], errors)


def find_recipe(model: str, data: str) -> Path | None:
    """Find the recipe that Segue ships for this model on this data, if there is one."""
    path = recipes_folder() / Path(data.partition("?")[0]).stem / f"{model}.toml"
    return path if path.is_file() else None


def format_plan(plan: Plan) -> str:
    """Format all resolved settings as TOML, each below its documentation.

    The text reproduces the experiment even after defaults have changed.
    """
    document = tomlkit.document()
    document.add(tomlkit.comment(f"Every setting of this run, as resolved by Segue {__version__}."))
    for name, values in plan.values().items():
        document.add(tomlkit.nl())
        document.add(name, format_group(getattr(plan, name), values))
    return tomlkit.dumps(document)


def format_group(settings: Settings, values: dict[str, Any]) -> Table:
    """Return a group of settings as TOML, each value below its documentation."""
    table = tomlkit.table()
    for key, field in type(settings).model_fields.items():
        for line in textwrap.wrap(" ".join((field.description or "").split()), COMMENT_WIDTH):
            table.add(tomlkit.comment(line))
        value = values[key]
        if value is None and field.default is None:
            table.add(tomlkit.comment(f"{key} is not set"))
        else:
            table.add(key, "none" if value is None else _drop_none(value))
    return table


def _drop_none(value: Any) -> Any:
    """Drop values that are ``None``, which TOML cannot represent."""
    if isinstance(value, dict):
        inline = tomlkit.inline_table()
        inline.update({key: _drop_none(inner) for key, inner in value.items() if inner is not None})
        return inline
    return value


def read_groups(path: Path, known: Iterable[str], errors: list[str]) -> tuple[Groups, dict[str, Any]]:
    """Read the groups ``known`` and the task, if any, from a TOML file.

    Unknown groups are added to ``errors``.

    Raises:
        ValueError: no such file, not TOML, or values outside groups.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"recipe: no such file: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    if ungrouped := [name for name, table in tables.items() if not isinstance(table, dict)]:
        raise ValueError(f"{path}: {', '.join(ungrouped)}: expected in a group such as [training] or [model]")
    task, names = tables.pop("task", {}), list(known)
    errors += [f"{path}: unknown group '{name}'{suggest(name, names)}" for name in tables if name not in names]
    return {name: tables.get(name, {}) for name in names}, task


def _recipe_name(path: Path) -> str:
    """Return a recipe's name for the record, without the folder of Segue."""
    folder = recipes_folder()
    return f"recipes/{path.relative_to(folder)}" if path.is_relative_to(folder) else str(path)


def _parse_plan(
    task: Mapping[str, Any],
    groups: Mapping[str, type[Settings]],
    values: Mapping[str, Mapping[str, Any]],
    errors: list[str],
    origin: Origin | None = None,
) -> Plan:
    settings: dict[str, Any] = {}
    every: dict[str, type[Settings]] = {"task": TaskSettings, **groups}
    for name, kind in every.items():
        given = task if name == "task" else values[name]
        try:
            settings[name] = parse(kind, {key: read_none(kind, key, value) for key, value in given.items()}, name)
        except ValueError as error:
            errors.append(str(error))
    if not errors and getattr(settings["model"], "mask_seen", False) and not settings["evaluation"].exclude_seen:
        errors.append(
            "model.mask_seen: true with evaluation.exclude_seen false, expected false: the model does not learn "
            "to rank seen items"
        )
    if not errors:
        errors += check_protocol(settings["evaluation"], settings["split"], origin)
    if errors:
        raise ValueError("\n".join(errors))
    return Plan(**settings)


def read_none(kind: type[Settings], key: str, value: Any) -> Any:
    """Read the word ``none`` as ``None`` where the field allows it.

    Neither TOML nor a shell has a null.
    """
    field = kind.model_fields.get(key)
    return None if value == "none" and field is not None and NoneType in get_args(field.annotation) else value
