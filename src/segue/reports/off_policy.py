"""Tables of off-policy evaluations: values of policies, and their overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segue.reports.quantities import format_count, format_interval, format_mean, format_signed
from segue.reports.tables import Table

__all__ = ["overlap_table", "policy_values_table"]


def policy_values_table(record: Mapping[str, Any]) -> Table:
    """Show one row per estimator: both values and their difference.

    Args:
        record: of :class:`segue.experiment.off_policy.evaluate_policy.PolicyEvaluation`.
    """
    rows = []
    for name, estimate in record["estimates"].items():
        difference = record["differences"][name]
        rows.append(
            (
                name,
                *_cells(estimate),
                *_cells(record["baseline_estimates"][name]),
                *_cells(difference, sign=True),
            )
        )
    title = (
        f"Reward per query of {record['policy']} and of {record['baseline']} ({format_count(record['queries'])} "
        f"queries, {format_count(record['impressions'])} impressions; the log has {format_mean(record['logged'][0])}; "
        f"bootstrap over {record['unit']})"
    )
    columns = ("", "policy", "95 % interval", "baseline", "95 % interval", "difference", "95 % interval")
    return Table(title, columns, tuple(rows))


def overlap_table(record: Mapping[str, Any]) -> Table:
    """Show one row per policy and kind of weights."""
    rows = [
        (
            record[name],
            kind.replace("_", "-"),
            f"{one['effective_sample_size']:,.1f}",
            f"{one['max_weight']:,.1f}",
            f"{one['max_weight_share']:.1%}",
            format_mean(one["mean_weight"]["mean"]),
            f"{one['unsupported']:.1%}",
        )
        for name, key in (("policy", "overlap"), ("baseline", "baseline_overlap"))
        for kind, one in record[key].items()
    ]
    columns = ("", "weights", "effective sample size", "largest", "its share", "mean", "unsupported")
    return Table("Overlap with the log", columns, tuple(rows), first_numeric=2)


def _cells(estimate: Sequence[float | None], sign: bool = False) -> tuple[str, str]:
    """Format a value and its interval, which may be missing."""
    value, low, high = estimate
    write = format_signed if sign else format_mean
    interval = "" if low is None or high is None else format_interval((low, high), sign)
    return "" if value is None else write(value), interval
