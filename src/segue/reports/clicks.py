"""Tables of click-through models: columns, metrics, comparisons.

Metrics are given as ``[mean, low, high]``, where the ends are ``None`` without an interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segue.reports.quantities import (
    format_count,
    format_interval,
    format_mean,
    format_p_value,
    format_signed,
    format_span,
)
from segue.reports.tables import Table

__all__ = ["click_comparison_table", "click_metrics_table", "click_tests_table", "columns_table"]

Metrics = Mapping[str, Sequence[float | None]]

LABELS = {"auc": "AUC", "uauc": "UAUC", "gauc": "GAUC", "f1": "F1"}

TESTS = {
    "auc": "Paired tests of AUC (DeLong)",
    "log_loss": "Paired tests of log loss (randomization); the better model is first, the difference is a gain",
}

SHOWN = ("auc", "log_loss", "uauc", "average_precision", "calibration_error")
"""Metrics of a comparison; more do not fit next to each other."""

PARTS = {"valid": "validation", "test": "test"}


def columns_table(record: Mapping[str, Any]) -> Table:
    """Show how each column of a table of examples is read."""
    rows = tuple((one["column"], one["kind"], one["details"]) for one in record["columns"])
    return Table("Columns", ("column", "read as", ""), rows, first_numeric=3)


def click_metrics_table(title: str, found: Metrics) -> Table:
    """Show one row per metric, with its interval."""
    rows = []
    for name, (mean, low, high) in found.items():
        span = "" if low is None or high is None else format_span((low, high))
        rows.append((_label(name), "" if mean is None else format_mean(mean), span))
    return Table(title, ("", "value", "95 % interval"), tuple(rows))


def click_comparison_table(record: Mapping[str, Any]) -> Table:
    """Show one row per model, that of the highest AUC first."""
    models = sorted(record["models"].items(), key=lambda one: -one[1]["metrics"]["auc"][0])
    names = [name for name in SHOWN if any(name in model["metrics"] for _, model in models)]
    rows = tuple((name, *(_cell(model["metrics"].get(metric)) for metric in names)) for name, model in models)
    part = f"{PARTS[record['part']]}, " if record["part"] in PARTS else ""
    seeds = len(record.get("seeds") or ())
    title = f"{record['data']} ({part}{format_count(record['rows'])} rows{f', mean of {seeds} seeds' * (seeds > 1)})"
    return Table(title, ("model", *map(_label, names)), rows, highlighted=frozenset([0]))


def click_tests_table(metric: str, tests: Sequence[Mapping[str, Any]]) -> Table:
    """Show one row per pair of models, the better one first.

    Significant differences are highlighted.
    """
    rows = []
    for test in tests:
        names, ends, difference = (test["first"], test["second"]), (test["low"], test["high"]), test["difference"]
        if difference < 0:
            names, ends, difference = names[::-1], (-ends[1], -ends[0]), -difference
        is_significant = "significant" if test["significant"] else "not significant"
        p_values = format_p_value(test["p"]), format_p_value(test["p_holm"])
        rows.append(
            (
                f"{names[0]} − {names[1]}",
                format_signed(difference),
                format_interval(ends, sign=True),
                *p_values,
                is_significant,
            )
        )
    head = ("pair", "difference", "95 % interval", "p", "p (Holm)", "")
    highlighted = frozenset(number for number, test in enumerate(tests) if test["significant"])
    return Table(TESTS[metric], head, tuple(rows), highlighted=highlighted)


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def _cell(found: Sequence[float | None] | None) -> str:
    mean, low, high = found or (None, None, None)
    if mean is None:
        return ""
    shown = format_mean(mean)
    return shown if low is None or high is None else f"{shown} [{format_span((low, high))}]"
