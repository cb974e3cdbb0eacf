"""``segue recommend`` and ``segue similar``."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

from segue.cli.console import Json, Terminal, pairs

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
    from segue.experiment import recommend
    from segue.experiment.data import reopen
    from segue.experiment.paths import find_run

    terminal = Terminal.of(context, json)
    if user is not None and (item or title or user_features):
        raise ValueError("recommend: a --user has a history and features; give them without --user, or --user alone")
    if user is None and not (item or title or user_features):
        raise ValueError("recommend: for whom? --user ID, or a history: --item ID --item ID, --title 'Alien (1979)'")
    folder = find_run(run)
    trained = load(folder / "bundle")
    if user is not None:
        answer = recommend.by_user(trained, reopen(folder), user, k, repeats=repeats)
    else:
        items = [*(item or []), *recommend.titled(trained, title or [])]
        profile = {name: _number(value) for name, value in (pairs(user_features, "--user-features") or {}).items()}
        answer = recommend.by_history(trained, items, k, repeats=repeats, profile=profile)
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
    user: Annotated[str | None, typer.Option(metavar="ID", help="Or a user, to see who is like him.")] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="cosine, jaccard, pearson, smith_waterman, vector_cosine, ...; without it the model's own notion.",
        ),
    ] = None,
    over: Annotated[
        str | None, typer.Option(metavar="WHAT", help="What is measured: events, values, levels (of values) or genres.")
    ] = None,
    shrink: Annotated[
        float | None,
        typer.Option(min=0, help="Draws likeness that rests on few events towards 0; 10 unless over genres, 0: none."),
    ] = None,
    k: Count = 10,
    json: Json = False,
) -> None:
    """List the items most like one item, or the users most like one user, and what they have in common.

    Measures are taken over the training part of the run's data, or over the model's vectors.
    """
    from segue.core.bundle import load
    from segue.experiment import recommend
    from segue.experiment.data import training_part
    from segue.experiment.paths import find_run
    from segue.experiment.similar import alike_items, alike_users

    terminal = Terminal.of(context, json)
    if sum(asked is not None for asked in (item, title, user)) != 1:
        raise ValueError("similar: to what? one of --item ID, --title TITLE and --user ID")
    folder = find_run(run)
    trained = load(folder / "bundle")
    how: dict[str, Any] = {"measure": measure, "over": over, "shrink": shrink}
    if user is not None:
        found = alike_users(trained, user, k, **how, log=training_part(folder)).to_dicts()
        asked = {"user": user}
    else:
        known = item if item is not None else recommend.titled(trained, [str(title)])[0]
        try:
            log = training_part(folder)
        except ValueError as gone:
            if measure is not None and not measure.startswith("vector_"):
                raise
            terminal.say(f"note: how many had both is not known: {gone}")
            log = None
        found = alike_items(trained, known, k, **how, log=log).to_dicts()
        asked = {"item": known}
    if terminal.json:
        terminal.result({"run": folder.name, "model": trained.key, **asked, "measure": measure, "similar": found})
        return
    from segue.reports.tables import catalogue

    shown = [{**row, "common": _first(row["common"])} for row in found] if user is not None else found
    terminal.table(catalogue(f"Most like {user or title or asked['item']}, by {measure or trained.key}", shown))


def _first(names: list[str], most: int = 3) -> str:
    """The first few of a list, and that there are more."""
    return "; ".join(names[:most]) + ("; ..." if len(names) > most else "")


def _number(text: str) -> Any:
    try:
        return json_module.loads(text)
    except json_module.JSONDecodeError:
        return text
