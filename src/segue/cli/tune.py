"""``segue tune`` and ``segue auto``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.console import Columns, Json, Separator, Set, Target, Terminal, command_line
from segue.cli.evaluate import Data, ExcludeSeen, Protocol, evaluation_overrides, task_values
from segue.cli.train import MaxUsers

if TYPE_CHECKING:
    from segue.experiment.tuning.result import TuningResult

__all__ = ["Storage", "Trials", "TuningTime", "auto", "show_trials", "tune"]

Seed = Annotated[int | None, typer.Option(help="Short for --set run.seed=...")]
Device = Annotated[str | None, typer.Option(help="Short for --set run.device=...")]
Trials = Annotated[int, typer.Option(min=1, help="Number of trials of each model.")]
TuningTime = Annotated[
    str | None, typer.Option(metavar="TIME", help="Time of the trials of each model, such as 90s, 10m or 2h.")
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Database of the trials: sqlite:///FILE or postgresql://... [default: a file in --out]",
        show_default=False,
    ),
]


def tune(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Keys of one or more models.")],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Name of a dataset such as ml-100k, a file or a folder.")
    ] = None,
    trials: Trials = 20,
    time: TuningTime = None,
    set_: Set = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Settings to start from; 'none' for defaults. [default: the recipe for this data, if any]",
        ),
    ] = None,
    storage: Storage = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of trials and recipes. [default: tune in the folder of the runs]"),
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Also compare the best settings of each model on the test part.")
    ] = False,
    seed: Seed = None,
    device: Device = None,
    protocol: Protocol = None,
    exclude_seen: ExcludeSeen = None,
    max_users: MaxUsers = None,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """Choose the settings of models on validation, with the same budget for each.

    The first trial has the recipe or default settings. The same command continues after an interruption, or with more
    trials. A setting given by --set is not searched; one of a single model is MODEL.KEY=VALUE.
    """
    from segue.core.run import Interrupted
    from segue.experiment.tuning.model_study import Budget
    from segue.experiment.tuning.tune import parse_duration, tune_runs

    terminal = Terminal.from_context(context, json)
    if data is None:
        raise ValueError("tune: no --data given, expected a name such as ml-100k, a file or a folder")
    short = [*evaluation_overrides(None, exclude_seen, None, protocol), *_run_overrides(seed, device)]
    try:
        result = tune_runs(
            models,
            task_values(data, max_users, columns, separator, target),
            [*(set_ or []), *short],
            Budget(trials, parse_duration(time, "--time")),
            recipe=recipe,
            storage=storage,
            folder=out,
            test=test,
            progress=sys.stderr.isatty(),
            log=terminal.log,
        )
    except (Interrupted, KeyboardInterrupt):
        terminal.log("\ninterrupted; repeat the command to continue")
        raise typer.Exit(130) from None
    if terminal.json:
        terminal.result({**result.record(), "test": result.comparison})
        return
    show_trials(result, terminal, ["segue", "train"])
    if result.comparison is not None:
        _show_comparison(result.comparison, terminal)


def _run_overrides(seed: int | None, device: str | None) -> list[str]:
    short = {"run.seed": seed, "run.device": device}
    return [f"{key}={value}" for key, value in short.items() if value is not None]


def show_trials(result: TuningResult, terminal: Terminal, command: Sequence[str]) -> None:
    """Print the trials of each model, the best model first, and its recipe.

    Args:
        command: words of the command that trains a model.
    """
    from segue.reports.tuning import importance_lines, trials_table

    record = result.record()
    for name, model in record["models"].items():
        terminal.table(trials_table(name, model, result.metric))
        for line in importance_lines(name, model):
            print(line)
    if len(record["models"]) > 1:
        for name in result.ranking:
            best = result.models[name].best
            print(f"{name}: best validation {result.metric} {best.mean:.4f} [{best.low:.4f}, {best.high:.4f}]")
    for model in record["models"].values():
        words = [*command, model["model"], "--data", result.data, "--recipe", model["recipe"]]
        print(f"recipe: {shlex.join(words)}")


def _show_comparison(comparison: dict[str, Any], terminal: Terminal) -> None:
    """Print the comparison on the test part."""
    from segue.reports.paired_tests import effect_sizes_table, tests_table
    from segue.reports.tables import comparison_table

    for table in (comparison_table(comparison), tests_table(comparison), effect_sizes_table(comparison)):
        if table is not None:
            terminal.table(table)
    for warning in comparison["warnings"]:
        terminal.log(f"warning: {warning}")
    terminal.log(f"page: {comparison['page']}")


def auto(
    context: typer.Context,
    data: Data,
    time: Annotated[
        str, typer.Option(metavar="TIME", help="Time for everything, such as 90s, 10m or 2h; with the final run.")
    ] = "10m",
    metric: Annotated[str, typer.Option(help="Ranking metric on validation that chooses the model.")] = "ndcg@10",
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Folder of the run. [default: a new one]")] = None,
    seed: Seed = None,
    device: Device = None,
    protocol: Protocol = None,
    exclude_seen: ExcludeSeen = None,
    max_users: MaxUsers = None,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """Choose the best model for some data within a time, and train it as a run.

    Simple baselines come first, then models without a training loop, then networks, as far as the time allows. The
    choice is made on validation, and is never below the strongest simple baseline there. --set changes filters, the
    split and the evaluation.
    """
    from segue.core.run import Interrupted
    from segue.experiment.tuning.auto import auto_run
    from segue.experiment.tuning.tune import parse_duration

    terminal = Terminal.from_context(context, json)
    seconds = parse_duration(time, "--time")
    assert seconds is not None
    try:
        result = auto_run(
            task_values(data, max_users, columns, separator, target),
            [*(set_ or []), *evaluation_overrides(None, exclude_seen, None, protocol), *_run_overrides(seed, device)],
            seconds,
            metric=metric,
            out=out,
            progress=sys.stderr.isatty(),
            log=terminal.log,
            command=command_line(),
        )
    except (Interrupted, KeyboardInterrupt):
        terminal.log("\ninterrupted")
        raise typer.Exit(130) from None
    if terminal.json:
        terminal.result(result.record())
        return
    from segue.reports.tuning import attempts_table

    terminal.table(attempts_table(result.record()))
    for line in result.describe():
        print(line)
    print(f"run: {result.run}")
