"""Write the settings of a plan as a recipe, and describe them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomlkit

from segue.core.config import Settings
from segue.core.files import write_text
from segue.experiment.clicks.click_plan import ClickPlan, changed_values
from segue.experiment.plan import COMMENT_WIDTH, Plan

__all__ = ["changed_settings", "describe_values", "recipe_values", "write_recipe"]

GROUPS = ("model", "training", "filters", "text", "knowledge", "split", "evaluation")
"""Groups of a recipe; seed and device are not part of it."""


def changed_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from their defaults, as JSON holds them."""
    values = settings.model_dump(mode="json")
    fields = type(settings).model_fields
    return {name: values[name] for name in fields if getattr(settings, name) != fields[name].default}


def recipe_values(plan: Plan | ClickPlan) -> dict[str, dict[str, Any]]:
    """Return by group the settings of a recipe: those that differ from the defaults."""
    if not isinstance(plan, Plan):
        return changed_values(plan)
    found = {name: changed_settings(getattr(plan, name)) for name in GROUPS}
    return {name: changed for name, changed in found.items() if changed}


def write_recipe(path: Path, plan: Plan | ClickPlan, comments: Iterable[str]) -> None:
    """Write the settings of ``plan`` that differ from the defaults, atomically.

    ``segue train MODEL --recipe FILE`` reads the file, or ``segue clicks train`` for labeled examples.
    """
    document = tomlkit.document()
    for text in comments:
        for line in textwrap.wrap(text, COMMENT_WIDTH):
            document.add(tomlkit.comment(line))
    document.add(tomlkit.nl())
    document.add("task", tomlkit.item({"model": plan.task.model}))
    for name, changed in recipe_values(plan).items():
        document.add(tomlkit.nl())
        document.add(name, tomlkit.item({key: _to_toml(value) for key, value in changed.items()}))
    write_text(path, tomlkit.dumps(document))


def _to_toml(value: Any) -> Any:
    """Replace ``None``, for which TOML has no value, by the word ``none``.

    Mappings leave it out.
    """
    if isinstance(value, dict):
        return {key: _to_toml(inner) for key, inner in value.items() if inner is not None}
    return "none" if value is None else value


def describe_values(values: Mapping[str, Any] | None) -> str:
    """Return values by setting as one line.

    ``None`` stands for the settings that tuning starts from.
    """
    if values is None:
        return "settings that tuning starts from"
    return ", ".join(f"{name.partition('.')[2]}={_describe(value)}" for name, value in values.items())


def _describe(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
