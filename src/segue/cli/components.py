"""Commands that list components.

They are ``segue models``, ``losses``, ``samplers``, ``splits``, ``metrics``, ``sources`` and ``encoders``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli.console import Json, Terminal

if TYPE_CHECKING:
    from segue.experiment.describe import SettingInfo
    from segue.reports.tables import Table

__all__ = ["COMMANDS", "models"]

KINDS = {
    "losses": "List the losses of networks, or describe one.",
    "samplers": "List the samplers of negatives, or describe one.",
    "splits": "List the split strategies, or describe one.",
    "metrics": "List the metrics, or describe one.",
    "sources": "List the datasets known by name, or describe one.",
    "encoders": "List the text encoders, or describe one.",
}

Name = Annotated[str | None, typer.Argument(metavar="NAME", help="Describe this one in full, with its settings.")]


def models(context: typer.Context, name: Name = None, json: Json = False) -> None:
    """List the models, or describe one with all its settings."""
    from segue.experiment.describe import describe_model, describe_models

    terminal = Terminal.from_context(context, json)
    if name is None:
        found = describe_models()
        if terminal.json:
            terminal.result([_without(asdict(one), "description", "settings") for one in found])
            return
        from segue.reports.tables import Table

        rows = tuple((one.key, one.family, one.learns_from, one.summary, one.paper) for one in found)
        head = ("key", "family", "learns from", "description", "paper")
        terminal.table(Table("Models; segue models KEY lists the settings of one", head, rows, first_numeric=5))
        return
    info = describe_model(name)
    if terminal.json:
        terminal.result(asdict(info))
        return
    print(f"{info.key} ({info.family}; learns from {info.learns_from})\n\n{info.description}\n")
    terminal.table(_settings_table("Settings, as in --set model.KEY=VALUE", info.settings))
    training = (
        "trained by the training loop"
        if info.uses_training_settings
        else "a solver, which uses none of training.* but training.metric"
    )
    print(f"This model is {training}; all settings: segue train {info.key} --help")


def _component_command(kind: str, text: str) -> Callable[..., None]:
    """Build the command that lists one kind of component."""

    def command(context: typer.Context, name: Name = None, json: Json = False) -> None:
        from segue.experiment.describe import describe_component, list_components

        terminal = Terminal.from_context(context, json)
        if name is None:
            found = list_components(kind)
            if terminal.json:
                terminal.result([{"name": key, "description": summary} for key, summary in found.items()])
                return
            from segue.reports.tables import Table

            title = f"{kind.capitalize()}; segue {kind} NAME describes one"
            terminal.table(Table(title, ("name", "description"), tuple(found.items()), first_numeric=2))
            return
        description, settings = describe_component(kind, name)
        if terminal.json:
            terminal.result({"name": name, "description": description, "settings": [asdict(one) for one in settings]})
            return
        print(f"{name}\n\n{description}\n")
        if settings:
            terminal.table(_settings_table("Settings", settings))

    command.__name__ = kind
    command.__doc__ = text
    return command


COMMANDS = tuple(_component_command(kind, text) for kind, text in KINDS.items())
"""Commands of all kinds of components except models."""


def _settings_table(title: str, settings: tuple[SettingInfo, ...] | list[SettingInfo]) -> Table:
    from segue.reports.tables import Table

    rows = tuple((one.name, one.type, one.default, one.description) for one in settings)
    return Table(title, ("setting", "type", "default", "description"), rows, first_numeric=4)


def _without(record: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in record.items() if name not in names}
