"""``segue keys``: manage the API keys of a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segue.cli.console import Json, Terminal, expand_paths

__all__ = ["app"]

app = typer.Typer(help="Add, list and revoke API keys of a service.", no_args_is_help=True)

File = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File of API keys. [default: keys.json under SEGUE_HOME]")
]


@app.command()
@expand_paths
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Owner of the key.")],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="SCOPE",
            help="Permission: recommend (recommendations and catalog only), read, write or admin. May be repeated.",
        ),
    ],
    days: Annotated[float | None, typer.Option(help="Days until the key expires. [default: never]")] = None,
    file: File = None,
    json: Json = False,
) -> None:
    """Create a key and print it once.

    A running service accepts it within a second.
    """
    from segue.serving.auth.api_keys import create_key, default_keys_file

    terminal = Terminal.from_context(context, json)
    path = file or default_keys_file()
    token = create_key(path, name, scope, days)
    if terminal.json:
        terminal.result({"key": token, "file": str(path)})
        return
    terminal.log(f"added to {path}; the key is shown only once:")
    print(token)


@app.command("list")
@expand_paths
def list_(context: typer.Context, file: File = None, json: Json = False) -> None:
    """List the keys without their secrets."""
    from datetime import UTC, datetime

    from segue.serving.auth.api_keys import default_keys_file, list_keys

    terminal = Terminal.from_context(context, json)
    now = datetime.now(UTC)
    keys = [
        {**key.model_dump(mode="json", exclude={"hash"}), "state": key.state(now)}
        for key in list_keys(file or default_keys_file())
    ]
    if terminal.json:
        terminal.result(keys)
        return
    from segue.reports.tables import Table

    columns = ("id", "name", "scopes", "created", "expires", "state")
    rows = tuple(tuple(_format_cell(key[column]) for column in columns) for key in keys)
    terminal.table(Table("Keys", columns, rows, first_numeric=len(columns)))


@app.command()
@expand_paths
def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a key, as listed by segue keys list.")],
    file: File = None,
    json: Json = False,
) -> None:
    """Revoke a key.

    A running service rejects it within a second.
    """
    from segue.serving.auth import api_keys

    terminal = Terminal.from_context(context, json)
    key = api_keys.revoke_key(file or api_keys.default_keys_file(), key_id)
    if terminal.json:
        terminal.result({"id": key.id, "name": key.name, "revoked": key.model_dump(mode="json")["revoked"]})
        return
    print(f"{key.id} ({key.name}) is revoked")


def _format_cell(value: object) -> str:
    return "-" if value is None else ", ".join(value) if isinstance(value, list) else str(value)
