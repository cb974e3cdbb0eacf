"""Tables of the metrics of hot, warm and cold items and users.

The groups of a record are in ``warmth``: name, definition, number of queries and targets, and the metrics with their
intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segue.reports.quantities import format_count, format_interval, format_mean, format_span, metric_label
from segue.reports.tables import Table, best_first, group_tables, main_metrics

__all__ = ["cross_validation_warmth_table", "warmth_comparison_table", "warmth_tables"]

Record = Mapping[str, Any]


def warmth_tables(record: Record) -> list[Table]:
    """Show one row per group and one column per metric, with intervals.

    The columns are errors and the metrics at the largest k, at most :data:`MAX_COLUMNS` in a table. Metrics that no
    group has, such as gaps, are left out, and so are groups without a value in a table.
    """
    groups = [(one["group"], one["definition"], one["queries"], one["metrics"]) for one in record["warmth"]]
    return group_tables("By warmth of items and users", ("group", "definition"), groups, main_metrics([record]))


def warmth_comparison_table(result: Record) -> Table | None:
    """Show one row per group, and the tested metric of each model.

    Returns ``None`` if no model has groups, as in runs of older versions, or if no group has the metric.
    """
    records = [record for record in best_first(result) if record.get("warmth")]
    if not records:
        return None
    metric = result["metric"]
    groups = {group["group"]: group for record in records for group in record["warmth"] if metric in group["metrics"]}
    if not groups:
        return None
    rows = []
    for name, group in groups.items():
        cells = []
        for record in records:
            found = next((one["metrics"].get(metric) for one in record["warmth"] if one["group"] == name), None)
            cells.append("" if found is None else f"{format_mean(found[0])} [{format_interval(found[1:])}]")
        rows.append((name, group["definition"], format_count(group["queries"]), *cells))
    head = ("group", "definition", "queries", *(record["model"] for record in records))
    return Table(f"{metric_label(metric)} by warmth of items and users", head, tuple(rows), first_numeric=2)


def cross_validation_warmth_table(metric: str, rows: Sequence[Record]) -> Table:
    """Show one row per group and model, with the mean of ``metric`` over folds."""
    body = tuple(
        (
            row["group"],
            row["definition"],
            row["model"],
            format_mean(row["mean"]),
            format_span((row["low"], row["high"])),
            format_count(row["folds"]),
        )
        for row in rows
        if row["metric"] == metric
    )
    head = ("group", "definition in fold 1", "model", metric_label(metric), "95 % over folds", "folds")
    return Table(f"{metric_label(metric)} by warmth of items and users", head, body, first_numeric=3)
