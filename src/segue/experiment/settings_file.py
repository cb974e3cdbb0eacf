"""Settings as a TOML text in which every value stands beside its documentation."""

from __future__ import annotations

import textwrap
from typing import Any

import tomlkit
from tomlkit.items import Table

from segue import __version__
from segue.core.config import Settings
from segue.experiment.plan import Plan

__all__ = ["write_plan"]

WIDTH = 100


def write_plan(plan: Plan) -> str:
    """The whole plan, fully resolved: what repeats the experiment wherever defaults have moved since."""
    document = tomlkit.document()
    document.add(tomlkit.comment(f"Every setting of this run, as Segue {__version__} resolved it."))
    for name, values in plan.values().items():
        document.add(tomlkit.nl())
        document.add(name, _table(getattr(plan, name), values))
    return tomlkit.dumps(document)


def _table(settings: Settings, values: dict[str, Any]) -> Table:
    table = tomlkit.table()
    for key, field in type(settings).model_fields.items():
        for line in textwrap.wrap(" ".join((field.description or "").split()), WIDTH):
            table.add(tomlkit.comment(line))
        value = values[key]
        if value is None and field.default is None:
            table.add(tomlkit.comment(f"{key} is not set"))
        else:
            table.add(key, "none" if value is None else _plain(value))
    return table


def _plain(value: Any) -> Any:
    """Without what is absent, which TOML cannot hold."""
    if isinstance(value, dict):
        inline = tomlkit.inline_table()
        inline.update({key: _plain(inner) for key, inner in value.items() if inner is not None})
        return inline
    return value
