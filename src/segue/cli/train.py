"""``segue train``: train and evaluate one model on one log, as a run."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from segue.cli.console import Columns, Command, Json, Separator, Set, Target, Terminal, command_line, parse_pairs

if TYPE_CHECKING:
    from segue.experiment.clicks.click_plan import ClickPlan
    from segue.experiment.plan import Plan

__all__ = ["MaxUsers", "Protocol", "TrainCommand", "train", "with_trackers"]

AnyPlan = TypeVar("AnyPlan", "Plan", "ClickPlan")

MaxUsers = Annotated[
    int | None, typer.Option("--max-users", metavar="N", help="Use only the first N users, to try things out.")
]

Track = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS",
        help="Where the run is tracked: tensorboard, mlflow:URI, wandb:PROJECT or none. May be repeated. Short for "
        "--set run.track=[...] [default: TensorBoard if installed]",
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        metavar="full|window|repeats|ncf|session",
        help="Evaluation protocol: sets the split, the items that are ranked, and the metrics unless named.",
        show_default=False,
    ),
]


class TrainCommand(Command):
    """The command, whose help lists the settings of the named model."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember the arguments, as help is printed before they are parsed."""
        ctx.meta["segue.arguments"] = list(args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help and, if a model is named, all its settings."""
        super().format_help(ctx, formatter)
        arguments = ctx.meta.get("segue.arguments", [])
        if not arguments or arguments[0].startswith("-"):
            formatter.write(
                "\nsegue train MODEL --help lists every setting of a model; segue models lists the models.\n"
            )
            return
        from segue.experiment.describe import describe_settings, training_groups

        for name, group in training_groups(arguments[0]).items():
            formatter.write(f"\nSettings of group {name} (--set {name}.KEY=VALUE):\n")
            for one in describe_settings(group):
                head = f"{one.name}: {one.type} [default: {one.default}]"
                for text, indent in ((head, 2), (one.description, 6)):
                    lines = textwrap.wrap(text, formatter.width, initial_indent=" " * indent, subsequent_indent=" " * 6)
                    formatter.write("\n".join([*lines, ""]))


def train(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Key of a model, such as xlstm.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Name of a dataset such as ml-100k, a file or a folder.")
    ] = None,
    set_: Set = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Settings to start from; 'none' for defaults. [default: the recipe for this data, if any]",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Folder of the run. [default: a new one]")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Resume an interrupted run.")] = None,
    max_users: MaxUsers = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set run.seed=...")] = None,
    device: Annotated[str | None, typer.Option(help="Short for --set run.device=...")] = None,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    test: Annotated[
        bool, typer.Option("--test", help="Also evaluate on the test part; the run records each reading.")
    ] = False,
    items: Annotated[
        str | None,
        typer.Option(
            metavar="all|warm|cold",
            help="Which items are ranked in the evaluation. Short for --set evaluation.items=...",
        ),
    ] = None,
    protocol: Protocol = None,
    track: Track = None,
    profile: Annotated[bool, typer.Option("--profile", help="Print the functions that took most time.")] = False,
    json: Json = False,
) -> None:
    """Train a model, evaluate it on validation, and store the result as a run.

    A run is a folder with settings, model, metrics, values per query, training history, figures and a model card.
    """
    from segue.experiment.run_folder import create_run

    terminal = Terminal.from_context(context, json)
    short = {"run.seed": seed, "run.device": device, "evaluation.items": items, "evaluation.protocol": protocol}
    overrides = [*(set_ or []), *(f"{key}={value}" for key, value in short.items() if value is not None)]
    task = {
        "model": model,
        "data": data,
        "max_users": max_users,
        "columns": parse_pairs(columns, "--columns"),
        "separator": separator,
        "target": target,
    }
    if resume is not None:
        options = {**task, "recipe": recipe, "out": out}
        plan, out = _resume_plan(resume, [*overrides, *(name for name, value in options.items() if value is not None)])
    else:
        plan = _new_plan({key: value for key, value in task.items() if value is not None}, overrides, recipe)
        terminal.log(f"recipe: {plan.task.recipe or 'none, defaults'}")
    plan = with_trackers(plan, track)
    folder = create_run(plan, out)
    record = _run(plan, folder, terminal, profile, test)
    if terminal.json:
        terminal.result(record)
        return
    _show(record, plan, terminal)


def _show(record: dict[str, Any], plan: Plan, terminal: Terminal) -> None:
    """Print the metrics, the cost and the warnings of a run."""
    from segue.reports.tables import cost_table, metrics_table
    from segue.reports.warmth import warmth_tables

    if record["part"] is None:
        terminal.log("nothing was held out for validation, so there are no metrics")
    else:
        terminal.table(metrics_table(record))
        for table in warmth_tables(record):
            terminal.table(table)
    terminal.table(cost_table({"models": {plan.task.model: record}, "metric": None}))
    if record["train"]:
        terminal.log(f"rmse on the training part: {record['train']['rmse']:.4f}")
    for warning in record["warnings"]:
        terminal.log(f"warning: {warning}")


def with_trackers(plan: AnyPlan, track: list[str] | None) -> AnyPlan:
    """Return the plan with other trackers, if some are given.

    ``none`` alone means no tracker.
    """
    from segue.core.config import parse

    if track is None:
        return plan
    if "none" in track and len(track) > 1:
        raise ValueError(f"--track: got none and {len(track) - 1} more, expected none alone or only addresses")
    addresses = [] if track == ["none"] else track
    return replace(plan, run=parse(type(plan.run), {**plan.run.model_dump(), "track": addresses}, "run"))


def _new_plan(task: dict[str, Any], overrides: list[str], recipe: str | None) -> Plan:
    from segue.core.registry import model_keys
    from segue.experiment.arguments import check_device
    from segue.experiment.plan import make_plan

    if "model" not in task:
        raise ValueError(f"train: no MODEL given; known: {', '.join(model_keys())}")
    if "data" not in task:
        raise ValueError(
            "train: no --data given, expected a name such as ml-100k, a file or a folder; segue sources lists the names"
        )
    plan = make_plan(task, overrides, recipe)
    check_device(plan.run.device)
    return plan


def _resume_plan(run: str, options: list[str]) -> tuple[Plan, Path]:
    from segue.experiment.paths import find_run
    from segue.experiment.plan import read_plan

    if options:
        raise ValueError(f"--resume uses the settings of the run; remove {', '.join(options)}")
    folder = find_run(run)
    return read_plan(folder / "settings.toml"), folder


def _run(plan: Plan, folder: Path, terminal: Terminal, profile: bool, read_test: bool) -> dict[str, Any]:
    from segue.core.run import Interrupted
    from segue.experiment.run_experiment import run_plan
    from segue.experiment.run_folder import delete_if_untrained

    command = command_line()
    progress = not terminal.json or sys.stderr.isatty()

    def run() -> dict[str, Any]:
        return run_plan(plan, folder, log=terminal.log, progress=progress, command=command, read_test=read_test)

    try:
        return _profile(run, terminal) if profile else run()
    except (ValueError, OSError):
        delete_if_untrained(folder)
        raise
    except (Interrupted, KeyboardInterrupt):
        terminal.log(f"\ninterrupted; resume with: segue train --resume {folder}")
        raise typer.Exit(130) from None


def _profile(run: Callable[[], dict[str, Any]], terminal: Terminal, rows: int = 20) -> dict[str, Any]:
    """Profile the run and print its slowest functions.

    These are the ``rows`` functions with the longest own time. Operations of torch and numpy are included.
    """
    import cProfile
    import io
    import pstats

    profiler = cProfile.Profile()
    record = profiler.runcall(run)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(rows)
    terminal.log(text.getvalue().strip())
    return record
