"""One HTML page for a result: it holds its plots and styles, needs no network, and reads in light and dark."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segue.core.files import write_text
from segue.core.model import LESS_IS_BETTER
from segue.reports.quantities import called, count, duration, interval, mean, size
from segue.reports.tables import best_first, compared, cost, every_metric, tested

__all__ = ["page", "write_page"]

Record = Mapping[str, Any]
History = Sequence[Mapping[str, float]]


def write_page(path: Path, result: Record, histories: Mapping[str, History] | None = None) -> None:
    """Write :func:`page` to ``path`` in one step."""
    write_text(path, page(result, histories))


def page(result: Record, histories: Mapping[str, History] | None = None) -> str:
    """The whole page as text; the same result gives the same page.

    Args:
        result: ``models`` (records by model), ``data``, ``metric``, ``tests``, ``warnings``; see
            :mod:`segue.reports.tables`. Without ``tests``, or with one model, there is no comparison.
        histories: per model its ``history.jsonl``, for the curves of training.

    Raises:
        ValueError: a result without models, or whose models lack its metric.
    """
    if not result["models"]:
        raise ValueError("page: the result holds no model")
    metric = result["metric"]
    if lacking := [key for key, record in result["models"].items() if metric not in record]:
        raise ValueError(f"page: {', '.join(lacking)}: no metric '{metric}'")
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
        headline=_headline(result, records),
        warnings=result.get("warnings") or [],
        plots=plots,
        compared=compared(result),
        tested=tested(result) if tests else None,
        every_metric=every_metric(result),
        cost=cost(result),
        protocol=_protocol(records[0]),
        origin=_origin(records),
        metric=called(metric),
    )


def _headline(result: Record, records: Sequence[Record]) -> str:
    """The finding in one or two sentences."""
    metric, best = result["metric"], records[0]
    name = called(metric)
    text = f"{best['model']} reaches {name} {mean(best[metric])} (95 % interval {interval(best['intervals'][metric])})"
    if len(records) == 1:
        return text + "."
    extreme = "lowest" if metric in LESS_IS_BETTER else "highest"
    text += f", the {extreme} of {len(records)} models. "
    pairs = {frozenset((test["first"], test["second"])): test for test in result.get("tests") or []}
    next_best = records[1]
    test = pairs.get(frozenset((best["model"], next_best["model"])))
    if test is None:
        return text + f"Next is {next_best['model']} with {mean(next_best[metric])}."
    told = "beyond chance" if test["significant"] else "which may be chance"
    return text + f"It is {mean(abs(test['difference']))} ahead of {next_best['model']}, {told} (paired test)."


def _plots(result: Record, curves: Mapping[str, History]) -> list[tuple[str, str, str]]:
    """Title, text for those who can't see it, and drawing; none where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        return []
    from segue.reports.plots import metric_bars, svg, training_curves

    metric = result["metric"]
    k = metric.rpartition("@")[2]
    known = best_first(result)[0]["intervals"]
    names = list(dict.fromkeys([metric, *(name for name in (f"hit_rate@{k}", f"mrr@{k}") if name in known)]))
    told = ", ".join(f"{record['model']} {mean(record[metric])}" for record in best_first(result))
    bars = svg(metric_bars(result, names), themed=True)
    plots = [("With 95 % intervals over users", f"Bars of {called(metric)}: {told}. The table below has all.", bars)]
    if curves:
        drawn = svg(training_curves(curves, metric), themed=True)
        plots.append(("Training", f"Loss and validation {called(metric)} by epoch of {', '.join(curves)}.", drawn))
    return plots


def _protocol(record: Record) -> list[tuple[str, str]]:
    """What the numbers mean."""
    facts, split = record.get("facts") or {}, record.get("split") or {}
    lines = [("Split", str(split.get("kind", "given")).replace("_", " "))]
    if "targets" in facts:
        kept = facts.get("repeats") == "keep"
        lines += [
            ("Questions", f"{count(facts['queries'])} with {count(facts['targets'])} true items"),
            ("Candidates", f"the whole catalogue of {count(facts['items'])} items" if "items" in facts else "lists"),
            ("The user's history", "stays in the ranking" if kept else "is removed from the ranking"),
            ("True items already in the history", f"{facts.get('share_of_targets_in_history', 0.0):.1%}"),
            ("Ties", "count at their expected rank"),
        ]
    if "predicted_values" in facts:
        told = f"{count(facts['predicted_values'])} of {count(facts['queries'])} users, compared with the true ones"
        lines.append(("Predicted values", told))
    lines += [
        ("Told the time of the question", "yes" if facts.get("time_told") else "no"),
        ("Unknown users", count(facts.get("unknown_users", 0))),
        ("Intervals", "95 %, percentile bootstrap over questions"),
        ("Tests", "paired randomisation over questions, two-sided; Holm's correction over all pairs; t beside it"),
        ("Settings", "chosen on validation; the test was read once per run"),
    ]
    counts = record.get("counts") or {}
    told = ", ".join(f"{count(value)} {name.replace('_', ' ')}" for name, value in counts.items())
    return [("Data", told), *lines] if told else lines


def _origin(records: Sequence[Record]) -> list[dict[str, Any]]:
    """How each figure was made, and how to make it again."""
    return [
        {
            "model": record["model"],
            "run": record["run"],
            "command": _command(record.get("command")),
            "facts": [
                ("seed", str(record["seed"])),
                ("data hash", str(record.get("data_hash") or "none")),
                ("date", str(record.get("date", ""))),
                ("Segue", str(record.get("segue", ""))),
                ("device", str(record["device"])),
                ("machine", _machine(record.get("machine") or {})),
                ("took", duration(sum(record["cost"]["seconds"].values()))),
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
        size(memory) if memory else None,
        machine.get("system"),
        f"Python {machine['python']}" if "python" in machine else None,
    ]
    return ", ".join(str(part) for part in parts if part)
