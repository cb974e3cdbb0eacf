"""``segue baselines`` and ``segue audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.console import Columns, Json, Separator, Set, Target, Terminal
from segue.cli.evaluate import Data, ExcludeSeen, Items, Metrics, Protocol, evaluation_overrides, task_values
from segue.cli.train import MaxUsers

if TYPE_CHECKING:
    from segue.experiment.plan import Plan

__all__ = ["audit", "baselines", "make_data_plan"]


def baselines(
    context: typer.Context,
    data: Data,
    test: Annotated[
        bool, typer.Option("--test", help="Measure on the test part, which is recorded, instead of validation.")
    ] = False,
    metrics: Metrics = None,
    protocol: Protocol = None,
    exclude_seen: ExcludeSeen = None,
    items: Items = None,
    set_: Set = None,
    max_users: MaxUsers = None,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """Measure what is reachable without learning, in seconds.

    These are popular and recently popular items, the items that followed the last one, the user's most frequent items,
    EASE, and for ratings the means of item and user. --set changes filters, the split and the evaluation.
    """
    from segue.data.splits import split
    from segue.experiment.baselines.measure import measure_baselines
    from segue.experiment.data import load_data
    from segue.experiment.paths import runs_folder
    from segue.experiment.protocols.arguments import resolve_arguments
    from segue.experiment.records.held_out_readings import record_reading

    terminal = Terminal.from_context(context, json)
    overrides = [*(set_ or []), *evaluation_overrides(metrics, exclude_seen, items, protocol)]
    plan, given = make_data_plan(task_values(data, max_users, columns, separator, target), overrides, "baselines")
    settings = plan.evaluation
    named = given["evaluation"]
    requested = resolve_arguments(
        settings.protocol,
        settings.exclude_seen,
        settings.items,
        settings.metrics if "metrics" in named else None,
        settings.ks if "ks" in named else None,
        (10,),
    )
    result = measure_baselines(
        split(load_data(plan, terminal.log), plan.split),
        "test" if test else "valid",
        requested,
        thresholds={"warm_items": settings.warm_items},
        seed=plan.run.seed,
        command="segue baselines",
        name=plan.task.data,
    )
    for reading in result.test_readings:
        record_reading(runs_folder(), reading)
    if terminal.json:
        terminal.result(result.record())
        return
    from segue.reports.tables import baselines_table

    terminal.table(baselines_table(result.record()))
    for line in result.describe():
        print(line)


def audit(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA|RUN...",
            help="A dataset, file or folder; the name or folder of a run or saved model; or runs to be compared.",
        ),
    ],
    set_: Set = None,
    max_users: MaxUsers = None,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """Check a log, its split and its runs for faults that make figures wrong.

    --set changes filters and the split of DATA. The exit status is 1 if there is an error, 0 if there are only
    warnings and notes, 2 if the audit could not be made.
    """
    from segue.data.splits import split
    from segue.experiment.audit.audit import (
        audit_runs,
        audit_saved_model,
        audit_split,
        check_target,
        is_run,
        is_saved_model,
    )
    from segue.experiment.data import load_data
    from segue.experiment.paths import find_run

    terminal = Terminal.from_context(context, json)
    layout = {"--max-users": max_users, "--columns": columns, "--separator": separator, "--target": target}
    options = [*(["--set"] if set_ else []), *(name for name, value in layout.items() if value is not None)]
    are_runs = all(map(is_run, targets))
    if options and (are_runs or is_saved_model(targets[0])):
        raise ValueError(f"{options[0]}: not used for '{targets[0]}', which has its own data and split; leave it out")
    if are_runs:
        report = audit_runs([find_run(name) for name in targets], terminal.log)
    elif len(targets) > 1:
        other = next(name for name in targets if not is_run(name))
        raise ValueError(f"audit: '{other}' is not a run; expected one DATA, or one or several runs")
    elif is_saved_model(targets[0]):
        report = audit_saved_model(Path(targets[0]).expanduser())
    else:
        check_target(targets[0])
        plan, _ = make_data_plan(task_values(targets[0], max_users, columns, separator, target), set_ or [], "audit")
        data = load_data(plan, terminal.log)
        report = audit_split(split(data, plan.split), data, plan.task.data)
    if terminal.json:
        terminal.result(report.record())
    else:
        print(report)
    raise typer.Exit(report.exit_status)


UNUSED = {
    "baselines": ("model", "training", "text", "knowledge"),
    "audit": ("model", "training", "text", "knowledge", "evaluation", "run"),
    "report": ("model", "training", "text", "knowledge", "evaluation", "run"),
}
"""Groups of settings that have no effect on a command."""

UNUSED_EVALUATION = ("sampled", "hot_items", "warm_users", "hot_users", "baseline")
"""Evaluation settings that have no effect on the baselines."""


def make_data_plan(task: dict[str, Any], overrides: list[str], command: str) -> tuple[Plan, dict[str, dict[str, Any]]]:
    """Resolve the settings of the data and its split.

    What was given is returned by group, too.

    Raises:
        ValueError: a setting that ``command`` does not use.
    """
    from segue.experiment.plan import make_plan, resolve_overrides

    errors: list[str] = []
    given = resolve_overrides(["popular"], overrides, errors)
    unused = [f"{group}.{key}" for group in UNUSED[command] for key in given[group]]
    if command == "baselines":
        unused += [f"evaluation.{key}" for key in given["evaluation"] if key in UNUSED_EVALUATION]
        unused += ["run.device"] * ("device" in given["run"])
    errors += [f"{name}: not used by segue {command}" for name in unused]
    if errors:
        raise ValueError("\n".join(errors))
    return make_plan({"model": "popular", **task}, overrides, "none"), given
