"""Recipes: settings that a model starts from on some data, as TOML; and finding ours."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from segue.core.config import suggest
from segue.experiment.paths import recipes_folder

__all__ = ["Groups", "find_recipe", "read_groups", "shown"]

Groups: TypeAlias = dict[str, dict[str, Any]]
"""Values by group and key."""


def find_recipe(model: str, data: str) -> Path | None:
    """The recipe that came with Segue for this model on this data, if there is one."""
    path = recipes_folder() / Path(data.partition("?")[0]).stem / f"{model}.toml"
    return path if path.is_file() else None


def read_groups(path: Path, known: Iterable[str], faults: list[str]) -> tuple[Groups, dict[str, Any]]:
    """The groups in ``path``, all of ``known`` among them, and the task they were written for, where it is told.

    Groups that are not known are added to ``faults``.

    Raises:
        ValueError: no such file, it is not TOML, or has values outside groups.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"recipe: no such file: {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    if loose := [name for name, table in tables.items() if not isinstance(table, dict)]:
        raise ValueError(f"{path}: {', '.join(loose)}: expected in a group such as [training] or [model]")
    task, names = tables.pop("task", {}), list(known)
    faults += [f"{path}: unknown group '{name}'{suggest(name, names)}" for name in tables if name not in names]
    return {name: tables.get(name, {}) for name in names}, task


def shown(path: Path) -> str:
    """The recipe's name as it is told and recorded: without the folder Segue is installed in."""
    folder = recipes_folder()
    return f"recipes/{path.relative_to(folder)}" if path.is_relative_to(folder) else str(path)
