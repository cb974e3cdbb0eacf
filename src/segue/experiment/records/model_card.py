"""Format the model card of a run: model, data, results, cost and limits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from segue.core.registry import model_class
from segue.evaluation.ranking import describe_seen
from segue.experiment.plan import Plan

__all__ = ["format_card"]


def format_card(plan: Plan, record: Mapping[str, Any]) -> str:
    """Format the card as Markdown, from the plan and the record in ``metrics.json``."""
    description = " ".join((_module_doc(plan.task.model).strip().split("\n\n")[0]).split())
    sections = [
        f"# {plan.task.model} on {plan.task.data}\n\n{description}",
        *([f"> **Warning:** {'; '.join(record['warnings'])}"] if record["warnings"] else []),
        "## Data\n\n" + _format_data(plan, record),
        "## Results\n\n" + _format_results(plan, record),
        "## Cost\n\n" + _format_cost(record),
        "## Settings\n\n" + _format_settings(plan),
        "## Use\n\n" + _format_use(record),
    ]
    return "\n\n".join(sections) + "\n"


def _module_doc(key: str) -> str:
    return sys.modules[model_class(key).__module__].__doc__ or ""


def _format_data(plan: Plan, record: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in record["counts"].items())
    facts = {name: value for name, value in record["split"].items() if not isinstance(value, dict)}
    split = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in facts.items())
    return f"{counts}. Content hash `{record['data_hash']}`.\n\nSplit: {split or plan.split.model_dump(mode='json')}."


def _format_results(plan: Plan, record: Mapping[str, Any]) -> str:
    baseline, valid, train = record["baseline"], record["valid"], record["train"]
    part = record["part"]
    if part is None:
        return "Nothing was held out for validation, so nothing was measured."
    if part == "valid":
        valid = {}
    head = [
        "metric",
        "validation" if part == "valid" else "test",
        "95 % interval",
        *(["validation"] if valid else []),
        *(["train"] if train else []),
    ]
    head += [baseline["model"]] if baseline else []
    rows = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name in record["intervals"]:
        low, high = record["intervals"][name]
        cells = [name, f"{record[name]:.4f}", f"{low:.4f} to {high:.4f}"]
        cells += [f"{valid.get(name, float('nan')):.4f}"] if valid else []
        cells += [f"{train[name]:.4f}" if name in train else ""] if train else []
        cells += [f"{baseline[name]:.4f}" if name in baseline else ""] if baseline else []
        rows.append("| " + " | ".join(cells) + " |")
    name = "Protocol" if plan.evaluation.protocol is None else f"Protocol `{plan.evaluation.protocol}`"
    candidates = record["protocol"].get("candidates", "whole catalog")
    protocol = (
        f"{name}: targets are ranked among the {candidates}; items of the user's history are "
        f"{describe_seen(plan.evaluation.exclude_seen)}; tied "
        "scores count at their expected rank; "
        if "targets" in record["protocol"]
        else "Nothing was ranked: predicted ratings are compared with the true ones; "
    )
    facts = "".join(f"\n- {name.replace('_', ' ')}: {value}" for name, value in record["protocol"].items())
    return (
        "\n".join([*rows, *_format_warmth(record)])
        + f"\n\n{protocol}intervals are bootstrapped over queries. Settings were chosen on validation; "
        f"{'the test part was not read in training' if part == 'valid' else 'the test part was read by train --test'}; "
        "`test_readings.jsonl` lists every reading.\n" + facts
    )


def _format_warmth(record: Mapping[str, Any]) -> list[str]:
    """Format the metrics of hot, warm and cold items and users as a table."""
    groups = record.get("warmth") or []
    if not groups:
        return []
    names = [name for name in record["intervals"] if any(name in group["metrics"] for group in groups)]
    head = ["group", "definition", "queries", *names]
    lines = ["", "| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for group in groups:
        if not any(name in group["metrics"] for name in names):
            continue
        cells = [f"{group['metrics'][name][0]:.4f}" if name in group["metrics"] else "" for name in names]
        lines.append("| " + " | ".join([group["group"], group["definition"], f"{group['queries']:,}", *cells]) + " |")
    return lines


def _format_cost(record: Mapping[str, Any]) -> str:
    cost, machine = record["cost"], record["machine"]
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in cost["seconds"].items())
    return (
        f"{seconds}; peak memory of the process {cost['peak_memory_bytes'] / 2**20:,.0f} MiB; "
        f"{cost['parameters']:,} parameters. On {record['device']}, {cost['threads']} threads of "
        f"{machine['processor']} ({machine['system']}), seed {record['seed']}, Segue {record['segue']}, "
        f"{record['date']}."
    )


def _format_settings(plan: Plan) -> str:
    values = plan.values()
    lines = [f"{group}.{key} = {value}" for group in ("model", "training") for key, value in values[group].items()]
    recipe = f"\n\nStarted from `{plan.task.recipe}`." if plan.task.recipe else ""
    return "```\n" + "\n".join(lines) + "\n```" + recipe + "\n\nAll settings: `settings.toml`."


def _format_use(record: Mapping[str, Any]) -> str:
    return (
        f"```\nsegue recommend {record['run']} --item ID --item ID\nsegue verify {record['run']}\n```\n\n"
        "The model predicts what users similar to those in the log would do next. It inherits the popularity bias of "
        "the log, and does not know anything that happened after the log ended."
    )
