"""What only the command line shows as tables: lists, facts and the history of runs. Results are in ``reports``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table as Grid
from rich.text import Text

from segue.reports.quantities import count, duration, mean, size
from segue.reports.tables import Table

__all__ = ["facts", "history"]

Record = Mapping[str, Any]


def facts(record: Record) -> Grid:
    """Names and values."""
    grid = Grid.grid(padding=(0, 2))
    for name, value in record.items():
        grid.add_row(Text(name.replace("_", " "), "bold"), Text(_told(value)))
    return grid


def history(records: Sequence[Record]) -> Table:
    """One row per run, the best of its data marked."""
    head = ("run", "data", "model", "NDCG@10", "HitRate@10", "train", "memory", "numbers", "device", "seed")
    marked = frozenset(number for number, record in enumerate(records) if record["best"])
    return Table("Runs, oldest first; the best of its data, by validation, is marked *", head,
                 tuple(map(_row, records)), right=3, marked=marked)  # fmt: skip


def _row(record: Record) -> tuple[str, ...]:
    name = record["run"] + (" *" if record["best"] else "")
    if not record["finished"]:
        return (name, record["data"], record["model"], "not finished", "", "", "", "", "", str(record["seed"]))
    spent = record["cost"]
    return (
        name,
        record["data"],
        record["model"],
        *(mean(record[metric]) if metric in record else "" for metric in ("ndcg@10", "hit_rate@10")),
        duration(spent["seconds"]["train"]),
        size(spent["peak_memory_bytes"]),
        count(spent["parameters"]),
        record["device"],
        str(record["seed"]),
    )


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name.replace('_', ' ')}: {_told(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return count(value)
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
