"""``segue export``: publish a trained run as an artifact that a service can load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from segue.cli.console import Json, Terminal

__all__ = ["export"]


def export(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Name or folder of a run, such as latest, or of a saved model.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the artifact. [default: artifacts/NAME under SEGUE_HOME]"),
    ] = None,
    engine: Annotated[
        Literal["auto", "native", "onnx"],
        typer.Option(help="Inference engine; auto: onnx where it is available and ranks as the trained model does."),
    ] = "auto",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the model in requests. [default: the run's name]")
    ] = None,
    json: Json = False,
) -> None:
    """Export a trained run as an artifact to serve.

    An intact artifact of the same run is not rebuilt.
    """
    from segue.core.files import read_json
    from segue.experiment.publish import publish
    from segue.serving.artifacts.manifest import MANIFEST

    terminal = Terminal.from_context(context, json)
    folder = publish(run, out, engine=engine, name=name, log=terminal.log)
    manifest = read_json(folder / MANIFEST)
    if terminal.json:
        shown = ("name", "key", "version", "engine", "engine_note", "input_columns", "metadata")
        terminal.result({"folder": str(folder), **{key: manifest[key] for key in shown}})
        return
    note = f" ({manifest['engine_note']})" if manifest["engine_note"] else ""
    print(f"{folder}: {manifest['name']}, {manifest['key']} {manifest['version']}, engine {manifest['engine']}{note}")
