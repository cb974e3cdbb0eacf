"""``segue clicks``: click-through models on tables of labeled examples."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from segue.cli.console import Json, Separator, Set, Terminal, command_line, expand_paths, parse_seeds, read_query
from segue.cli.train import with_trackers
from segue.cli.tune import Storage, Trials, TuningTime, show_trials

if TYPE_CHECKING:
    import polars as pl

    from segue.data.examples.table import ExampleRows
    from segue.experiment.clicks.click_plan import ClickPlan

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
    str | None, typer.Option(metavar="SQL|@FILE", help="Query whose result is the table, if it is in a database.")
]
Part = Annotated[str, typer.Option(help="train, valid or test, if the table has given parts.")]
Label = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the labels, 0 or 1. [default: label]")]
Valid = Annotated[str | None, typer.Option(metavar="TABLE", help="The validation rows, if they are in another file.")]
Test = Annotated[str | None, typer.Option(metavar="TABLE", help="The test rows, if they are in another file.")]
Split = Annotated[
    str | None,
    typer.Option(metavar="random|time|user|given", help="How rows are split. [default: given parts, else random]"),
]
Column = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column of the times, the users or the given parts.")
]
Calibration = Annotated[
    str | None,
    typer.Option(metavar="platt|temperature|isotonic", help="Calibrate probabilities on the validation rows."),
]
Memory = Annotated[
    str,
    typer.Option(
        metavar="auto|all|streamed", help="Whether Parquet files are read into memory; auto: up to 2 GiB of them are."
    ),
]
ClickTrack = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="ADDRESS",
        help="Where the training is tracked: tensorboard, mlflow:URI, wandb:PROJECT or none. May be repeated. Short "
        "for --set run.track=[...] [default: none]",
    ),
]
Device = Annotated[str | None, typer.Option(help="Short for --set run.device=...")]


@dataclass(frozen=True)
class TrainingOptions:
    """Options of every command that trains."""

    label: Label
    query: Query
    separator: Separator
    valid: Valid
    test: Test
    split: Split
    column: Column
    calibration: Calibration
    set_: Set
    device: Device

    def task(self, model: str | None, data: str | None) -> dict[str, Any]:
        """Return what is trained on what, as far as it is given."""
        task = {
            "model": model,
            "data": data,
            "query": read_query(self.query),
            "separator": self.separator,
            "valid": self.valid,
            "test": self.test,
        }
        return {key: value for key, value in task.items() if value is not None}

    def overrides(self, seed: int | None = None) -> list[str]:
        """Return the settings; the short forms are last."""
        short = {
            "examples.label": self.label,
            "split.strategy": self.split,
            "split.column": self.column,
            "run.calibration": self.calibration,
            "run.seed": seed,
            "run.device": self.device,
        }
        return [*(self.set_ or []), *(f"{key}={value}" for key, value in short.items() if value is not None)]


def with_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter ``options`` of a command by :class:`TrainingOptions`."""
    kinds = get_type_hints(TrainingOptions, include_extras=True)
    parameters: list[Parameter] = []
    for one in signature(command, eval_str=True).parameters.values():
        shared = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kinds[name]) for name in kinds]
        parameters += shared if one.name == "options" else [one.replace(kind=Parameter.KEYWORD_ONLY)]

    @functools.wraps(command)
    def call(**arguments: Any) -> None:
        options = TrainingOptions(**{name: arguments.pop(name) for name in kinds})
        command(**arguments, options=options)

    call.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


@app.command()
@expand_paths
@with_training_options
def train(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Key of a model, such as deepfm.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="File, folder or pattern, a name such as frappe-x1, or a database."),
    ] = None,
    *,
    options: TrainingOptions,
    recipe: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings to start from: training.toml of a trained model.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the model. [default: a new one]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set run.seed=...")] = None,
    read_test: Annotated[bool, typer.Option("--read-test", help="Also evaluate on the test part.")] = False,
    track: ClickTrack = None,
    json: Json = False,
) -> None:
    """Train a model on labeled examples, and evaluate it on the validation rows.

    The folder has the model, all settings and the training history. The same command with the same --out resumes an
    interrupted training.
    """
    from segue.core.run import Interrupted
    from segue.experiment.clicks.run_click_plan import new_click_folder, run_click_plan

    terminal = Terminal.from_context(context, json)
    plan = with_trackers(_plan(options.task(model, data), options.overrides(seed), recipe), track)
    folder = out or new_click_folder(plan.task.model)
    progress = not terminal.json or sys.stderr.isatty()
    try:
        how: dict[str, Any] = {"read_test": read_test, "progress": progress, "log": terminal.log}
        run = run_click_plan(plan, folder, command=command_line(), **how)
    except (Interrupted, KeyboardInterrupt):
        terminal.log(f"\ninterrupted; repeat the command with --out {folder} to continue")
        raise typer.Exit(130) from None
    record = run.record()
    if terminal.json:
        terminal.result(record)
        return
    from segue.reports.clicks import click_metrics_table, columns_table

    terminal.table(columns_table(record))
    for part, found in (("validation", record["valid"]), ("test", record["test"])):
        if found is not None:
            rows = record["rows"]["valid" if part == "validation" else part]
            title = f"{record['model']} on {record['data']} ({part}, {rows:,} rows)"
            terminal.table(click_metrics_table(title, found))
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
    memory: Memory = "auto",
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plot predicted probabilities and observed shares (.svg, .png, .pdf)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intervals.")] = 0,
    json: Json = False,
) -> None:
    """Compute the metrics of a model on labeled examples.

    The reliability plot shows whether probabilities are right, before and after calibration.
    """
    from segue.experiment.clicks.evaluate_click_model import evaluate_click_model
    from segue.experiment.clicks.train_click_model import open_click_model, record_estimates
    from segue.reports.clicks import click_metrics_table
    from segue.reports.plots import check_figure_path, plot_reliability, save_figure

    terminal = Terminal.from_context(context, json)
    if plot is not None:
        check_figure_path(plot)
    trained = open_click_model(model)
    rows = _read(table, query, separator, part, terminal, memory)
    found = evaluate_click_model(trained, rows, seed)
    curves = {name: one.to_dict(as_series=False) for name, one in found.reliability_curves.items()}
    if plot is not None:
        name = rows.name if len(rows.name) <= 40 else f"...{rows.name[-37:]}"
        save_figure(plot_reliability(curves, f"{trained.key} on {name}, {found.rows:,} rows"), plot)
    metrics = record_estimates(found)
    if terminal.json:
        record = {"model": trained.key, "data": rows.name, "rows": found.rows, "metrics": metrics}
        bins = {name: one.to_dicts() for name, one in found.reliability_curves.items()}
        terminal.result({**record, "reliability": bins, "plot": None if plot is None else str(plot)})
        return
    terminal.table(click_metrics_table(f"{trained.key} on {rows.name} ({found.rows:,} rows)", metrics))
    if plot is not None:
        terminal.log(f"plot: {plot}")


@app.command()
@expand_paths
@with_training_options
def compare(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Folders of trained models, and keys of models to train: KEY or KEY@LABEL."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE",
            help="The data to train on; with folders alone, a table to compare on. [default: that of the folders]",
        ),
    ] = None,
    *,
    options: TrainingOptions,
    seeds: Annotated[
        str | None, typer.Option(metavar="SEED,...", help="Train each key with each seed, and average. [default: 0]")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Test only against this model. [default: every pair]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the models that are trained. [default: a new one]")
    ] = None,
    read_test: Annotated[
        bool, typer.Option("--read-test", help="Compare on the test part, not on validation.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare models on the same rows by paired tests.

    Models given by key are trained on one split with equal seeds; a setting of one model is MODEL.KEY=VALUE. The
    comparison is on validation, or on the test part with --read-test. Trained models are compared on that of their
    split, or on another table with --data. The same command with the same --out resumes an interrupted training.
    """
    from segue.core.run import Interrupted
    from segue.experiment.clicks.compare_click_plans import compare_on_split, compare_on_table, open_compared_models
    from segue.experiment.clicks.run_click_plan import new_click_folder
    from segue.reports.clicks import click_comparison_table, click_tests_table

    terminal = Terminal.from_context(context, json)
    compared = open_compared_models(models, terminal.log)
    overrides, task = options.overrides(), options.task(None, data)
    if compared.untrained and data is None:
        raise ValueError("compare: no --data given, expected a file, a folder, a name such as frappe-x1 or a database")
    if data is not None and not compared.untrained:
        if unused := [*(name for name in ("valid", "test") if name in task), *overrides, *(["seeds"] if seeds else [])]:
            raise ValueError(f"compare: {unused[0]} has no effect, as all models are trained and compared on {data}")
        rows = _read(data, options.query, options.separator, "test" if read_test else "valid", terminal)
        record = compare_on_table(compared, rows, data, read_query(options.query), baseline=baseline)
    else:
        folder = out or new_click_folder("compare")
        how: dict[str, Any] = {"seeds": parse_seeds(seeds), "baseline": baseline, "read_test": read_test}
        how |= {"progress": not terminal.json or sys.stderr.isatty(), "log": terminal.log}
        try:
            record = compare_on_split(compared, task, overrides, folder=folder, **how)
        except (Interrupted, KeyboardInterrupt):
            terminal.log(f"\ninterrupted; repeat the command with --out {folder} to continue")
            raise typer.Exit(130) from None
    if terminal.json:
        terminal.result(record)
        return
    terminal.table(click_comparison_table(record))
    for metric, tests in record["tests"].items():
        terminal.table(click_tests_table(metric, tests))
    if record.get("folder") is not None:
        terminal.log(f"models: {record['folder']}")


@app.command()
@expand_paths
@with_training_options
def tune(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Keys of one or more models.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="File, folder or pattern, a name such as frappe-x1, or a database."),
    ] = None,
    *,
    options: TrainingOptions,
    trials: Trials = 20,
    time: TuningTime = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings to start from, for a single model. [default: defaults]")
    ] = None,
    storage: Storage = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of trials and recipes. [default: tune in the folder of the runs]"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set run.seed=...")] = None,
    read_test: Annotated[
        bool, typer.Option("--read-test", help="Also compare the best settings of each model on the test part.")
    ] = False,
    json: Json = False,
) -> None:
    """Choose the settings of models on validation, with the same budget for each.

    The first trial has the settings of --recipe, or the defaults. The same command continues after an interruption, or
    with more trials. A setting given by --set is not searched; one of a single model is MODEL.KEY=VALUE.
    """
    from segue.core.run import Interrupted
    from segue.experiment.clicks.tune_click_models import tune_click_runs
    from segue.experiment.tuning.model_study import Budget
    from segue.experiment.tuning.tune import parse_duration
    from segue.reports.clicks import click_comparison_table, click_tests_table

    terminal = Terminal.from_context(context, json)
    if data is None:
        raise ValueError("tune: no --data given, expected a file, a folder, a name such as frappe-x1 or a database")
    where: dict[str, Any] = {"recipe": recipe, "storage": storage, "folder": out, "read_test": read_test}
    try:
        result = tune_click_runs(
            models,
            options.task(None, data),
            options.overrides(seed),
            Budget(trials, parse_duration(time, "--time")),
            **where,
            progress=sys.stderr.isatty(),
            log=terminal.log,
        )
    except (Interrupted, KeyboardInterrupt):
        terminal.log("\ninterrupted; repeat the command to continue")
        raise typer.Exit(130) from None
    if terminal.json:
        terminal.result({**result.record(), "test": result.comparison})
        return
    show_trials(result, terminal, ["segue", "clicks", "train"])
    if result.comparison is not None:
        terminal.table(click_comparison_table(result.comparison))
        for metric, tests in result.comparison["tests"].items():
            terminal.table(click_tests_table(metric, tests))
        terminal.log(f"models: {result.comparison['folder']}")


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
    memory: Memory = "auto",
    json: Json = False,
) -> None:
    """Write the rows of a table with their probabilities.

    The column ``prediction`` says whether a probability reaches the threshold of the model.
    """
    from segue.experiment.clicks.evaluate_click_model import predict_table
    from segue.experiment.clicks.train_click_model import open_click_model
    from segue.experiment.inference.files import check_suffix, write_parts

    terminal = Terminal.from_context(context, json)
    check_suffix(out)
    trained = open_click_model(model)
    rows = _read(table, query, separator, part, terminal, memory)
    count, total = 0, 0.0

    def parts() -> Iterator[pl.DataFrame]:
        nonlocal count, total
        for part in predict_table(trained, rows):
            count, total = count + len(part), total + float(part["probability"].sum())
            yield part

    write_parts(out, parts())
    if terminal.json:
        terminal.result({"file": str(out), "rows": count, "mean_probability": total / count})
        return
    terminal.log(f"{count:,} rows written to {out}")


def _plan(task: dict[str, Any], overrides: list[str], recipe: str | None) -> ClickPlan:
    from segue.experiment.clicks.click_plan import make_click_plan, read_click_plan

    if recipe is not None:
        return read_click_plan(Path(recipe).expanduser(), task, overrides)
    if "model" not in task:
        raise ValueError("train: no MODEL given, expected the key of a model such as deepfm")
    if "data" not in task:
        raise ValueError("train: no --data given, expected a file, a folder, a name such as frappe-x1 or a database")
    return make_click_plan(task, overrides)


def _read(
    address: str, query: str | None, separator: str | None, part: str, terminal: Terminal, memory: str = "auto"
) -> ExampleRows:
    """Read a table, or one part of it if it has parts."""
    from segue.data.examples.read import MemoryMode, read_examples
    from segue.data.examples.splits import ExampleSplitSettings, split_table
    from segue.data.examples.table import PARTS

    if part not in PARTS:
        raise ValueError(f"--part: got '{part}', expected {', '.join(PARTS)}")
    if memory not in get_args(MemoryMode):
        raise ValueError(f"--memory: got '{memory}', expected {', '.join(get_args(MemoryMode))}")
    mode: MemoryMode = memory  # type: ignore[assignment]  # checked above
    table = read_examples(address, read_query(query), separator, terminal.log, memory=mode)
    for note in table.notes:
        terminal.log(note)
    if table.part_column is None:
        return table
    found: ExampleRows = getattr(split_table(table, ExampleSplitSettings()), part)
    if not len(found):
        raise ValueError(f"--part: {table.name} has no rows of the part '{part}', expected some; name another part")
    return found
