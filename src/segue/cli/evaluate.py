"""``segue evaluate``, ``segue compare`` and ``segue cross-validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segue.cli.console import Columns, Json, Separator, Set, Target, Terminal, command_line, parse_pairs, parse_seeds
from segue.cli.train import MaxUsers, Protocol

__all__ = [
    "Data",
    "ExcludeSeen",
    "Items",
    "Metrics",
    "Protocol",
    "compare",
    "cross_validate",
    "evaluate",
    "evaluation_overrides",
    "task_values",
]

Data = Annotated[str, typer.Argument(metavar="DATA", help="Name of a dataset such as ml-100k, a file or a folder.")]
Metrics = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Such as ndcg@10,map@10 or rmse. [default: the settings']"),
]
ExcludeSeen = Annotated[
    bool | None,
    typer.Option(
        "--exclude-seen/--include-seen",
        help="Whether items of a user's history are removed from the ranking. [default: removed]",
        show_default=False,
    ),
]

Items = Annotated[
    str | None,
    typer.Option(
        metavar="all|warm|cold",
        help="Which items are ranked: all, those with training events, or those without. [default: all]",
        show_default=False,
    ),
]


def evaluate(
    context: typer.Context,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE",
            help="Name or folder of a run, such as latest, or of a saved model; or a file of recommendation lists.",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="The data to split and evaluate a saved model or lists on.")
    ] = None,
    part: Annotated[str, typer.Option(help="test or valid.")] = "test",
    metrics: Metrics = None,
    by: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Also per group: a user feature such as age, or history_length.")
    ] = None,
    protocol: Protocol = None,
    exclude_seen: ExcludeSeen = None,
    items: Items = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Check the split for leaks, and list when the test part was read.")
    ] = False,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Evaluate the model of a run, or recommendation lists.

    This is on the test part, or on validation.
    The run records each reading of its test part, and stays unchanged otherwise; --set changes evaluation settings,
    such as ks=[1,20].
    """
    from segue.evaluation.recommendation_files import SUFFIXES
    from segue.experiment.evaluate_run import evaluate_file, evaluate_run, evaluate_saved
    from segue.experiment.paths import find_run

    terminal = Terminal.from_context(context, json)
    overrides = [*(set_ or []), *evaluation_overrides(metrics, exclude_seen, items, protocol)]
    folder = Path(run).expanduser()
    command = command_line()
    if folder.suffix in SUFFIXES and not folder.is_dir():
        if data is None or audit:
            raise ValueError(f"evaluate: {run} is a file of recommendation lists; expected --data DATA to split")
        found = evaluate_file(folder, data, part, overrides, by, command)
    elif audit:
        _audit(run, terminal)
        return
    elif (folder / "bundle.json").exists():
        if data is None:
            raise ValueError(f"evaluate: {run} is a saved model, which has no split; expected --data DATA to split")
        found = evaluate_saved(folder, data, part, overrides, by, command)
    elif data is not None:
        raise ValueError("evaluate: a run is evaluated on its own data; leave out --data, or name a saved model")
    else:
        found = evaluate_run(find_run(run), part, overrides, by, command)
    if terminal.json:
        terminal.result(found.record)
        return
    from segue.reports.tables import groups_tables, metrics_table
    from segue.reports.warmth import warmth_tables

    terminal.table(metrics_table(found.record))
    for table in warmth_tables(found.record):
        terminal.table(table)
    for table in groups_tables(found.record, by) if by is not None else []:
        terminal.table(table)
    for warning in found.record["warnings"]:
        terminal.log(f"warning: {warning}")


def _audit(run: str, terminal: Terminal) -> None:
    """Print the leaks of the split of a run, and the readings of its test part.

    A saved model has no split; its own readings are printed.
    """
    from segue.experiment.evaluate_run import audit_run, audit_saved
    from segue.experiment.paths import find_run

    folder = Path(run).expanduser()
    is_saved = (folder / "bundle.json").exists()
    found = audit_saved(folder) if is_saved else audit_run(find_run(run))
    if terminal.json:
        terminal.result(found)
        return
    faults = found.get("leakage", ["a saved model has no split to check for leaks"])
    for fault in faults or ["no leak: targets, histories and training events are disjoint and in order"]:
        print(fault)
    for line in found["text"]:
        print(line)


def compare(
    context: typer.Context,
    data: Data,
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Keys of two or more models.")],
    set_: Set = None,
    metrics: Metrics = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric of the paired tests. [default: the validation metric that the models share, else ndcg@10]",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="SEED,...", help="Train each model with each seed, and average. [default: 0]")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Test only against this model. [default: every pair]")
    ] = None,
    stat_test: Annotated[
        str, typer.Option(metavar="TEST", help="Paired test: randomization, bootstrap, wilcoxon or student.")
    ] = "randomization",
    correction: Annotated[
        str, typer.Option(metavar="NAME", help="Correction for the number of pairs: holm or fdr_bh.")
    ] = "holm",
    protocol: Protocol = None,
    exclude_seen: ExcludeSeen = None,
    items: Items = None,
    max_users: MaxUsers = None,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """Train models on one split and test their differences on the test part.

    Each is trained in its own process; a finished run with the same settings is reused.
    A setting of one model is MODEL.KEY=VALUE. MODEL@LABEL is a further instance of a model with its own settings,
    such as xlstm@mlstm --set xlstm@mlstm.slstm_at=[].
    """
    from segue.core.run import Interrupted
    from segue.experiment.compare_runs import compare_runs

    terminal = Terminal.from_context(context, json)
    overrides = [*(set_ or []), *evaluation_overrides(metrics, exclude_seen, items, protocol)]
    task = task_values(data, max_users, columns, separator, target)
    try:
        tests: Any = {"baseline": baseline, "stat_test": stat_test, "correction": correction}
        result = compare_runs(models, task, overrides, metric, seeds=parse_seeds(seeds), **tests, log=terminal.log)
    except (Interrupted, KeyboardInterrupt):
        terminal.log("\ninterrupted; repeat the command to continue")
        raise typer.Exit(130) from None
    if terminal.json:
        terminal.result(result)
        return
    from segue.reports.paired_tests import effect_sizes_table, power_notes, tests_table
    from segue.reports.tables import comparison_table, overlap_table
    from segue.reports.warmth import warmth_comparison_table

    terminal.table(comparison_table(result))
    terminal.table(tests_table(result))
    for note in power_notes(result):
        print(note)
    for table in (effect_sizes_table(result), warmth_comparison_table(result), overlap_table(result)):
        if table is not None:
            terminal.table(table)
    for warning in result["warnings"]:
        terminal.log(f"warning: {warning}")
    terminal.log(f"page: {result['page']}")


def cross_validate(
    context: typer.Context,
    data: Data,
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Keys of models.")],
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    metrics: Metrics = None,
    valid: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of the events that is validation, in each fold.")
    ] = 0.1,
    exclude_seen: ExcludeSeen = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the models; split.seed is that of the folds.")] = 0,
    set_: Set = None,
    max_users: MaxUsers = None,
    columns: Columns = None,
    separator: Separator = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """Cross-validate models over the same random folds of the events.

    Each model reads the test part of every fold, which is recorded in the folder of the runs.
    A setting of one model is MODEL.KEY=VALUE.
    """
    from segue.experiment.compare_runs import make_plans, own_overrides
    from segue.experiment.cross_validate import cross_validate_plans
    from segue.experiment.data import load_data
    from segue.experiment.plan import resolve_overrides

    terminal = Terminal.from_context(context, json)
    overrides = [*(set_ or []), *evaluation_overrides(metrics, exclude_seen)]
    given = resolve_overrides([models[0].partition("@")[0]], own_overrides(models, overrides)[models[0]], [])
    _check_cross_validation(given)
    names = {name for key in given["split"] for name in (key, f"split.{key}")}  # of the folds, not of the plans
    overrides = [text for text in overrides if text.partition("=")[0].strip() not in names]
    overrides += [f"run.seed={seed}"]
    plans = make_plans(models, task_values(data, max_users, columns, separator, target), overrides, at_least=1)
    first = next(iter(plans.values()))
    result = cross_validate_plans(
        plans,
        load_data(first, terminal.log),
        folds=folds,
        metrics=first.evaluation.metrics if "metrics" in given["evaluation"] else None,
        ks=first.evaluation.ks if "ks" in given["evaluation"] else (10,),
        valid=valid,
        exclude_seen=first.evaluation.exclude_seen,
        split_settings=given["split"],
        log=terminal.log,
        command=command_line(),
    )
    rows = result.table.rows(named=True)
    if terminal.json:
        warmth = result.warmth_table.rows(named=True)
        terminal.result({"data": data, "folds": folds, "models": rows, "values": result.values, "warmth": warmth})
        return
    from segue.reports.tables import cross_validation_table
    from segue.reports.warmth import cross_validation_warmth_table

    terminal.table(cross_validation_table(f"{data}: {folds}-fold cross-validation, t intervals over folds", rows))
    terminal.table(cross_validation_warmth_table(result.metrics[0], result.warmth_table.rows(named=True)))


def _check_cross_validation(given: dict[str, dict[str, Any]]) -> None:
    """Reject settings that cross-validation does not read.

    Raises:
        ValueError: one line per setting.
    """
    unused = [name for name in given["evaluation"] if name not in ("ks", "metrics", "exclude_seen")]
    errors = [f"evaluation.{name}: not used by cross-validation" for name in unused]
    if "seed" in given["run"]:
        errors.append("run.seed: not used by cross-validation, use --seed")
    if errors:
        raise ValueError("\n".join(errors))


def task_values(
    data: str, max_users: int | None, columns: str | None, separator: str | None, target: str | None
) -> dict[str, Any]:
    """Return the values of the task that the options give."""
    task = {
        "data": data,
        "max_users": max_users,
        "columns": parse_pairs(columns, "--columns"),
        "separator": separator,
        "target": target,
    }
    return {key: value for key, value in task.items() if value is not None}


def evaluation_overrides(
    metrics: str | None, exclude_seen: bool | None, items: str | None = None, protocol: str | None = None
) -> list[str]:
    """Write the options that are short for evaluation settings as overrides."""
    overrides = [] if protocol is None else [f"evaluation.protocol={protocol}"]
    overrides += [] if metrics is None else [f"evaluation.metrics=[{metrics}]"]
    overrides += [] if items is None else [f"evaluation.items={items}"]
    return overrides if exclude_seen is None else [*overrides, f"evaluation.exclude_seen={str(exclude_seen).lower()}"]
