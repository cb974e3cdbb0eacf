"""``segue recommend`` and ``segue similar``."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

from segue.cli.terminal import Json, Terminal, pairs

__all__ = ["recommend", "similar"]

Run = Annotated[str, typer.Argument(metavar="RUN", help="Folder or name of a run, such as latest.")]
Count = Annotated[int, typer.Option("-k", min=1, help="How many.")]


def recommend(
    context: typer.Context,
    run: Run,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Someone who is in the data.")] = None,
    item: Annotated[list[str] | None, typer.Option(metavar="ID", help="Of a history, oldest first.")] = None,
    title: Annotated[list[str] | None, typer.Option(metavar="TITLE", help="Likewise, after all --item.")] = None,
    user_features: Annotated[str | None, typer.Option(metavar="age=25,...", help="Of someone new.")] = None,
    repeats: Annotated[bool, typer.Option("--repeats", help="Recommend what is in the history too.")] = False,
    k: Count = 10,
    last: Annotated[int, typer.Option(min=0, help="How many items of the history to show.")] = 5,
    json: Json = False,
) -> None:
    """Recommend what comes next.

    For someone in the data, or for any history.
    """
    from segue.core.bundle import load
    from segue.experiment import ask
    from segue.experiment.data import reopen
    from segue.experiment.home import find_run

    terminal = Terminal.of(context, json)
    if user is not None and (item or title or user_features):
        raise ValueError("recommend: a --user has a history and features; give them without --user, or --user alone")
    if user is None and not (item or title or user_features):
        raise ValueError("recommend: for whom? --user ID, or a history: --item ID --item ID, --title 'Alien (1979)'")
    folder = find_run(run)
    trained = load(folder / "bundle")
    if user is not None:
        answer = ask.by_user(trained, reopen(folder), user, k, repeats=repeats)
    else:
        items = [*(item or []), *ask.titled(trained, title or [])]
        profile = {name: _number(value) for name, value in (pairs(user_features, "--user-features") or {}).items()}
        answer = ask.by_history(trained, items, k, repeats=repeats, profile=profile)
    history = answer.history.tail(last).to_dicts()
    for note in answer.notes:
        terminal.say(f"note: {note}")
    if terminal.json:
        terminal.result({"run": folder.name, "model": trained.key, "user": user, "history": history,
                         "recommendations": answer.items.to_dicts(), "notes": list(answer.notes)})  # fmt: skip
        return
    from segue.reports.tables import catalogue

    whose = f"user {user}" if user is not None else "this history"
    if history:
        terminal.table(catalogue(f"The last {len(history)} of {answer.history.height} items of {whose}", history))
    terminal.table(catalogue(f"What {trained.key} recommends next", answer.items.to_dicts()))


def similar(
    context: typer.Context,
    run: Run,
    item: Annotated[str | None, typer.Option(metavar="ID", help="The item.")] = None,
    title: Annotated[str | None, typer.Option(metavar="TITLE", help="Or its title.")] = None,
    k: Count = 10,
    json: Json = False,
) -> None:
    """List the items most like one item."""
    from segue.core.bundle import load
    from segue.experiment import ask
    from segue.experiment.home import find_run

    terminal = Terminal.of(context, json)
    if (item is None) == (title is None):
        raise ValueError("similar: to what? one of --item ID and --title TITLE")
    folder = find_run(run)
    trained = load(folder / "bundle")
    known = item if item is not None else ask.titled(trained, [str(title)])[0]
    found = ask.alike(trained, known, k).to_dicts()
    if terminal.json:
        terminal.result({"run": folder.name, "model": trained.key, "item": known, "similar": found})
        return
    from segue.reports.tables import catalogue

    terminal.table(catalogue(f"Most like {title or known}, by {trained.key}", found))


def _number(text: str) -> Any:
    try:
        return json_module.loads(text)
    except json_module.JSONDecodeError:
        return text
