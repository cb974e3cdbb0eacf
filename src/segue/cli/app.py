"""The application and its verbs; each file beside this one holds a group of them."""

from __future__ import annotations

from typing import Annotated

import typer

from segue import __version__
from segue.cli import abtest, data, doctor, evaluate, export, keys, recommend, runs, serve, train
from segue.cli.console import Json

__all__ = ["app"]

app = typer.Typer(
    help="From a log of who did what and when to recommendations: train, compare, ask.",
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
def everywhere(
    context: typer.Context,
    json: Json = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """From a log of who did what and when to recommendations: train, compare, ask."""
    context.obj = json


app.add_typer(data.app, name="data")
app.add_typer(keys.app, name="keys")
for verb in (
    train.train,
    evaluate.evaluate,
    evaluate.compare,
    recommend.recommend,
    recommend.similar,
    export.export,
    serve.serve,
    abtest.abtest,
    runs.runs,
    runs.verify,
):
    app.command()(verb)
app.command()(doctor.doctor)
