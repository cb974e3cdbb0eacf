"""``segue data``: what there is, what is in it, and preparing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segue.cli.console import Columns, Json, Set, Target, Terminal, pairs

__all__ = ["app"]

app = typer.Typer(help="Logs: list, describe, prepare.", no_args_is_help=True)

Items = Annotated[
    Path | None, typer.Option(metavar="FILE", help="What more is known of items: a table with item_id and features.")
]
Users = Annotated[Path | None, typer.Option(metavar="FILE", help="Likewise of users, with user_id.")]
Source = Annotated[str, typer.Argument(metavar="D", help="A name such as ml-100k, a file, a folder, or simulated.")]


@app.command("list")
def list_(context: typer.Context, json: Json = False) -> None:
    """List the logs that are known by name."""
    from segue.data import sources_listed

    terminal = Terminal.of(context, json)
    sources = sources_listed()
    if terminal.json:
        terminal.result([{"data": key, "description": text, "at_hand": there} for key, text, there in sources])
        return
    from segue.reports.tables import Table

    rows = tuple((key, "yes" if there else "", text) for key, text, there in sources)
    terminal.table(Table("Logs by name; a file or a folder is one too", ("data", "at hand", ""), rows, right=3))


@app.command()
def describe(
    context: typer.Context,
    source: Source,
    columns: Columns = None,
    target: Target = None,
    items: Items = None,
    users: Users = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Say how large a log is and what is known in it."""
    _prepared(Terminal.of(context, json), source, None, columns, target, {"items": items, "users": users}, set_)


@app.command()
def prepare(
    context: typer.Context,
    source: Source,
    out: Annotated[Path | None, typer.Option(help="Folder to prepare into, instead of the cache.")] = None,
    columns: Columns = None,
    target: Target = None,
    items: Items = None,
    users: Users = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Read a log into a folder that opens in milliseconds.

    --set changes filters, such as min_user_events=5.
    """
    _prepared(Terminal.of(context, json), source, out, columns, target, {"items": items, "users": users}, set_)


def _prepared(
    terminal: Terminal,
    source: str,
    out: Path | None,
    columns: str | None,
    target: str | None,
    more: dict[str, Path | None],
    set_: list[str] | None,
) -> None:
    from segue.core.config import assign, parse
    from segue.data import load
    from segue.data.filters import Filters

    filters = parse(Filters, assign({"filters": Filters}, set_ or [])["filters"], "filters")
    mapping = pairs(columns, "--columns")
    say = terminal.say
    told = _described(load(source, columns=mapping, target=target, filters=filters, out=out, say=say, **more))
    if terminal.json:
        terminal.result(told)
        return
    from segue.cli.tables import facts

    terminal.table(facts(told))


def _described(data: Any) -> dict[str, Any]:
    """Sizes, spread and features of a dataset."""
    import numpy as np

    lengths = data.histories.lengths
    spread = np.percentile(lengths, (0, 50, 100)) if len(lengths) else np.zeros(3)
    counts = np.sort(np.bincount(data.histories.items, minlength=data.n_items))[::-1]
    tenth = max(1, data.n_items // 10)
    known = {"item_features": data.item_features, "user_features": data.user_features}
    return {
        "data": data.name,
        "users": data.n_users,
        "items": data.n_items,
        "events": data.histories.size,
        "density": float(data.histories.size / max(1, data.n_users * data.n_items)),
        "events_per_user": dict(zip(("least", "median", "most"), spread.tolist(), strict=True)),
        "share_of_top_tenth_of_items": float(counts[:tenth].sum() / max(1, counts.sum())),
        "actions": list(data.actions),
        "target": None if data.target is None else data.actions[data.target],
        "columns": list(data.histories.columns()),
        **{name: [] if frame is None else frame.collect_schema().names()[1:] for name, frame in known.items()},
        **{key: data.header.get(key) for key in ("filters", "warnings", "hash", "folder")},
    }
