"""The application and its commands.

Each module of this package holds a group of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from segue.cli import (
    abtest,
    audit,
    clicks,
    components,
    data,
    doctor,
    evaluate,
    export,
    keys,
    predict,
    recommend,
    report,
    runs,
    serve,
    study,
    train,
    tune,
)
from segue.cli.console import Command, Json, expand_paths
from segue.version import __version__

__all__ = ["app"]

app = typer.Typer(
    help="Recommender systems from user-item interaction logs: train, compare, recommend, serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"segue {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    context: typer.Context,
    json: Json = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train, compare and serve recommender systems from interaction logs."""
    context.obj = json


app.add_typer(data.app, name="data")
app.add_typer(clicks.app, name="clicks")
app.add_typer(keys.app, name="keys")
app.command(cls=train.TrainCommand)(expand_paths(train.train))
COMMANDS: tuple[Callable[..., Any], ...] = (
    evaluate.evaluate,
    evaluate.compare,
    evaluate.cross_validate,
    audit.baselines,
    audit.audit,
    tune.tune,
    tune.auto,
    abtest.off_policy,
    study.study,
    recommend.recommend,
    predict.rank,
    recommend.similar,
    predict.predict,
    predict.explain,
    export.export,
    export.add_items,
    serve.serve,
    abtest.abtest,
    report.report,
    runs.runs,
    runs.verify,
    components.models,
    *components.COMMANDS,
    doctor.doctor,
)
for command in COMMANDS:
    app.command()(expand_paths(command))
for group in (app, data.app, clicks.app, keys.app):
    for registered in group.registered_commands:
        if not issubclass(registered.cls or TyperCommand, Command):
            registered.cls = Command
