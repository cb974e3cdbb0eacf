"""Tables of the metrics of hot, warm and cold items and users.

The groups of a record are in ``warmth``: name, definition, number of queries and targets, and the metrics with their
intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segue.reports.quantities import format_count, format_interval, format_mean, format_span, metric_label
from segue.reports.tables import Table, best_first, main_metrics

__all__ = ["cross_validation_warmth_table", "warmth_comparison_table", "warmth_table"]

Record = Mapping[str, Any]


def warmth_table(record: Record) -> Table:
    """Show one row per group and one column per metric, with intervals.

    The columns are errors and the metrics at the largest k.
    """
    names = main_metrics([record])
    rows = []
    for group in record["warmth"]:
        found = group["metrics"]
        cells = [
            f"{format_mean(found[name][0])} [{format_span(found[name][1:])}]" if name in found else "" for name in names
        ]
        rows.append((group["group"], group["definition"], format_count(group["queries"]), *cells))
    head = ("group", "definition", "queries", *map(metric_label, names))
    return Table("By warmth of items and users", head, tuple(rows), first_numeric=2)


def warmth_comparison_table(result: Record) -> Table | None:
    """Show one row per group, and the tested metric of each model.

    Returns ``None`` if no model has groups, as in runs of older versions.
    """
    records = [record for record in best_first(result) if record.get("warmth")]
    if not records:
        return None
    metric = result["metric"]
    groups = {group["group"]: group for record in records for group in record["warmth"]}
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
