"""``segue serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from segue.cli.console import Set, Terminal

__all__ = ["serve"]


def serve(
    context: typer.Context,
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, such as latest, or publications; the first answers.")
    ],
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="SEGUE_STORE",
            help="sqlite:///FILE, postgresql://... or redis://...; without it a file of its own under SEGUE_HOME.",
        ),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar="SEGUE_KEYS", help="Keys; segue keys add makes them.")
    ] = None,
    open_to_all: Annotated[bool, typer.Option("--open", help="Serve a public address without keys.")] = False,
    models: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Further publications that can be activated.")
    ] = None,
    experiments: Annotated[Path | None, typer.Option(metavar="FILE", help="Experiments, as JSON or TOML.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port and the store.")] = 1,
    log_format: Annotated[Literal["json", "text"], typer.Option(help="Of the log on standard error.")] = "text",
    set: Set = None,  # noqa: A002
) -> None:
    """Answer "what next?" over HTTP, with a page to try it at /.

    Without keys it listens on this machine alone.
    """
    from segue.core.config import assign, parse
    from segue.serving.server import Start, run
    from segue.serving.settings import Serving

    terminal = Terminal.of(context, False)
    settings = parse(Serving, assign({"serving": Serving}, set or [])["serving"], "serving")
    start = Start(
        folders=tuple(_publication(name, terminal) for name in runs),
        host=host,
        store=store,
        keys=keys,
        library=models,
        experiments=experiments,
        log_format=log_format,
        serving=settings,
    )
    run(start, port=port, open_to_all=open_to_all, workers=workers, say=terminal.say)


def _publication(name: str, terminal: Terminal) -> Path:
    """The publication of a run, which is made where there is none yet; or the one in this folder."""
    from segue.cli.export import published
    from segue.experiment.paths import find_run
    from segue.serving.artifacts.artifact import MANIFEST

    if (Path(name) / MANIFEST).exists():
        return Path(name)
    return published(find_run(name), say=terminal.say)
