"""``segue keys``: who may use the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segue.cli.console import Json, Terminal

__all__ = ["app"]

app = typer.Typer(help="Keys of the service: add, list, revoke.", no_args_is_help=True)

File = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The file of keys; by default keys.json under SEGUE_HOME.")
]


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is.")],
    scope: Annotated[
        list[str], typer.Option(metavar="SCOPE", help="What it may do: read, write or admin. Again for more.")
    ],
    days: Annotated[float | None, typer.Option(help="Days until it expires; without it, never.")] = None,
    file: File = None,
    json: Json = False,
) -> None:
    """Make a key and print it, once.

    A running service knows it within a second.
    """
    from segue.serving.auth.api_keys import keys_file, make

    terminal = Terminal.of(context, json)
    path = file or keys_file()
    token = make(path, name, scope, days)
    if terminal.json:
        terminal.result({"key": token, "file": str(path)})
        return
    terminal.say(f"added to {path}; this is the only time that it is shown:")
    print(token)


@app.command("list")
def list_(context: typer.Context, file: File = None, json: Json = False) -> None:
    """List the keys, without their secrets."""
    from datetime import UTC, datetime

    from segue.serving.auth.api_keys import keys_file, listed

    terminal = Terminal.of(context, json)
    now = datetime.now(UTC)
    keys = [
        {**key.model_dump(mode="json", exclude={"hash"}), "state": key.state(now)}
        for key in listed(file or keys_file())
    ]
    if terminal.json:
        terminal.result(keys)
        return
    from segue.reports.tables import Table

    columns = ("id", "name", "scopes", "created", "expires", "state")
    rows = tuple(tuple(_shown(key[column]) for column in columns) for key in keys)
    terminal.table(Table("Keys", columns, rows, right=len(columns)))


@app.command()
def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a key, as segue keys list shows it.")],
    file: File = None,
    json: Json = False,
) -> None:
    """Let a key open nothing from now on.

    A running service knows it within a second.
    """
    from segue.serving.auth import api_keys

    terminal = Terminal.of(context, json)
    key = api_keys.revoke(file or api_keys.keys_file(), key_id)
    if terminal.json:
        terminal.result({"id": key.id, "name": key.name, "revoked": key.model_dump(mode="json")["revoked"]})
        return
    print(f"{key.id} ({key.name}) opens nothing any more")


def _shown(value: object) -> str:
    return "-" if value is None else ", ".join(value) if isinstance(value, list) else str(value)
