"""``segue serve``: serve trained models over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from segue.cli.console import Set, Terminal

__all__ = ["serve"]


def serve(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs, such as latest, saved models or artifacts, or models of segue clicks; the first one is active.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 8000,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="SEGUE_STORE",
            help="Event store: sqlite:///FILE, postgresql://... or redis://... [default: a file under SEGUE_HOME]",
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="SEGUE_KEYS", help="File of API keys, which segue keys add creates."),
    ] = None,
    open_to_all: Annotated[bool, typer.Option("--open", help="Allow a public address without API keys.")] = False,
    models: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of further model artifacts that can be activated.")
    ] = None,
    experiments: Annotated[Path | None, typer.Option(metavar="FILE", help="A/B experiments, as JSON or TOML.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port and the store.")] = 1,
    log_format: Annotated[Literal["json", "text"], typer.Option(help="Format of the log on standard error.")] = "text",
    set: Set = None,  # noqa: A002
) -> None:
    """Serve recommendations over HTTP, with a web UI at /.

    Click-through models of segue clicks serve predictions of rows, without a UI.

    Without API keys it listens on this machine only.
    """
    from segue.core.config import apply_overrides, parse
    from segue.serving.server import ServerConfig, run
    from segue.serving.settings import ServingSettings

    terminal = Terminal.from_context(context, False)
    settings = parse(ServingSettings, apply_overrides({"serving": ServingSettings}, set or [])["serving"], "serving")
    config = ServerConfig(
        folders=tuple(_find_artifact(name, terminal) for name in runs),
        host=host,
        store=store,
        keys=keys,
        library=models,
        experiments=experiments,
        log_format=log_format,
        serving=settings,
    )
    run(config, port=port, allow_open=open_to_all, workers=workers, log=terminal.log)


def _find_artifact(name: str, terminal: Terminal) -> Path:
    """Return the folder to serve; the artifact of a run is built if necessary."""
    from segue.experiment.publish import find_served_folder, publish

    folder = find_served_folder(name)
    return publish(name, log=terminal.log) if folder is None else folder
