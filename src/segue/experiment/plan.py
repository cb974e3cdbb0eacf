"""All settings of one experiment, from defaults, a recipe and what was typed.

Later wins: defaults < recipe < assignments. What is not understood is refused, all faults at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from segue.core.config import Settings, assign, parse
from segue.core.registry import model_class
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.experiment.recipe import Groups, find_recipe, read_groups, shown
from segue.experiment.settings import Evaluation, Session, Task, groups
from segue.training.train import Training

__all__ = ["Plan", "plan", "read_plan"]


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

    @property
    def metric(self) -> str:
        """The validation metric that chooses the best state of training."""
        return self.training.metric or model_class(self.task.model).chooser

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
    values: Groups = {name: {} for name in kinds}
    if path is not None:
        values, meant = read_groups(path, kinds, faults)
        if (of := meant.get("model", task["model"])) != task["model"]:
            faults.append(f"{path}: a recipe for '{of}', not for '{task['model']}'")
    typed = assign(kinds, assignments, faults)
    values = {name: values[name] | typed[name] for name in kinds}
    return _parsed({**task, "recipe": None if path is None else shown(path)}, kinds, values, faults)


def read_plan(path: Path) -> Plan:
    """The plan in a run's ``settings.toml``."""
    task = read_groups(path, (), [])[1]
    if not {"model", "data"} <= task.keys():
        raise ValueError(f"{path}: [task] must name model and data")
    kinds, faults = groups(str(task["model"])), list[str]()
    return _parsed(task, kinds, read_groups(path, kinds, faults)[0], faults)


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
    if not faults and getattr(settings["model"], "mask_seen", False) and settings["evaluation"].repeats == "keep":
        faults.append(
            "model.mask_seen: true with evaluation.repeats 'keep', expected false: what is not learned cannot be ranked"
        )
    if faults:
        raise ValueError("\n".join(faults))
    return Plan(**settings)


def _absent(kind: type[Settings], key: str, value: Any) -> Any:
    """``None`` for the word ``none`` where the field may be absent: neither TOML nor a shell has a null."""
    field = kind.model_fields.get(key)
    return None if value == "none" and field is not None and NoneType in get_args(field.annotation) else value
