"""``segue train``: one model, from a log to a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.console import Columns, Json, Set, Target, Terminal, pairs

if TYPE_CHECKING:
    from segue.experiment.plan import Plan

__all__ = ["train"]


def train(
    context: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Key of a model, such as xlstm.")] = None,
    data: Annotated[str | None, typer.Option(metavar="D", help="A name such as ml-100k, a file or a folder.")] = None,
    set_: Set = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings to start from; 'none' for defaults. [default: ours]")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Folder of the run. [default: a new one]")] = None,
    resume: Annotated[str | None, typer.Option(metavar="RUN", help="Go on with an interrupted run.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N users, to try things out.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same as --set run.seed=...")] = None,
    device: Annotated[str | None, typer.Option(help="The same as --set run.device=...")] = None,
    columns: Columns = None,
    target: Target = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    json: Json = False,
) -> None:
    """Train and measure a model; all of it goes into a run.

    A run is a folder: settings, the model, its metrics, their values per user, history, figures and a model card.
    """
    from segue.experiment.run_folder import begin

    terminal = Terminal.of(context, json)
    short = {"run.seed": seed, "run.device": device}
    assignments = [*(set_ or []), *(f"{key}={value}" for key, value in short.items() if value is not None)]
    task = {"model": model, "data": data, "limit": limit, "columns": pairs(columns, "--columns"), "target": target}
    if resume is not None:
        given = {**task, "recipe": recipe, "out": out}
        plan, out = _resumed(resume, [*assignments, *(name for name, value in given.items() if value is not None)])
    else:
        plan = _planned({key: value for key, value in task.items() if value is not None}, assignments, recipe)
        terminal.say(f"recipe: {plan.task.recipe or 'none, defaults'}")
    folder = begin(plan, out)
    terminal.say(f"run: {folder}")
    record = _run(plan, folder, terminal, profile)
    if terminal.json:
        terminal.result(record)
        return
    from segue.reports.tables import cost, metrics

    terminal.table(metrics(record))
    terminal.table(cost({"models": {plan.task.model: record}, "metric": next(iter(record["intervals"]))}))
    for warning in record["warnings"]:
        terminal.say(f"mind: {warning}")


def _planned(task: dict[str, Any], assignments: list[str], recipe: str | None) -> Plan:
    from segue.core.registry import model_keys
    from segue.experiment.plan import plan

    if "model" not in task:
        raise ValueError(f"train: which model? known: {', '.join(model_keys())}")
    if "data" not in task:
        raise ValueError("train: on which data? --data ml-100k, a file or a folder; 'segue data list' lists names")
    return plan(task, assignments, recipe)


def _resumed(run: str, given: list[str]) -> tuple[Plan, Path]:
    from segue.experiment.paths import find_run
    from segue.experiment.plan import read_plan

    if given:
        raise ValueError(f"--resume goes on with the settings of the run; not understood beside it: {', '.join(given)}")
    folder = find_run(run)
    return read_plan(folder / "settings.toml"), folder


def _run(plan: Plan, folder: Path, terminal: Terminal, profile: bool) -> dict[str, Any]:
    from segue.core.run import Interrupted
    from segue.experiment.run_experiment import run_plan
    from segue.experiment.run_folder import abandon

    command = " ".join(["segue", *sys.argv[1:]])
    show = not terminal.json or sys.stderr.isatty()
    try:
        if not profile:
            return run_plan(plan, folder, say=terminal.say, show=show, command=command)
        from segue.experiment.profiler import profiled

        record, table = profiled(lambda: run_plan(plan, folder, say=terminal.say, show=show, command=command))
        terminal.say(table)
    except (ValueError, OSError):
        abandon(folder)
        raise
    except (Interrupted, KeyboardInterrupt):
        terminal.say(f"\ninterrupted; go on with: segue train --resume {folder}")
        raise typer.Exit(130) from None
    return record
