"""``segue export``: a trained run as a publication, which a service can load.

Publications are beside the runs, in ``publications`` under ``SEGUE_HOME``, and not inside them: a run is sealed by its
manifest, and what it may be published as changes with what is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segue.cli.console import Json, Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["export", "publications_folder", "published"]

Engine = Literal["auto", "native", "onnx"]


def export(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or name of a run, such as latest.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to; without it publications/NAME under SEGUE_HOME.")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="What computes; auto: onnx where it can be had and ranks as the trained model does.")
    ] = "auto",
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What requests call it; the run's name.")] = None,
    json: Json = False,
) -> None:
    """Make a trained run ready to be served.

    What is there already and intact is left alone.
    """
    from segue.core.files import read_json
    from segue.experiment.paths import find_run
    from segue.serving.artifacts.manifest import MANIFEST

    terminal = Terminal.of(context, json)
    folder = published(find_run(run), out=out, engine=engine, name=name, say=terminal.say)
    about = read_json(folder / MANIFEST)
    if terminal.json:
        told = ("name", "key", "version", "engine", "engine_note", "columns", "facts")
        terminal.result({"folder": str(folder), **{key: about[key] for key in told}})
        return
    why = f" ({about['engine_note']})" if about["engine_note"] else ""
    print(f"{folder}: {about['name']}, {about['key']} {about['version']}, engine {about['engine']}{why}")


def publications_folder() -> Path:
    """``publications``, beside the folder of runs."""
    from segue.experiment.paths import runs_folder

    return runs_folder().parent / "publications"


def published(
    run: Path,
    *,
    out: Path | None = None,
    engine: Engine = "auto",
    name: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """The publication of the run in this folder, which is made unless it is there and intact.

    Args:
        out: where it is; none: see :func:`publications_folder`.
        engine: a publication that is there is kept if it has this one, and with ``auto`` whatever it has.
        name: what requests call it; none: as the run's folder.
        say: told what is done, and what cannot be had.

    Raises:
        ValueError: the run has no bundle, or see :func:`segue.serving.artifacts.artifact.publish`.
    """
    from segue.core.bundle import load, verify
    from segue.serving.artifacts.artifact import publish

    run = run.resolve()
    name = run.name if name is None else name
    folder = publications_folder() / name if out is None else out
    if not (run / "bundle" / "bundle.json").exists():
        raise ValueError(f"{run}: not finished: it has no bundle")
    if faults := verify(run / "bundle"):
        raise ValueError("\n".join(faults))
    trained = load(run / "bundle")
    if _intact(folder, name, trained.facts["sha256"]["arrays.safetensors"], engine):
        return folder
    say(f"publishing {run} to {folder}")
    publish(name, trained, _histories(run, say), folder, engine=engine, facts=_facts(run))
    return folder


def _intact(folder: Path, name: str, arrays: str, engine: Engine) -> bool:
    from segue.core.files import read_json, settle
    from segue.serving.artifacts.manifest import ARRAYS, FORMAT, MANIFEST, verify

    settle(folder)
    if not (folder / MANIFEST).exists():
        return False
    about = read_json(folder / MANIFEST)
    expected = {"format": FORMAT, "name": name, "engine": about["engine"] if engine == "auto" else engine}
    same = {key: about[key] for key in expected} == expected
    return same and about["sha256"].get(ARRAYS) == arrays and not verify(folder)


def _histories(run: Path, say: Callable[[str], None]) -> Any:
    """The whole histories of the run's data; none where the data is gone."""
    from segue.experiment.data import reopen

    try:
        return reopen(run).histories
    except ValueError as error:
        say(f"note: published without histories, so nobody is known by id and no item has neighbours: {error}")
        return None


def _facts(run: Path) -> dict[str, Any]:
    """What a service tells of the model."""
    from segue.core.files import read_json
    from segue.experiment.run_folder import METRICS

    record = read_json(run / METRICS) if (run / METRICS).exists() else {}
    measured = {
        name: value for name in record.get("intervals", {}) if isinstance(value := record.get(name), int | float)
    }
    told = {
        "data": record.get("data"),
        "trained": record.get("date"),
        "segue": record.get("segue"),
        "metrics": measured,
    }
    return {"run": run.name, **{key: value for key, value in told.items() if value not in (None, {})}}
