"""``segue recommend`` and ``segue similar``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.console import Json, Terminal, parse_ids, parse_json_or_text
from segue.cli.query_options import QueryContext, QueryTime, UserFeatures, described_query

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polars import DataFrame

    from segue.core.bundle import TrainedModel
    from segue.experiment.inference.query_batch import QueryBatch

__all__ = [
    "ExcludeSeen",
    "Filter",
    "History",
    "Items",
    "K",
    "Rules",
    "Run",
    "Title",
    "constraint_values",
    "recommend",
    "run_name",
    "similar",
    "split_ids",
]

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Name or folder of a run, such as latest, or of a saved model.")
]
K = Annotated[int, typer.Option("-k", min=1, help="Number of results.")]
History = Annotated[
    list[str] | None, typer.Option("--history", metavar="ID,...", help="Item ids of a history, oldest first.")
]
Title = Annotated[list[str] | None, typer.Option("--title", metavar="TITLE", help="Title of an item of a history.")]
Items = Annotated[list[str] | None, typer.Option("--item", metavar="ID,...", help="Candidate items.")]
Filter = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="FEATURE=VALUE", help='Condition on items: genres=Comedy, year={"min":1990}.'),
]
Rules = Annotated[
    str | None,
    typer.Option("--rules", metavar="JSON|FILE", help='Reranking rules: {"diversify": 0.3}, or a .json file.'),
]
IdList = Annotated[
    list[str] | None, typer.Option(metavar="ID,...|@FILE", help="Item ids, or a file with one per line.")
]
ExcludeSeen = Annotated[bool, typer.Option("--exclude-seen/--include-seen", help="Leave out items of the history.")]


def recommend(
    context: typer.Context,
    run: Run,
    user: Annotated[list[str] | None, typer.Option(metavar="ID,...", help="Users of the log.")] = None,
    history: History = None,
    title: Title = None,
    users_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Users: one id per line, or a table with user_id, which may have columns of context and of features "
            "of new users.",
        ),
    ] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="All users of the log; needs --out.")] = False,
    user_features: UserFeatures = None,
    query_context: QueryContext = None,
    query_time: QueryTime = None,
    allow: IdList = None,
    deny: IdList = None,
    filter: Filter = None,  # noqa: A002 - the name of the option
    rules: Rules = None,
    exclude_seen: ExcludeSeen = True,
    k: K = 10,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a .parquet, .csv, .tsv or .jsonl file; resumes after an interruption."
        ),
    ] = None,
    last: Annotated[int, typer.Option(min=0, help="Items of the history to show.")] = 5,
    json: Json = False,
) -> None:
    """Recommend items to users of the log, or after a history."""
    from segue.api import open as open_model
    from segue.experiment.inference.batch import recommend_to_file
    from segue.experiment.inference.files import write_table
    from segue.experiment.inference.queries import build_queries
    from segue.experiment.inference.recommend import history_table, recommend_block, warn_once
    from segue.experiment.inference.user_tables import read_users

    terminal = Terminal.from_context(context, json)
    sources = {"--user": user, "--history": history, "--title": title, "--users-file": users_file}
    _check_source({**sources, "--all-users": all_users}, user_features, out)
    trained = open_model(run)
    constraints = constraint_values(allow, deny, filter, rules)
    described = described_query(trained, query_context, query_time, user_features)
    users: Any = split_ids(user, "--user") if user else None
    if users_file is not None:
        users = read_users(trained, users_file, has_context=described["context"] is not None)
    if out is not None and not (history or title or user_features):
        of_all: dict[str, Any] = {"context": described["context"], "time": described["time"], "log": terminal.log}
        try:
            rows = recommend_to_file(
                trained, *(out, users, k), constraints=constraints, exclude_seen=exclude_seen, **of_all
            )
        except KeyboardInterrupt:
            terminal.log("\ninterrupted; repeat the command to continue")
            raise typer.Exit(130) from None
        terminal.log(f"{out}: {rows:,} rows")
        return
    histories = None if user or users_file or title else [split_ids(history, "--history", trained)]
    batch = build_queries(trained, users, histories=histories, titles=title, **described)
    table, warnings = recommend_block(trained, batch, k, exclude_seen=exclude_seen, **constraints)
    warn_once([*batch.messages, *warnings])
    warnings = [*batch.messages, *warnings] if table.is_empty() else warnings  # an empty table has no notes
    if out is not None:
        write_table(out, table)
        terminal.log(f"{out}: {len(table):,} rows")
        return
    seen = history_table(trained, batch) if len(batch) == 1 else None
    _show(terminal, run, trained, batch, table, None if seen is None else seen.tail(last), warnings)


def similar(
    context: typer.Context,
    run: Run,
    item: Annotated[str | None, typer.Option(metavar="ID", help="The item.")] = None,
    title: Annotated[str | None, typer.Option(metavar="TITLE", help="The item, by its title.")] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="A user, to list similar users.")] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="cosine, jaccard, pearson, smith_waterman, vector_cosine, ...; default: the model's own similarity.",
        ),
    ] = None,
    over: Annotated[
        str | None, typer.Option(metavar="WHAT", help="What is compared: events, values, levels (of values) or genres.")
    ] = None,
    shrink: Annotated[
        float | None,
        typer.Option(min=0, help="Shrinks similarity that rests on few events towards 0; 10, and 0 for genres."),
    ] = None,
    k: K = 10,
    json: Json = False,
) -> None:
    """List the items most similar to an item, or the users most similar to a user.

    Measures compare the training part of the run's data, or the model's vectors.
    """
    from segue.api import open as open_model
    from segue.experiment.inference.queries import resolve_titles
    from segue.experiment.inference.similar import similar_items, similar_users

    terminal = Terminal.from_context(context, json)
    if sum(value is not None for value in (item, title, user)) != 1:
        raise ValueError("similar: expected one of --item ID, --title TITLE and --user ID")
    trained = open_model(run)
    how: dict[str, Any] = {"measure": measure, "over": over, "shrink": shrink}
    query: dict[str, Any]
    if user is not None:
        found = similar_users(trained, user, k, **how, log=trained.train_log).to_dicts()
        query = {"user": user}
    else:
        chosen = item if item is not None else resolve_titles(trained, [str(title)])[0]
        try:
            log = trained.train_log
        except ValueError as error:
            if measure is not None and not measure.startswith("vector_"):
                raise
            terminal.log(f"note: the number of users in common is not known: {error}")
            log = None
        found = similar_items(trained, chosen, k, **how, log=log).to_dicts()
        query = {"item": chosen}
    if terminal.json:
        terminal.result({"run": run_name(run), "model": trained.key, **query, "measure": measure, "similar": found})
        return
    from segue.reports.tables import item_table

    shown = [{**row, "common": _abbreviate(row["common"])} for row in found] if user is not None else found
    title_text = f"Most similar to {user or title or query['item']} by {measure or trained.key}"
    terminal.table(item_table(title_text, shown))


def constraint_values(
    allow: list[str] | None, deny: list[str] | None, conditions: list[str] | None, rules: str | None
) -> dict[str, Any]:
    """Convert the given options to the arguments of :func:`segue.recommend`."""
    import json

    values: dict[str, Any] = {}
    for name, texts in (("allow", allow), ("deny", deny)):
        if texts is not None:
            values[name] = parse_ids(texts, f"--{name}")
    if conditions:
        parts = [text.partition("=") for text in conditions]
        if wrong := [text for text, (name, equals, _) in zip(conditions, parts, strict=True) if not (name and equals)]:
            raise ValueError(f"--filter: got '{wrong[0]}', expected FEATURE=VALUE")
        values["filter"] = {name.strip(): parse_json_or_text(value.strip()) for name, _, value in parts}
    if rules is not None:
        text = rules
        if not rules.lstrip().startswith("{"):
            path = Path(rules).expanduser()
            if not path.is_file():
                raise ValueError(
                    f"--rules: no such file: '{rules}'; expected JSON such as {{\"diversify\": 0.3}}, or a file"
                )
            text = path.read_text(encoding="utf-8")
        try:
            values["rules"] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"--rules: not JSON: {error}") from None
    return values


def split_ids(texts: list[str] | None, option: str, trained: TrainedModel | None = None) -> list[str]:
    """Split ``ID,ID`` into ids.

    An item id of the model that contains a comma is not split.

    Raises:
        ValueError: an id is empty.
    """
    found: list[str] = []
    for text in texts or []:
        whole = "," not in text or (trained is not None and bool(trained.items.encode([text])[1][0]))
        parts = [text] if whole else [part.strip() for part in text.split(",")]
        if not all(part.strip() for part in parts):
            raise ValueError(f"{option}: got an empty id in '{text}', expected ID,ID,...")
        found += parts
    return found


def run_name(run: str) -> str:
    """Return the name of a run's folder, or that of a saved model.

    ``run`` may be a link such as ``latest``.
    """
    from segue.experiment.paths import find_run

    path = Path(run).expanduser()
    return path.name if (path / "bundle.json").exists() else find_run(path).name


def _check_source(sources: Mapping[str, Any], user_features: list[str] | None, out: Path | None) -> None:
    """Check that exactly one option selects the users."""
    named = [name for name, value in sources.items() if value]
    if len(named) > 1:
        raise ValueError(f"recommend: got {' and '.join(named)}, expected one of them")
    if not named and not user_features:
        raise ValueError(f"recommend: for which users? expected one of {', '.join(sources)} and --user-features")
    if user_features and named and named[0] not in ("--history", "--title"):
        raise ValueError(f"recommend: --user-features describe a new user, {named[0]} names users of the log")
    if named == ["--all-users"] and out is None:
        raise ValueError("recommend: --all-users needs --out FILE")


def _show(
    terminal: Terminal,
    run: str,
    trained: TrainedModel,
    batch: QueryBatch,
    table: DataFrame,
    seen: DataFrame | None,
    warnings: list[str],
) -> None:
    """Print recommendations.

    For a single query, the end of its history is printed and its key is left out. The JSON output repeats ``warnings``.
    """
    notes = list(dict.fromkeys(note for note in table["notes"].to_list() if note is not None))
    rows = table.drop("notes", *(() if seen is None else [batch.keys.name])).to_dicts()
    history = [] if seen is None else seen.to_dicts()
    if terminal.json:
        user = batch.keys[0] if seen is not None and batch.keys.name == "user_id" else None
        terminal.result({"run": run_name(run), "model": trained.key, "user": user, "history": history,
                         "recommendations": rows, "notes": [*notes, *warnings]})  # fmt: skip
        return
    warned = {text for texts in batch.notes.values() for text in texts}  # printed as a warning already
    for text in dict.fromkeys(part for note in notes for part in note.split("; ") if part not in warned):
        terminal.log(f"note: {text}")
    from segue.reports.tables import item_table

    if history:
        count = batch.queries.history.size
        terminal.table(item_table(f"Last {len(history)} of {count} items of the history", history))
    terminal.table(item_table(f"Recommended by {trained.key}", _without_empty(rows)))


def _abbreviate(names: list[str], most: int = 3) -> str:
    return "; ".join(names[:most]) + ("; ..." if len(names) > most else "")


def _without_empty(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop columns without any value."""
    empty = {name for name in (rows[0] if rows else ()) if all(row[name] is None for row in rows)}
    return [{name: value for name, value in row.items() if name not in empty} for row in rows]
