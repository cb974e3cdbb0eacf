"""``segue data``: list, describe and prepare interaction logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segue.cli.console import Columns, Json, Separator, Set, Target, Terminal, expand_paths, parse_pairs, read_query

__all__ = ["app"]

app = typer.Typer(help="List, describe and prepare interaction logs.", no_args_is_help=True)

Query = Annotated[
    str | None, typer.Option(metavar="SQL|@FILE", help="Query whose result is the log, if DATA is a database.")
]
Items = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|SQL|@FILE",
        help="Item features: a table with item_id and one column per feature, or a query for it.",
    ),
]
Users = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|SQL|@FILE",
        help="User features: a table with user_id and one column per feature, or a query for it.",
    ),
]
Triples = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Facts about items: a table with head, relation and tail.")
]
Source = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="Name of a dataset such as ml-100k, a file, a folder, simulated, or a database."
    ),
]


@app.command("list")
def list_(context: typer.Context, json: Json = False) -> None:
    """List the datasets that are known by name."""
    from segue.data import list_sources

    terminal = Terminal.from_context(context, json)
    sources = list_sources()
    if terminal.json:
        terminal.result([{"data": key, "description": text, "available": there} for key, text, there in sources])
        return
    from segue.reports.tables import Table

    rows = tuple((key, "yes" if there else "", text) for key, text, there in sources)
    title = "Datasets by name; a file or a folder works too"
    terminal.table(Table(title, ("data", "available offline", "description"), rows, first_numeric=3))


@app.command()
@expand_paths
def describe(
    context: typer.Context,
    source: Source,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    items: Items = None,
    users: Users = None,
    triples: Triples = None,
    query: Query = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Print the size of a log, its statistics and its features."""
    layout = {"columns": parse_pairs(columns, "--columns"), "separator": separator, "target": target}
    texts = {"items": items, "users": users, "query": query}
    tables = {"triples": triples, **{name: read_query(text) for name, text in texts.items()}}
    _prepare(Terminal.from_context(context, json), source, None, {**layout, **tables}, set_)


@app.command()
@expand_paths
def prepare(
    context: typer.Context,
    source: Source,
    out: Annotated[Path | None, typer.Option(help="Folder of the prepared data. [default: the cache]")] = None,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    items: Items = None,
    users: Users = None,
    triples: Triples = None,
    query: Query = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Convert a log into a folder that opens in milliseconds.

    --set changes filters, such as min_user_events=5.
    """
    layout = {"columns": parse_pairs(columns, "--columns"), "separator": separator, "target": target}
    texts = {"items": items, "users": users, "query": query}
    tables = {"triples": triples, **{name: read_query(text) for name, text in texts.items()}}
    _prepare(Terminal.from_context(context, json), source, out, {**layout, **tables}, set_)


@app.command()
def reviews(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Table of reviews, one per row.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the reviews with a column of their sentiment.")
    ] = None,
    items_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write item features: sentiment, liked and disliked aspects.")
    ] = None,
    text: Annotated[str, typer.Option(metavar="COLUMN", help="Column with the texts.")] = "review",
    item: Annotated[str, typer.Option(metavar="COLUMN", help="Column with the items.")] = "item_id",
    rating: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with ratings, from which a linear model learns.")
    ] = None,
    min_reviews: Annotated[int, typer.Option(min=1, help="Smallest number of reviews that mention an aspect.")] = 3,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Measure the sentiment of reviews.

    It can be the value of events, and a feature of items. --set changes settings of the group sentiment, such as
    language=de.
    """
    from segue.core.config import apply_overrides, parse
    from segue.core.run import Run
    from segue.data.side_tables import read_side_tables
    from segue.experiment.inference.files import check_suffix, write_table
    from segue.features.sentiment import SentimentSettings, add_sentiment, find_aspects, summarize_items

    if out is None and items_out is None:
        raise ValueError("reviews: nothing to write; give --out, --items-out or both")
    for path in (out, items_out):
        if path is not None:
            check_suffix(path)
    if items_out is not None and items_out.suffix.lower() in (".csv", ".tsv"):
        raise ValueError(f"--items-out {items_out}: aspects are lists; expected a file with suffix .parquet or .jsonl")
    values = apply_overrides({"sentiment": SentimentSettings}, set_ or [])["sentiment"]
    settings = parse(SentimentSettings, values, "sentiment")
    terminal = Terminal.from_context(context, json)
    run = Run(show_progress=not terminal.json)
    table = read_side_tables(file, None, {"item": item})["items"].table
    scored = add_sentiment(table, text, rating, settings, run=run)
    written = {}
    if out is not None:
        write_table(out, scored)
        written["reviews"] = str(out)
    if items_out is not None:
        aspects = find_aspects(table, text, item, rating, settings, min_reviews=min_reviews, run=run)
        write_table(items_out, summarize_items(scored, item, aspects))
        written["items"] = str(items_out)
    shares = {
        name: round(float(is_so.fill_null(False).to_numpy().mean()), 4) if len(scored) else 0.0
        for name, is_so in (("positive", scored["sentiment"] > 0), ("negative", scored["sentiment"] < 0))
    }
    found = {"reviews": len(scored), "method": settings.choose_method(rating is not None), **shares, "written": written}
    if terminal.json:
        terminal.result(found)
        return
    from segue.reports.tables import key_value_grid

    terminal.table(key_value_grid({**found, "written": ", ".join(written.values())}))


@app.command()
@expand_paths
def examples(
    context: typer.Context,
    source: Source,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the table is written: .parquet or .jsonl.")],
    threshold: Annotated[
        float | None, typer.Option(help="Events with a greater value are positive, others negative.")
    ] = None,
    impression: Annotated[
        str | None,
        typer.Option(metavar="ACTION", help="Events with this action are examples, positive if a click follows."),
    ] = None,
    negatives: Annotated[
        int, typer.Option(help="All events are positive; number of items to sample as negatives of each.")
    ] = 0,
    history: Annotated[int, typer.Option(help="Maximum number of items in the history; 0: no history.")] = 50,
    seed: Annotated[int, typer.Option(help="Determines the sampled negatives.")] = 0,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    items: Items = None,
    users: Users = None,
    query: Query = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Make a table of labeled examples from a log, for segue clicks.

    Give one of --threshold, --impression and --negatives. --set changes filters, such as min_user_events=5.
    """
    from segue.core.config import apply_overrides, parse
    from segue.data import load
    from segue.data.examples.from_log import choose_rule
    from segue.data.filters import Filters
    from segue.examples import derive_examples
    from segue.experiment.inference.files import check_suffix, write_table

    check_suffix(out)
    terminal = Terminal.from_context(context, json)
    filters = parse(Filters, apply_overrides({"filters": Filters}, set_ or [])["filters"], "filters")
    layout: dict[str, Any] = {"columns": parse_pairs(columns, "--columns"), "separator": separator, "target": target}
    texts = {"items": items, "users": users, "query": query}
    layout |= {name: read_query(text) for name, text in texts.items()}
    choose_rule(threshold, impression, negatives)  # before the log is read
    data = load(source, filters=filters, log=terminal.log, **layout)
    table = derive_examples(
        data, threshold=threshold, impression=impression, negatives=negatives, history=history, seed=seed
    )
    for note in table.notes:
        terminal.log(note)
    write_table(out, table.frame)
    found = {"examples": len(table), "positive": int(table.frame["label"].sum()), "file": str(out)}
    if terminal.json:
        terminal.result({**found, "columns": table.columns, "notes": list(table.notes)})
        return
    from segue.reports.tables import key_value_grid

    terminal.table(key_value_grid(found))


def _prepare(
    terminal: Terminal,
    source: str,
    out: Path | None,
    arguments: dict[str, Any],
    set_: list[str] | None,
) -> None:
    from segue.core.config import apply_overrides, parse
    from segue.data import load
    from segue.data.filters import Filters

    filters = parse(Filters, apply_overrides({"filters": Filters}, set_ or [])["filters"], "filters")
    reported: list[str] = []

    def log(text: str) -> None:
        reported.append(text)
        terminal.log(text)

    data = load(source, filters=filters, out=out, log=log, **arguments)
    for text in data.header.get("notes", []):
        if text not in reported:  # the data was prepared before
            terminal.log(text)
    description = _describe(data)
    if terminal.json:
        terminal.result(description)
        return
    from segue.reports.tables import key_value_grid

    terminal.table(key_value_grid(description))


def _describe(data: Any) -> dict[str, Any]:
    """Return sizes, statistics and features of a dataset."""
    import numpy as np

    lengths = data.histories.lengths
    quantiles = np.percentile(lengths, (0, 50, 100)) if len(lengths) else np.zeros(3)
    counts = np.sort(np.bincount(data.histories.items, minlength=data.n_items))[::-1]
    tenth = max(1, data.n_items // 10)
    features = {"item_features": data.item_features, "user_features": data.user_features}
    return {
        "data": data.name,
        "users": data.n_users,
        "items": data.n_items,
        "events": data.histories.size,
        "density": float(data.histories.size / max(1, data.n_users * data.n_items)),
        "events_per_user": dict(zip(("min", "median", "max"), quantiles.tolist(), strict=True)),
        "event_share_of_top_10_percent_items": float(counts[:tenth].sum() / max(1, counts.sum())),
        "actions": list(data.actions),
        "target": None if data.target is None else data.actions[data.target],
        "columns": list(data.histories.columns()),
        **{key: data.header.get("counts", {}).get(key) for key in ("first_time", "last_time")},
        **{name: [] if frame is None else frame.collect_schema().names()[1:] for name, frame in features.items()},
        **({} if data.knowledge is None else {"knowledge": data.knowledge.describe()}),
        **{key: data.header.get(key) for key in ("filters", "warnings", "hash", "folder")},
    }
