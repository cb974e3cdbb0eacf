"""``segue export`` and ``segue add-items``: prepare a trained model for a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from segue.cli.console import Json, Terminal

__all__ = ["add_items", "export"]


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


def add_items(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Name or folder of a run, such as latest, or of a saved model.")
    ],
    items: Annotated[
        Path,
        typer.Argument(metavar="ITEMS", help="Table with id or item_id and item features: Parquet, JSON lines, CSV."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the model with the items.")],
    json: Json = False,
) -> None:
    """Add items without events, with their text and features, to a trained model.

    The result is a saved model: segue recommend, export and serve take its folder.
    """
    import segue

    terminal = Terminal.from_context(context, json)
    model = segue.open(run)
    extended = segue.add_items(model, items, log=terminal.log)
    segue.save(extended, out)
    if terminal.json:
        terminal.result(
            {"folder": str(out), "items": len(extended.items), "added": len(extended.items) - len(model.items)}
        )
        return
    print(f"{out}: {len(extended.items):,} items")
