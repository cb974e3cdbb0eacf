"""All settings of one experiment, from defaults, a recipe and what was typed; in and out of TOML.

Later wins: defaults < recipe < assignments. What is not understood is refused, all faults at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from segue.core.config import Settings, assign, parse, suggest
from segue.core.registry import model_class
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.experiment.home import recipes_folder
from segue.training.train import Training

__all__ = ["Evaluation", "Plan", "Session", "Task", "find_recipe", "plan", "read_plan"]


class Task(Settings):
    """What is done: which model on which data."""

    model: str
    """Key of the model."""
    data: str
    """Name or address of the log."""
    columns: dict[str, str] | None = None
    """Columns of the log by the name Segue gives them, such as ``user = "customer"``."""
    target: str | None = None
    """The kind of action that is predicted; without it, every kind."""
    limit: Annotated[int, Field(ge=2)] | None = None
    """Only the first so many users: for trying out, not for results."""
    recipe: str | None = None
    """The recipe these settings started from."""


class Session(Settings):
    """How it is run."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Every random stream follows from it."""
    device: str = "cpu"
    """A torch device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""


class Evaluation(Settings):
    """What is measured on the held-out questions."""

    ks: tuple[Annotated[int, Field(ge=1)], ...] = (5, 10)
    """Lengths of the list at which metrics are taken."""
    metrics: tuple[str, ...] = ("recall", "precision", "hit_rate", "mrr", "ndcg")
    """Names of metrics."""
    repeats: Literal["remove", "keep"] = "remove"
    """Whether the items of a user's history are removed from his ranking, or stay: where people return to things."""
    baseline: str | None = "popular"
    """Key of the model that is measured beside this one; ``none`` for no such model."""


@dataclass(frozen=True)
class Plan:
    """The settings of one experiment, resolved."""

    task: Task
    run: Session
    filters: Filters
    split: SplitSettings
    model: Settings
    training: Training
    evaluation: Evaluation

    def values(self) -> dict[str, dict[str, Any]]:
        """All values as JSON holds them, by group."""
        return {field.name: getattr(self, field.name).model_dump(mode="json") for field in fields(self)}

    def fingerprint(self) -> str:
        """A hash of everything that decides the result; where a value came from does not count."""
        values = self.values()
        del values["task"]["recipe"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def board(self) -> str:
        """A hash of what makes figures comparable: the data, its filters, the split and what is ranked."""
        values = self.values()
        task = {key: value for key, value in values["task"].items() if key not in ("model", "recipe")}
        rules = [task, values["filters"], values["split"], values["evaluation"]["repeats"]]
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()

    def differences(self, other: Plan) -> list[str]:
        """``group.key: mine, theirs`` for every value in which two plans differ."""
        mine, theirs = self.values(), other.values()
        return [
            f"{group}.{key}: {mine[group].get(key)!r} here, {theirs[group].get(key)!r} there"
            for group in mine
            for key in sorted(mine[group].keys() | theirs[group].keys())
            if mine[group].get(key) != theirs[group].get(key) and (group, key) != ("task", "recipe")
        ]


def groups(model: str) -> dict[str, type[Settings]]:
    """The groups that recipes and ``--set`` may speak of."""
    return {
        "model": model_class(model).Config,
        "training": Training,
        "filters": Filters,
        "split": SplitSettings,
        "evaluation": Evaluation,
        "run": Session,
    }


def plan(task: Mapping[str, Any], assignments: Iterable[str] = (), recipe: str | Path | None = None) -> Plan:
    """The plan for ``task`` (``model``, ``data`` and what else :class:`Task` has).

    Args:
        assignments: texts ``group.key=value`` or ``key=value``.
        recipe: a TOML file; ``None``: the one that came with Segue for this model and data, if there is one;
            ``"none"``: no recipe.

    Raises:
        ValueError: every fault found, one per line.
    """
    kinds = groups(str(task["model"]))
    path = find_recipe(str(task["model"]), str(task["data"])) if recipe is None else Path(recipe)
    if recipe == "none":
        path = None
    faults: list[str] = []
    values: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    if path is not None:
        values = _recipe(path, str(task["model"]), kinds, faults)
    try:
        typed = assign(kinds, assignments)
    except ValueError as error:
        faults.append(str(error))
    else:
        values = {name: values[name] | typed[name] for name in kinds}
    return _parsed({**task, "recipe": None if path is None else _shown(path)}, kinds, values, faults)


def find_recipe(model: str, data: str) -> Path | None:
    """The recipe that came with Segue for this model on this data, if there is one."""
    path = recipes_folder() / Path(data.partition("?")[0]).stem / f"{model}.toml"
    return path if path.is_file() else None


def read_plan(path: Path) -> Plan:
    """The plan in a run's ``settings.toml``."""
    tables = _tables(path)
    task = tables.pop("task", {})
    if not {"model", "data"} <= task.keys():
        raise ValueError(f"{path}: [task] must name model and data")
    kinds = groups(str(task["model"]))
    faults = [f"{path}: unknown group '{name}'{suggest(name, kinds)}" for name in tables.keys() - kinds.keys()]
    return _parsed(task, kinds, {name: tables.get(name, {}) for name in kinds}, faults)


def _parsed(
    task: Mapping[str, Any],
    kinds: Mapping[str, type[Settings]],
    values: Mapping[str, Mapping[str, Any]],
    faults: list[str],
) -> Plan:
    settings: dict[str, Any] = {}
    every: dict[str, type[Settings]] = {"task": Task, **kinds}
    for name, kind in every.items():
        given = task if name == "task" else values[name]
        try:
            settings[name] = parse(kind, {key: _absent(kind, key, value) for key, value in given.items()}, name)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("\n".join(faults))
    return Plan(**settings)


def _absent(kind: type[Settings], key: str, value: Any) -> Any:
    """``None`` for the word ``none`` where the field may be absent: neither TOML nor a shell has a null."""
    field = kind.model_fields.get(key)
    return None if value == "none" and field is not None and NoneType in get_args(field.annotation) else value


def _recipe(
    path: Path, model: str, kinds: Mapping[str, type[Settings]], faults: list[str]
) -> dict[str, dict[str, Any]]:
    tables = _tables(path)
    of = tables.pop("task", {}).get("model", model)
    if of != model:
        faults.append(f"{path}: a recipe for '{of}', not for '{model}'")
    faults += [f"{path}: unknown group '{name}'{suggest(name, kinds)}" for name in tables.keys() - kinds.keys()]
    return {name: dict(tables.get(name, {})) for name in kinds}


def _tables(path: Path) -> dict[str, dict[str, Any]]:
    import tomllib

    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"recipe: no such file: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    loose = [name for name, table in tables.items() if not isinstance(table, dict)]
    if loose:
        raise ValueError(f"{path}: {', '.join(loose)}: expected in a group such as [training] or [model]")
    return tables


def _shown(path: Path) -> str:
    """The recipe's name as it is told and recorded: without the folder Segue is installed in."""
    folder = recipes_folder()
    return f"recipes/{path.relative_to(folder)}" if path.is_relative_to(folder) else str(path)
