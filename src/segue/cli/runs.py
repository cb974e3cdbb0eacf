"""``segue runs`` and ``segue verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.cli.console import Json, Terminal

__all__ = ["runs", "verify"]


def runs(
    context: typer.Context,
    data: Annotated[str | None, typer.Option(metavar="D", help="Only runs on this data.")] = None,
    json: Json = False,
) -> None:
    """List all runs and what came of them."""
    from segue.experiment.run_history import listed

    terminal = Terminal.of(context, json)
    records = [record for record in listed() if data in (None, record["data"])]
    if terminal.json:
        terminal.result(records)
        return
    from segue.cli.tables import history

    terminal.table(history(records))


def verify(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or name of a run, such as latest.")],
    json: Json = False,
) -> None:
    """Check every file of a run against its hash.

    The exit status is 1 if one differs.
    """
    from segue.experiment.paths import find_run
    from segue.experiment.run_folder import verify as check

    terminal = Terminal.of(context, json)
    folder = find_run(run)
    faults = check(folder)
    if terminal.json:
        terminal.result({"run": folder.name, "intact": not faults, "faults": faults})
    else:
        for fault in faults:
            print(fault)
        print(f"{folder}: {'every file is as it was written' if not faults else f'{len(faults)} faults'}")
    if faults:
        raise typer.Exit(1)
