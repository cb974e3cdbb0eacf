"""Records as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

__all__ = ["catalogue", "compared", "cost", "facts", "history", "metrics", "plain", "tested"]

Record = Mapping[str, Any]

NAMES = {"recall": "Recall", "precision": "Precision", "hit_rate": "HitRate"}
"""How metrics are called in tables; the others are capital letters."""


def plain(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", right: int = 0) -> Group:
    """A titled table of texts; the columns from number ``right`` on, if that is not 0, are aligned to the right."""
    table = Table(box=box.SIMPLE_HEAD if any(head) else None, pad_edge=False, show_header=any(head))
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if right and number >= right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return Group(Text(title, "bold"), table) if title else Group(table)


def metrics(record: Record) -> Group:
    """Every metric with its interval, beside validation and the baseline where they are known."""
    valid, baseline = record.get("valid") or {}, record.get("baseline")
    head = ["", record["model"], "95 % interval"]
    head += ["validation"] if valid else []
    head += [baseline["model"], "95 % interval"] if baseline else []
    rows = []
    for name, ends in record["intervals"].items():
        row = [_called(name), f"{record[name]:.4f}", _between(ends)]
        row += [f"{valid[name]:.4f}" if name in valid else ""] if valid else []
        row += [f"{baseline[name]:.4f}", _between(baseline["intervals"][name])] if baseline else []
        rows.append(row)
    questions = record["facts"].get("queries")
    told = f", {questions:,} questions" if questions is not None else ""
    part = record.get("part", "test")
    return plain(head, rows, f"{record['model']} on {record['data']} ({part}{told}, whole catalogue)", right=1)


def cost(record: Record) -> Group:
    """Seconds by stage, memory, size, and where."""
    spent = record["cost"]
    seconds = "  ".join(f"{name} {_duration(value)}" for name, value in spent["seconds"].items())
    rows = [
        ["time", seconds],
        ["memory", f"{_size(spent['peak_memory_bytes'])} at the peak of the process"],
        ["model", f"{spent['parameters']:,} learned numbers"],
        ["on", f"{record['device']}, {spent['threads']} threads of {record['machine']['processor']}"],
        ["run", record["run"]],
    ]
    return plain(["", ""], rows)


def compared(result: Record) -> Group:
    """One row per model, best first by the metric that is tested."""
    records = sorted(result["models"].values(), key=lambda record: -record[result["metric"]])
    names = list(records[0]["intervals"])
    last = names[len(names) // 2 :] if len(names) > 5 else names
    head = [
        "model",
        *(_called(name) for name in last),
        f"{_called(result['metric'])} 95 %",
        "train",
        "memory",
        "numbers",
    ]
    rows = [
        [
            record["model"],
            *(f"{record[name]:.4f}" for name in last),
            _between(record["intervals"][result["metric"]]),
            _duration(record["cost"]["seconds"]["train"]),
            _size(record["cost"]["peak_memory_bytes"]),
            f"{record['cost']['parameters']:,}",
        ]
        for record in records
    ]
    return plain(head, rows, f"{result['data']}: {records[0]['facts']['queries']:,} test questions", right=1)


def tested(result: Record) -> Group:
    """One row per pair of models."""
    rows = [
        [
            f"{test['first']} - {test['second']}",
            f"{test['difference']:+.4f}",
            f"{test['low']:+.4f} to {test['high']:+.4f}",
            f"{test['p_holm']:.4f}",
            "differ" if test["significant"] else "",
        ]
        for test in result["tests"]
    ]
    head = ["pair", "difference", "95 % interval", "p (Holm)", ""]
    return plain(head, rows, f"Paired tests of {_called(result['metric'])}", right=1)


def history(records: Sequence[Record]) -> Group:
    """One row per run."""
    rows = []
    for record in records:
        spent = record.get("cost")
        rows.append(
            [
                record["run"] + (" *" if record["best"] else ""),
                record["data"],
                record["model"],
                f"{record['ndcg@10']:.4f}" if "ndcg@10" in record else "" if spent else "not finished",
                f"{record['hit_rate@10']:.4f}" if "hit_rate@10" in record else "",
                _duration(spent["seconds"]["train"]) if spent else "",
                _size(spent["peak_memory_bytes"]) if spent else "",
                f"{spent['parameters']:,}" if spent else "",
                str(record.get("device", "")),
                str(record["seed"]),
            ]
        )
    head = ["run", "data", "model", "NDCG@10", "HitRate@10", "train", "memory", "numbers", "device", "seed"]
    return plain(head, rows, "Runs (* the best of its data, by validation)", right=3)


def catalogue(title: str, rows: Sequence[Record]) -> Group:
    """Items with what is known of them."""
    names = list(rows[0]) if rows else ["item"]
    return plain(names, [[_cell(row[name]) for name in names] for row in rows], title)


def facts(record: Record) -> Group:
    """Names and values."""
    return plain(["", ""], [[name.replace("_", " "), _told(value)] for name, value in record.items()])


def _called(name: str) -> str:
    metric, at, k = name.partition("@")
    return NAMES.get(metric, metric.upper()) + at + k


def _between(ends: Sequence[float]) -> str:
    return f"{ends[0]:.4f} to {ends[1]:.4f}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name.replace('_', ' ')}: {_told(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"
