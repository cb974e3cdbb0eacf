"""``segue report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segue.cli.audit import make_data_plan
from segue.cli.console import Columns, Json, Separator, Set, Target, Terminal
from segue.cli.evaluate import task_values
from segue.cli.train import MaxUsers

__all__ = ["report"]


def report(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...|STUDY|DATA",
            help="The name or folder of a run, or of several; that of a study; or a dataset, file or folder.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of the page. [default: a new one in runs/reports]")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write every figure as PNG and SVG to this folder.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="Orders the models of runs. [default: the validation metric]")
    ] = None,
    users: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Users of runs whose lists are shown and explained. [default: 8]"),
    ] = None,
    set_: Set = None,
    max_users: MaxUsers = None,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """Write a report on runs, a study or data as one HTML page that needs no network.

    Runs of different data or protocols are in separate parts of the page. --set changes filters and the split of DATA.
    """
    from segue.data.splits import split
    from segue.experiment.audit.audit import is_run, is_saved_model
    from segue.experiment.data import load_data
    from segue.experiment.paths import find_run
    from segue.experiment.reporting.report import DEFAULT_USERS, name_runs, write_data_report, write_run_report
    from segue.studies.framework.report import is_report_of_study, write_study_report

    terminal = Terminal.from_context(context, json)
    layout = {"--max-users": max_users, "--columns": columns, "--separator": separator, "--target": target}
    of_data = [*(["--set"] if set_ else []), *(name for name, value in layout.items() if value is not None)]
    of_runs = [name for name, value in (("--metric", metric), ("--users", users)) if value is not None]
    are_runs = len(sources) > 1 or is_run(sources[0])
    if are_runs:
        if of_data:
            raise ValueError(f"{of_data[0]}: not used for runs, which have their own data and split; leave it out")
        count = DEFAULT_USERS if users is None else users
        folders = [find_run(name) for name in sources]
        found = write_run_report(folders, out, figures, metric=metric, users=count, log=terminal.log)
    elif is_report_of_study(sources[0]):
        if unused := [*of_data, *of_runs]:
            raise ValueError(f"{unused[0]}: not used for a study, which has its own; leave it out")
        found = write_study_report(sources[0], out, figures)
    elif is_saved_model(sources[0]):
        raise ValueError(f"report: '{sources[0]}' is a saved model, which has no metrics; expected runs or data")
    else:
        if of_runs:
            raise ValueError(f"{of_runs[0]}: used only for runs, and '{sources[0]}' is not one; leave it out")
        plan, _ = make_data_plan(task_values(sources[0], max_users, columns, separator, target), set_ or [], "report")
        with name_runs(sources[0]):
            data = load_data(plan, terminal.log)
        parts = split(data, plan.split)
        found = write_data_report(data, parts, out, figures, name=plan.task.data, log=terminal.log)
    if terminal.json:
        terminal.result(found.record())
    else:
        print(found)
