"""Page of the benchmark of cold items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cold_item_rows import (
    MEASURES,
    METRICS_SHOWN,
    MODELS,
    SIMPLE,
    TASKS,
    TWINS,
    WARM,
    WARM_MARGIN,
    Task,
)
from benchmarks.machine import describe_lines
from benchmarks.readings import reading_lines
from benchmarks.stronger_baselines import baseline_lines
from benchmarks.table_rows import difference_cells, head_lines, range_cell, row_line
from segue.reports.quantities import format_duration, metric_label

__all__ = ["equivalence_lines", "log_lines", "page"]


def log_lines(found: Mapping[str, Any]) -> list[str]:
    """State what the figures of a page depend on: the order of the log, and events that were filtered out."""
    log = found.get("log")
    if log is None:
        return []
    lines = []
    if not log["has_times"]:
        lines.append(
            "**This log has no order.** Its events have no times, and their order is that of the file. The target of "
            "leave-one-out is the last event in the file, not the latest; `sasrec` and `transformer_xl` read histories "
            "in an arbitrary order. Nothing on this page measures a gain from sequences."
        )
    total = log["events"] + sum(log["removed"].values())
    for name, count in log["removed"].items():
        lines.append(f"`filters.{name}={log['settings'].get(name)}` removes {count:,} of {total:,} events.")
    return [*lines, *([f"Notes of the dataset: {'; '.join(log['notes'])}."] if log["notes"] else []), ""]


def page(found: dict[str, Any]) -> str:
    """Format a table with a row per model and measure, and the paired tests."""
    texts = f"text: {', '.join(found['texts'])}" if found["texts"] else "no text"
    counts = found["counts"]
    lines = [
        f"# Cold items: {found['source']}",
        "",
        *log_lines(found),
        f"{found['share']:.0%} of the items ({found['held_out_items']:,} of {counts['items']:,}) are held out of "
        f"training, in {found['draws']} draw(s); leave-one-out; seen items are not ranked; {texts}.",
        "A cold item has no training event. Some have events that were held out; others have no event but the "
        "validation or test target itself, in every draw. Both kinds are shown on their own, too.",
        "Figures are HR@10 / NDCG@10, means over the targets of all draws, with 95 % intervals over users, who are "
        "resampled with all their targets. Validation ranks all items, and chose the best epoch; the same items are "
        "cold in validation and in the test, so that the epoch was chosen with targets among them. Settings were "
        "chosen on the validation part of other draws; the recipes say how. Models of features alone have their "
        "defaults.",
        *([note] if (note := TASKS.get(found["source"], Task()).note) else []),
        *_strength_lines(found["rows"]),
        "",
        *baseline_lines(f"cold_items-{found['source']}"),
    ]
    for name in MEASURES:
        rows = found["rows"]
        first = next(iter(rows.values()))["measures"][name]
        labels = " | ".join(f"{metric_label(metric)} | 95 % | draws" for metric in METRICS_SHOWN)
        lines += [
            f"## {name[0].upper()}{name[1:]}",
            "",
            f"{first['targets']:,} targets of {first['users']:,} users.",
            "",
        ]
        lines += [
            f"| model | knows of items | {labels} |",
            "| --- | --- |" + " ---: | --- | --- |" * len(METRICS_SHOWN),
        ]
        for model in sorted(rows, key=lambda model: -rows[model]["measures"][name][METRICS_SHOWN[0]]["mean"]):
            cells = [model, rows[model]["what"]]
            for metric in METRICS_SHOWN:
                one = rows[model]["measures"][name][metric]
                cells += [f"{one['mean']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}"]
                cells.append(", ".join(f"{value:.4f}" for value in one["draws"]))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, *_test_lines(found["tests"]), *equivalence_lines(found), *_cost_lines(found), ""])


def _strength_lines(rows: Mapping[str, Any]) -> list[str]:
    """Name the strongest simple baseline of warm items, and how the twins compare with popularity."""
    means = {name: row["measures"][WARM][METRICS_SHOWN[0]]["mean"] for name, row in rows.items()}
    simple = [name for name in SIMPLE if name in means]
    if not simple:
        return (
            [
                "Simple models of ids (`ease`, `item_knn`, `ials`) are not among the rows, so this page does not show "
                "that any row is strong on warm items."
            ]
            if "popular" in means and len(means) > 7
            else []
        )
    best = max(simple, key=lambda name: means[name])
    texts = [f"`{name}` {means[name]:.4f}" for name in (best, *TWINS, *TWINS.values(), "popular") if name in means]
    return [
        f"On warm targets the strongest simple baseline of this page is `{best}`. HR@10 there: {', '.join(texts)}. No "
        "difference from a twin says little where the twin is weak."
    ]


def _test_lines(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "## Paired tests",
        "",
        "Paired randomization tests over users, with all their targets, of the first model minus the second; better "
        "and worse: p < 0.05 after Holm's correction over the tests of one measure, metric and group of second models "
        "(on warm items: twins, simple baselines). No significant difference does not mean equal, and the correction "
        "makes it more frequent: the interval, which is not corrected, says how much worse the first model may be.",
        "",
        "| measure | metric | pair | difference | 95 % | p (Holm) | first model |",
        "| --- | --- | --- | ---: | --- | ---: | --- |",
    ]
    lines += [
        row_line([test["measure"], metric_label(test["metric"]), *difference_cells(test), test["outcome"]])
        for test in tests
    ]
    return [*lines, ""]


def equivalence_lines(found: Mapping[str, Any]) -> list[str]:
    if not found.get("equivalence"):
        return []
    lines = [
        "## Equivalence on warm items",
        "",
        f"Tests of the difference from the twin against a margin of {WARM_MARGIN:g} HR@10, which was set after a first "
        "reading of the test part of Frappe, and before any of other data: two one-sided paired t-tests, with Holm's "
        "correction over the tests of one measure. Equivalent: the difference is within the margin. Not worse: it is "
        "at most the margin below. Otherwise the data do not show either.",
        "",
        *head_lines(["measure", "pair", "difference", "90 %", "p, equivalent", "p, not worse", "first model"]),
    ]
    for test in found["equivalence"]:
        is_equivalent, is_not_worse = test["p_equivalent"] < 0.05, test["p_not_worse"] < 0.05
        cells = [test["measure"], f"{test['first']} − {test['second']}", f"{test['difference']:+.4f}"]
        cells += [range_cell(test["low"], test["high"], sign="+"), f"{test['p_equivalent']:.4f}"]
        cells += [f"{test['p_not_worse']:.4f}", "equivalent" if is_equivalent else "not worse" if is_not_worse else ""]
        lines.append(row_line(cells))
    return [*lines, ""]


def _cost_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["## Cost and provenance", "", "| model | train | parameters | recipe |", "| --- | ---: | ---: | --- |"]
    for model, row in found["rows"].items():
        like = MODELS[model].like if model in MODELS else None
        recipe = f"that of {like}" if like else row["recipe"] or "none (defaults)"
        lines.append(f"| {model} | {format_duration(row['seconds'])} | {row['parameters']:,} | {recipe} |")
    n_runs = sum(len(row["runs"]) for row in found["rows"].values())
    return [
        *lines,
        "",
        f"* data hash {found['data_hash']}; each split was checked for leakage before training and passed",
        *reading_lines(dict(found), f"cold_items-{found['source']}", n_runs),
        *(f"* warning: {text}" for text in found["warnings"]),
        *describe_lines(found["machine"]),
    ]
