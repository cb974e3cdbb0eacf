"""``segue clicks``: click-through models on tables of labeled examples."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.console import Json, Separator, Set, Terminal, expand_paths

if TYPE_CHECKING:
    from segue.data.examples.table import ExampleTable
    from segue.experiment.clicks.click_plan import ClickPlan
    from segue.reports.tables import Table

__all__ = ["app"]

app = typer.Typer(
    help="Train and use click-through models on tables of labeled examples, such as impressions with clicks.",
    no_args_is_help=True,
)

Model = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a trained model.")]
Examples = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="File, folder or pattern (CSV, TSV, JSON Lines, Parquet, libfm), a name such as frappe-x1, or the address "
        "of a database.",
    ),
]
Query = Annotated[
    str | None, typer.Option(metavar="SQL", help="Query whose result is the table, if it is in a database.")
]
Part = Annotated[str, typer.Option(help="train, valid or test, if the table has given parts.")]


@app.command()
@expand_paths
def train(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Key of a model, such as deepfm.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="File, folder or pattern, a name such as frappe-x1, or a database."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the labels, 0 or 1. [default: label]")
    ] = None,
    query: Query = None,
    separator: Separator = None,
    valid: Annotated[
        str | None, typer.Option(metavar="TABLE", help="The validation rows, if they are in another file.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="TABLE", help="The test rows, if they are in another file.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="random|time|user|given", help="How rows are split. [default: given parts, else random]"),
    ] = None,
    column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the times, the users or the given parts.")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(metavar="platt|temperature|isotonic", help="Calibrate probabilities on the validation rows."),
    ] = None,
    set_: Set = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings to start from: training.toml of a trained model.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the model. [default: a new one]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set run.seed=...")] = None,
    device: Annotated[str | None, typer.Option(help="Short for --set run.device=...")] = None,
    read_test: Annotated[bool, typer.Option("--read-test", help="Also evaluate on the test part.")] = False,
    json: Json = False,
) -> None:
    """Train a model on labeled examples, and evaluate it on the validation rows.

    The folder has the model, all settings and the training history. The same command with the same --out resumes an
    interrupted training.
    """
    from segue.core.run import Interrupted
    from segue.experiment.clicks.run_click_plan import new_click_folder, run_click_plan

    terminal = Terminal.from_context(context, json)
    short = {
        "examples.label": label,
        "split.strategy": split,
        "split.column": column,
        "run.calibration": calibration,
        "run.seed": seed,
        "run.device": device,
    }
    overrides = [*(set_ or []), *(f"{key}={value}" for key, value in short.items() if value is not None)]
    task = {"model": model, "data": data, "query": query, "separator": separator, "valid": valid, "test": test}
    plan = _plan({key: value for key, value in task.items() if value is not None}, overrides, recipe)
    folder = out or new_click_folder(plan.task.model)
    progress = not terminal.json or sys.stderr.isatty()
    try:
        run = run_click_plan(plan, folder, read_test=read_test, progress=progress, log=terminal.log)
    except (Interrupted, KeyboardInterrupt):
        terminal.log(f"\ninterrupted; repeat the command with --out {folder} to continue")
        raise typer.Exit(130) from None
    record = run.record()
    if terminal.json:
        terminal.result(record)
        return
    terminal.table(_columns_table(record))
    for part, found in (("validation", record["valid"]), ("test", record["test"])):
        if found is not None:
            rows = record["rows"]["valid" if part == "validation" else part]
            terminal.table(_metrics_table(f"{record['model']} on {record['data']} ({part}, {rows:,} rows)", found))
    terminal.log(f"model: {folder}")


@app.command()
@expand_paths
def evaluate(
    context: typer.Context,
    model: Model,
    table: Examples,
    query: Query = None,
    separator: Separator = None,
    part: Part = "test",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intervals.")] = 0,
    json: Json = False,
) -> None:
    """Compute the metrics of a model on labeled examples."""
    from segue.experiment.clicks.evaluate_click_model import evaluate_click_model
    from segue.experiment.clicks.train_click_model import open_click_model, record_estimates

    terminal = Terminal.from_context(context, json)
    trained = open_click_model(model)
    rows = _read(table, query, separator, part, terminal)
    found = record_estimates(evaluate_click_model(trained, rows, seed))
    if terminal.json:
        terminal.result({"model": trained.key, "data": rows.name, "rows": len(rows), "metrics": found})
        return
    terminal.table(_metrics_table(f"{trained.key} on {rows.name} ({len(rows):,} rows)", found))


@app.command()
@expand_paths
def predict(
    context: typer.Context,
    model: Model,
    table: Examples,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the rows with their probabilities are written.")],
    query: Query = None,
    separator: Separator = None,
    part: Part = "test",
    json: Json = False,
) -> None:
    """Write the rows of a table with their probabilities.

    The column ``prediction`` says whether a probability reaches the threshold of the model.
    """
    from segue.experiment.clicks.evaluate_click_model import predict_table
    from segue.experiment.clicks.train_click_model import open_click_model
    from segue.experiment.inference.files import check_suffix, write_table

    terminal = Terminal.from_context(context, json)
    check_suffix(out)
    trained = open_click_model(model)
    rows = _read(table, query, separator, part, terminal)
    found = predict_table(trained, rows)
    write_table(out, found)
    if terminal.json:
        mean = float(found["probability"].mean())  # type: ignore[arg-type]
        terminal.result({"file": str(out), "rows": len(found), "mean_probability": mean})
        return
    terminal.log(f"{len(found):,} rows written to {out}")


def _plan(task: dict[str, Any], overrides: list[str], recipe: str | None) -> ClickPlan:
    from segue.experiment.clicks.click_plan import make_click_plan, read_click_plan

    if recipe is not None:
        return read_click_plan(Path(recipe).expanduser(), task, overrides)
    if "model" not in task:
        raise ValueError("train: no MODEL given, expected the key of a model such as deepfm")
    if "data" not in task:
        raise ValueError("train: no --data given, expected a file, a folder, a name such as frappe-x1 or a database")
    return make_click_plan(task, overrides)


def _read(address: str, query: str | None, separator: str | None, part: str, terminal: Terminal) -> ExampleTable:
    """Read a table, or one part of it if it has parts."""
    from segue.data.examples.read import read_examples
    from segue.data.examples.splits import ExampleSplitSettings, split_table
    from segue.data.examples.table import PARTS

    if part not in PARTS:
        raise ValueError(f"--part: got '{part}', expected {', '.join(PARTS)}")
    table = read_examples(address, query, separator, terminal.log)
    for note in table.notes:
        terminal.log(note)
    if table.part_column is None:
        return table
    found: ExampleTable = getattr(split_table(table, ExampleSplitSettings()), part)
    return found


def _columns_table(record: Mapping[str, Any]) -> Table:
    from segue.reports.tables import Table as ReportTable

    rows = tuple((one["column"], one["kind"], one["details"]) for one in record["columns"])
    return ReportTable("Columns", ("column", "read as", ""), rows, first_numeric=3)


def _metrics_table(title: str, found: Mapping[str, list[float | None]]) -> Table:
    from segue.reports.quantities import format_mean, format_span
    from segue.reports.tables import Table as ReportTable

    rows = []
    for name, (mean, low, high) in found.items():
        span = "" if low is None or high is None else format_span((low, high))
        rows.append((name.replace("_", " "), "" if mean is None else format_mean(mean), span))
    return ReportTable(title, ("", "value", "95 % interval"), tuple(rows))
