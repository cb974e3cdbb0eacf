"""``segue rank``, ``segue predict`` and ``segue explain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.console import Json, Terminal
from segue.cli.query_options import QueryContext, QueryTime, UserFeatures, described_query
from segue.cli.recommend import (
    ExcludeSeen,
    Filter,
    History,
    Items,
    K,
    Rules,
    Run,
    Title,
    constraint_values,
    run_name,
    split_ids,
)

if TYPE_CHECKING:
    from segue.core.bundle import TrainedModel
    from segue.experiment.inference.query_batch import QueryBatch

__all__ = ["explain", "predict", "rank"]

User = Annotated[str | None, typer.Option("--user", metavar="ID", help="User of the log.")]


def rank(
    context: typer.Context,
    run: Run,
    item: Items = None,
    user: User = None,
    history: History = None,
    title: Title = None,
    user_features: UserFeatures = None,
    query_context: QueryContext = None,
    query_time: QueryTime = None,
    json: Json = False,
) -> None:
    """Rank given items for a user, or after a history."""
    from segue.api import open as open_model
    from segue.experiment.inference.predict import rank_candidates
    from segue.experiment.inference.recommend import warn_once

    terminal = Terminal.from_context(context, json)
    _check_one(user, history, title, user_features)
    if not item:
        raise ValueError("rank: which items? expected --item ID,ID,...")
    trained = open_model(run)
    described = described_query(trained, query_context, query_time, user_features)
    batch = _build_query(trained, user, history, title, described)
    table, notes = rank_candidates(trained, batch, split_ids(item, "--item", trained))
    warn_once(notes)
    found = table.to_dicts()
    if terminal.json:
        terminal.result({"run": run_name(run), "model": trained.key, "user": user, "ranked": found, "notes": notes})
        return
    from segue.reports.tables import item_table

    terminal.table(item_table(f"Ranked by {trained.key}", found))


def predict(
    context: typer.Context,
    run: Run,
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Table with user_id and item_id: .csv, .parquet, ...")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a .parquet, .csv, .tsv or .jsonl file instead of printing."),
    ] = None,
    json: Json = False,
) -> None:
    """Predict the rating of each user-item pair in a table."""
    from segue.api import open as open_model
    from segue.experiment.inference.files import read_table, write_table
    from segue.experiment.inference.predict import predict_pairs

    terminal = Terminal.from_context(context, json)
    found = predict_pairs(open_model(run), read_table(pairs))
    if out is not None:
        write_table(out, found)
        terminal.log(f"{out}: {len(found):,} rows")
    elif terminal.json:
        terminal.result({"run": run_name(run), "predictions": found.to_dicts()})
    else:
        print(found.write_csv(), end="")


def explain(
    context: typer.Context,
    run: Run,
    item: Annotated[str, typer.Option(metavar="ID", help="The item to explain.")],
    user: User = None,
    history: History = None,
    title: Title = None,
    user_features: UserFeatures = None,
    query_context: QueryContext = None,
    query_time: QueryTime = None,
    filter: Filter = None,  # noqa: A002 - the name of the option
    rules: Rules = None,
    exclude_seen: ExcludeSeen = True,
    k: K = 10,
    json: Json = False,
) -> None:
    """Explain why an item is recommended to a user, or why it is not."""
    from segue.api import open as open_model
    from segue.experiment.inference.explain import explain_item

    terminal = Terminal.from_context(context, json)
    _check_one(user, history, title, user_features)
    trained = open_model(run)
    described = described_query(trained, query_context, query_time, user_features)
    batch = _build_query(trained, user, history, title, described)
    constraints = constraint_values(None, None, filter, rules)
    found = explain_item(trained, batch, item, k, exclude_seen=exclude_seen, **constraints)
    if terminal.json:
        about = {"run": run_name(run), "model": trained.key, "user": user}
        terminal.result({**about, **found.to_dict(), "notes": batch.messages})
        return
    print(found)


def _check_one(
    user: str | None, history: list[str] | None, title: list[str] | None, user_features: list[str] | None
) -> None:
    """Check that the options name one user, one history, or a new user."""
    given = [
        name for name, value in (("--user", user), ("--history", history), ("--title", title)) if value is not None
    ]
    if len(given) > 1 or not (given or user_features):
        got = " and ".join(given) or "none"
        expected = "one of --user ID, --history ID,... and --title TITLE, or --user-features of a new user"
        raise ValueError(f"got {got}, expected {expected}")
    if user is not None and not user.strip():
        raise ValueError("--user: got an empty id")


def _build_query(
    trained: TrainedModel,
    user: str | None,
    history: list[str] | None,
    title: list[str] | None,
    described: dict[str, Any],
) -> QueryBatch:
    """Build the query of the options."""
    from segue.experiment.inference.queries import build_queries

    histories = [split_ids(history, "--history", trained)] if history else None
    return build_queries(trained, user, histories=histories, titles=title, **described)
