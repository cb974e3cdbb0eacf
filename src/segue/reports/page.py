"""Render a result as one self-contained HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segue.core.files import write_text
from segue.core.model import is_lower_better
from segue.evaluation.evaluation_result import ranked_queries
from segue.evaluation.ranking import describe_seen
from segue.reports.paired_tests import (
    describe_correction,
    describe_tests,
    effect_sizes_table,
    power_notes,
    tests_table,
)
from segue.reports.quantities import (
    format_bytes,
    format_count,
    format_duration,
    format_interval,
    format_mean,
    metric_label,
)
from segue.reports.tables import all_metrics_table, best_first, comparison_table, cost_table, overlap_table
from segue.reports.warmth import warmth_comparison_table

__all__ = ["protocol_facts", "render_page", "reproduction_facts", "write_page"]

Record = Mapping[str, Any]
History = Sequence[Mapping[str, float]]


def write_page(path: Path, result: Record, histories: Mapping[str, History] | None = None) -> None:
    """Write :func:`render_page` to ``path`` atomically."""
    write_text(path, render_page(result, histories))


def render_page(result: Record, histories: Mapping[str, History] | None = None) -> str:
    """Render the page; equal results give the same text.

    Args:
        result: ``models`` (records by model), ``data``, ``metric``, ``tests``, ``warnings``; see
            :mod:`segue.reports.tables`. Without ``tests``, or with one model, there is no comparison.
        histories: per model its ``history.jsonl``, for the training curves.

    Raises:
        ValueError: a result without models, or whose models lack its metric.
    """
    if not result["models"]:
        raise ValueError("page: the result has no models, expected at least one")
    metric = result["metric"]
    if missing := [key for key, record in result["models"].items() if metric not in record]:
        raise ValueError(f"page: {', '.join(missing)}: no metric '{metric}', expected it for every model")
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("segue.reports").joinpath("page.html.j2").read_text(encoding="utf-8"))
    records = best_first(result)
    curves = {model: history for model, history in (histories or {}).items() if any("loss" in x for x in history)}
    plots = [(title, text, Markup(drawn)) for title, text, drawn in _plots(result, curves)]
    tests = result.get("tests") or []
    return template.render(
        data=result["data"],
        models=[record["model"] for record in records],
        headline=_headline(result, records) + _describe_baseline(result),
        warnings=result.get("warnings") or [],
        plots=plots,
        comparison=comparison_table(result),
        tests=tests_table(result) if tests else None,
        correction=describe_correction(result),
        effect_sizes=effect_sizes_table(result) if tests else None,
        power=power_notes(result) if tests else [],
        all_metrics=all_metrics_table(result),
        warmth=warmth_comparison_table(result),
        overlap=overlap_table(result),
        cost=cost_table(result),
        protocol=protocol_facts(records[0], describe_tests(result)),
        reproduction=reproduction_facts(records),
        metric=metric_label(metric),
    )


def _headline(result: Record, records: Sequence[Record]) -> str:
    """State the result in one or two sentences."""
    metric, best = result["metric"], records[0]
    name, ends = metric_label(metric), best["intervals"][metric]
    text = f"{best['model']} reaches {name} {format_mean(best[metric])} (95 % interval {format_interval(ends)})"
    if len(records) == 1:
        return text + "."
    extreme = "lowest" if is_lower_better(metric) else "highest"
    text += f", the {extreme} of {len(records)} models. "
    pairs = {frozenset((test["first"], test["second"])): test for test in result.get("tests") or []}
    second = records[1]
    test = pairs.get(frozenset((best["model"], second["model"])))
    if test is None:
        return text + f"The second is {second['model']} with {format_mean(second[metric])}."
    significance = "significant" if test["significant"] else "not significant"
    lead = format_mean(abs(test["difference"]))
    return text + f"It leads {second['model']} by {lead}, which is {significance} (paired test)."


def _describe_baseline(result: Record) -> str:
    """Name the strongest simple baseline, where known."""
    baseline, metric = result.get("baseline"), result["metric"]
    if not baseline:
        return ""
    return f" The strongest simple baseline, {baseline['model']}, reaches {format_mean(baseline[metric])}."


def _plots(result: Record, curves: Mapping[str, History]) -> list[tuple[str, str, str]]:
    """Return title, text alternative and drawing of each plot.

    There are none where matplotlib is missing.
    """
    if find_spec("matplotlib") is None:
        return []
    from segue.reports.plots import plot_metric_bars, plot_training_curves, to_svg

    metric = result["metric"]
    k = metric.rpartition("@")[2]
    known = best_first(result)[0]["intervals"]
    names = list(dict.fromkeys([metric, *(name for name in (f"hit_rate@{k}", f"mrr@{k}") if name in known)]))
    means = ", ".join(f"{record['model']} {format_mean(record[metric])}" for record in best_first(result))
    bars = to_svg(plot_metric_bars(result, names), themed=True)
    text = f"Bars of {metric_label(metric)}: {means}. The table below lists all values."
    title = "With 95 % intervals over users"
    if baseline := result.get("baseline"):
        text += f" A dashed line marks the strongest simple baseline, {baseline['model']}."
        title += f"; the dashed line is the strongest simple baseline, {baseline['model']}"
    plots = [(title, text, bars)]
    if curves:
        drawn = to_svg(plot_training_curves(curves, metric), themed=True)
        text = f"Loss and validation {metric_label(metric)} by epoch of {', '.join(curves)}."
        plots.append(("Training", text, drawn))
    return plots


def protocol_facts(record: Record, tests: str) -> list[tuple[str, str]]:
    """Describe the evaluation protocol."""
    protocol, split = record.get("protocol") or {}, record.get("split") or {}
    lines = [("Protocol", str(protocol["protocol"]))] if protocol.get("protocol") else []
    lines += [("Split", str(split.get("strategy", "predefined")).replace("_", " "))]
    if "targets" in protocol:
        is_catalog = "items" in protocol
        among, number = protocol.get("candidates", "whole catalog"), format_count(protocol.get("items", 0))
        whole = f"the whole catalog of {number} items"
        candidates = "lists" if not is_catalog else whole if among == "whole catalog" else f"the {number} {among}"
        queries = format_count(ranked_queries(protocol))
        in_history = f"{protocol.get('share_of_targets_in_history', 0.0):.1%}"
        lines += [
            ("Queries", f"{queries} with {format_count(protocol['targets'])} true items"),
            ("Candidates", candidates),
            ("Seen items", describe_seen(protocol.get("exclude_seen", True))),
            ("True items already in the history", in_history),
            ("Ties", "count at their expected rank"),
        ]
    if "predicted_values" in protocol:
        predicted, users = format_count(protocol["predicted_values"]), format_count(protocol["queries"])
        lines.append(("Predicted ratings", f"{predicted} of {users} users, compared with the true ones"))
    lines += [
        ("Model knows the time of the query", "yes" if protocol.get("has_query_times") else "no"),
        ("Model knows the context of the query", "yes" if protocol.get("has_query_context") else "no"),
        ("Unknown users", format_count(protocol.get("unknown_users", 0))),
        ("Intervals", "95 %, percentile bootstrap over queries"),
        ("Tests", tests),
        ("Settings", _describe_choice(record)),
    ]
    counts = record.get("counts") or {}
    text = ", ".join(f"{format_count(value)} {name.replace('_', ' ')}" for name, value in counts.items())
    return [("Data", text), *lines] if text else lines


def _describe_choice(record: Record) -> str:
    """Say on which part settings were chosen."""
    if record.get("part", "test") == "valid":
        return "chosen on these validation queries; the test part was not read"
    return "chosen on validation; the test set was read once per run"


def reproduction_facts(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return for each model what is needed to reproduce its results."""
    return [
        {
            "model": record["model"],
            "run": record["run"],
            "command": _command(record.get("command")),
            "facts": [
                ("seed", ", ".join(map(str, record.get("seeds") or [record["seed"]]))),
                ("data hash", str(record.get("data_hash") or "none")),
                ("date", str(record.get("date", ""))),
                ("Segue", str(record.get("segue", ""))),
                ("device", str(record["device"])),
                ("machine", _machine(record.get("machine") or {})),
                ("time", format_duration(sum(record["cost"]["seconds"].values()))),
            ],
        }
        for record in records
    ]


def _command(command: str | Sequence[str] | None) -> str:
    return command if isinstance(command, str) else shlex.join(command or [])


def _machine(machine: Mapping[str, Any]) -> str:
    memory = machine.get("memory_bytes")
    cores = machine.get("cores")
    parts = [
        machine.get("processor"),
        f"{cores} cores" if cores else None,
        format_bytes(memory) if memory else None,
        machine.get("system"),
        f"Python {machine['python']}" if "python" in machine else None,
    ]
    return ", ".join(str(part) for part in parts if part)
