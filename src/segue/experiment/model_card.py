"""The model card: what a run's model is, what it was made from, how well it does and what that does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.core.registry import model_class
from segue.experiment.plan import Plan

__all__ = ["card"]


def card(plan: Plan, record: Mapping[str, Any]) -> str:
    """Markdown, from the plan and the record in ``metrics.json``."""
    doc = " ".join((_module_doc(plan.task.model).strip().split("\n\n")[0]).split())
    sections = [
        f"# {plan.task.model} on {plan.task.data}\n\n{doc}",
        *([f"> **Mind:** {'; '.join(record['warnings'])}"] if record["warnings"] else []),
        "## Data\n\n" + _data(plan, record),
        "## How well it does\n\n" + _results(plan, record),
        "## Cost\n\n" + _cost(record),
        "## Settings\n\n" + _settings(plan),
        "## Use\n\n" + _use(record),
    ]
    return "\n\n".join(sections) + "\n"


def _module_doc(key: str) -> str:
    import sys

    return sys.modules[model_class(key).__module__].__doc__ or ""


def _data(plan: Plan, record: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in record["counts"].items())
    told = {name: value for name, value in record["split"].items() if not isinstance(value, dict)}
    split = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in told.items())
    return f"{counts}. Content hash `{record['data_hash']}`.\n\nSplit: {split or plan.split.model_dump(mode='json')}."


def _results(plan: Plan, record: Mapping[str, Any]) -> str:
    baseline = record["baseline"]
    names = list(record["intervals"])
    head = ["metric", "test", "95 % interval", *(["validation"] if record["valid"] else [])]
    head += [baseline["model"]] if baseline else []
    rows = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name in names:
        low, high = record["intervals"][name]
        cells = [name, f"{record[name]:.4f}", f"{low:.4f} to {high:.4f}"]
        cells += [f"{record['valid'].get(name, float('nan')):.4f}"] if record["valid"] else []
        cells += [f"{baseline[name]:.4f}" if name in baseline else ""] if baseline else []
        rows.append("| " + " | ".join(cells) + " |")
    history = "removed from" if plan.evaluation.repeats == "remove" else "kept in"
    ranked = (
        f"The whole catalogue is ranked; a user's history is {history} the ranking; ties count at their expected rank; "
        if "targets" in record["facts"]
        else "Nothing was ranked: predicted values are compared with the true ones; "
    )
    facts = "".join(f"\n- {name.replace('_', ' ')}: {value}" for name, value in record["facts"].items())
    return (
        "\n".join(rows)
        + f"\n\n{ranked}intervals are bootstrapped over questions. Settings are chosen on validation; test was read "
        "once.\n" + facts
    )


def _cost(record: Mapping[str, Any]) -> str:
    cost, machine = record["cost"], record["machine"]
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in cost["seconds"].items())
    return (
        f"{seconds}; peak memory of the process {cost['peak_memory_bytes'] / 2**20:,.0f} MiB; "
        f"{cost['parameters']:,} learned numbers. On {record['device']}, {cost['threads']} threads of "
        f"{machine['processor']} ({machine['system']}), seed {record['seed']}, Segue {record['segue']}, "
        f"{record['date']}."
    )


def _settings(plan: Plan) -> str:
    values = plan.values()
    lines = [f"{group}.{key} = {value}" for group in ("model", "training") for key, value in values[group].items()]
    recipe = f"\n\nStarted from `{plan.task.recipe}`." if plan.task.recipe else ""
    return "```\n" + "\n".join(lines) + "\n```" + recipe + "\n\nAll of them: `settings.toml`."


def _use(record: Mapping[str, Any]) -> str:
    return (
        f"```\nsegue recommend {record['run']} --item ID --item ID\nsegue verify {record['run']}\n```\n\n"
        "It answers what people like those in the log would do next; it repeats the log's taste for the popular, "
        "and knows nothing that happened after the log ended."
    )
