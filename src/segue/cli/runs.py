"""``segue runs`` and ``segue verify``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.console import Json, Terminal

if TYPE_CHECKING:
    from segue.reports.tables import Table

__all__ = ["runs", "verify"]

METRICS = (
    ("recall@10", "Recall@10"),
    ("hit_rate@10", "HitRate@10"),
    ("ndcg@10", "NDCG@10"),
    ("mrr@10", "MRR@10"),
    ("rmse", "RMSE"),
)
"""Validation metrics that are shown where a run has them, with their titles."""


def runs(
    context: typer.Context,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Only runs on this data.")] = None,
    json: Json = False,
) -> None:
    """List all runs with their results, the use of their device, and their cost."""
    from segue.experiment.run_history import list_runs

    terminal = Terminal.from_context(context, json)
    records = [record for record in list_runs() if data in (None, record["data"]) or "error" in record]
    if terminal.json:
        terminal.result(records)
    else:
        from segue.reports.tables import split_columns

        for table in split_columns(_runs_table(records), terminal.width):
            terminal.table(table)
        for record in records:
            if "error" in record:
                terminal.log(f"broken run {record['run']}: {record['error']}")


def verify(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or name of a run, such as latest.")],
    json: Json = False,
) -> None:
    """Compare every file of a run with its hash.

    The exit status is 1 if one differs.
    """
    from segue.experiment.paths import find_run
    from segue.experiment.run_folder import verify as verify_run

    terminal = Terminal.from_context(context, json)
    folder = find_run(run)
    errors = verify_run(folder)
    if terminal.json:
        terminal.result({"run": folder.name, "intact": not errors, "errors": errors})
    else:
        for error in errors:
            print(error)
        print(f"{folder}: {'all files are intact' if not errors else f'{len(errors)} errors'}")
    if errors:
        raise typer.Exit(1)


def _runs_table(records: list[dict[str, Any]]) -> Table:
    """Build a table with one row per run; the best run of each dataset is highlighted."""
    from segue.reports.tables import Table

    metrics = [(name, title) for name, title in METRICS if any(name in record.get("valid", ()) for record in records)]
    head = ("run", "data", "model", *(title for _, title in metrics), "test read", "device use", "epoch", "total time",
            "memory", "parameters", "seed")  # fmt: skip
    best = frozenset(number for number, record in enumerate(records) if record["best"])
    title = "Runs, oldest first, with validation metrics and readings of the test part; * is the best of its data"
    return Table(
        title,
        head,
        tuple(_row(record, [name for name, _ in metrics]) for record in records),
        first_numeric=3,
        highlighted=best,
    )


def _row(record: Mapping[str, Any], metrics: Sequence[str]) -> tuple[str, ...]:
    from segue.reports.quantities import format_bytes, format_count, format_duration, format_mean

    name = record["run"] + (" *" if record["best"] else "")
    if not record["finished"]:
        state = "broken" if "error" in record else "not finished"
        return (name, record["data"], record["model"], state, *[""] * (len(metrics) + 5), str(record["seed"]))
    cost, valid = record["cost"], record["valid"]
    epoch_seconds = cost.get("epoch_seconds")
    return (
        name,
        record["data"],
        record["model"],
        *(format_mean(valid[metric]) if metric in valid else "" for metric in metrics),
        f"{record['test_readings']:,} x",
        _device_use(record),
        "" if epoch_seconds is None else format_duration(epoch_seconds),
        format_duration(sum(cost["seconds"].values())),
        format_bytes(cost["peak_memory_bytes"]),
        format_count(cost["parameters"]),
        str(record["seed"]),
    )


def _device_use(record: Mapping[str, Any]) -> str:
    """Return the device of a run and, if measured, its mean use during training."""
    percent = (record.get("monitor") or {}).get("device_percent")
    return str(record["device"]) if percent is None else f"{record['device']} {percent:.0f} %"
