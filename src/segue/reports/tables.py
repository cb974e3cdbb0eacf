"""Results as tables of text, the same for the terminal and the page.

A *record* is what a run's ``metrics.json`` holds: means by names such as ``ndcg@10``, ``intervals``, ``facts``,
``cost``, ... A *result* holds records by model (``models``), paired tests (``tests``) and the ``metric`` they are on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.core.model import LESS_IS_BETTER
from segue.reports.quantities import called, count, duration, interval, mean, p_value, signed, size, span

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Table", "best_first", "catalogue", "compared", "cost", "every_metric", "metrics", "tested"]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A titled table of texts. A terminal prints it with ``rich.print(table)``."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: int = 1
    """The first column that is aligned to the right."""
    marked: frozenset[int] = frozenset()
    """Rows to be brought out: the best model, a difference that is not chance."""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.head)]
        assert not wrong, f"{self.title}: {wrong[0]} does not fit under {self.head}"

    def __rich__(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table as Rich
        from rich.text import Text

        table = Rich(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, name in enumerate(self.head):
            table.add_column(Text(name), justify="right" if number >= self.right else "left", overflow="fold")
        for number, row in enumerate(self.rows):
            # Text, not str: a title such as "[rec]" is no markup
            table.add_row(*map(Text, row), style="bold" if number in self.marked else None)
        return Group(Text(self.title, "bold"), table)


def metrics(record: Record) -> Table:
    """One run: every metric with its interval, beside validation and the baseline where they are known."""
    valid, baseline = record.get("valid") or {}, record.get("baseline")
    head = ["", record["model"], "95 % interval"]
    head += ["validation"] if valid else []
    head += [baseline["model"], "95 % interval"] if baseline else []
    rows = []
    for name, ends in record["intervals"].items():
        row = [called(name), mean(record[name]), span(ends)]
        row += [mean(valid[name]) if name in valid else ""] if valid else []
        if baseline:
            row += [mean(baseline[name]), span(baseline["intervals"][name])] if name in baseline else ["", ""]
        rows.append(tuple(row))
    asked = f", {count(record['facts']['queries'])} questions" if "queries" in record["facts"] else ""
    ranked = ", whole catalogue" if "candidates" in record["facts"] else ""
    title = f"{record['model']} on {record['data']} ({record.get('part', 'test')}{asked}{ranked})"
    return Table(title, tuple(head), tuple(rows))


def best_first(result: Record) -> list[Record]:
    """The records, best first by the metric that is tested."""
    metric = result["metric"]
    return sorted(
        result["models"].values(), key=lambda record: record[metric] if metric in LESS_IS_BETTER else -record[metric]
    )


def compared(result: Record) -> Table:
    """One row per model, best first: errors, the metrics at the largest k, the tested one's interval, and the cost."""
    records = best_first(result)
    every = _measured(records)
    largest = max(map(_cut, every))
    names = [name for name in every if _cut(name) in (0, largest)]
    head = ("model", *map(called, names), f"{called(result['metric'])} 95 %", "train", "memory", "numbers")
    rows = [
        (
            record["model"],
            *(mean(record[name]) if name in record else "" for name in names),
            interval(record["intervals"][result["metric"]]),
            duration(record["cost"]["seconds"]["train"]),
            size(record["cost"]["peak_memory_bytes"]),
            count(record["cost"]["parameters"]),
        )
        for record in records
    ]
    asked = count(records[0]["facts"]["queries"])
    return Table(f"{result['data']}: {asked} test questions", head, tuple(rows), marked=frozenset([0]))


def every_metric(result: Record) -> Table:
    """One row per metric and per model a mean with its interval, best model first."""
    records = best_first(result)
    rows = [(called(name), *(_estimated(record, name) for record in records)) for name in _measured(records)]
    return Table("All metrics", ("", *(record["model"] for record in records)), tuple(rows))


def tested(result: Record) -> Table:
    """One row per pair of models, with the better one first; those that differ are marked."""
    rows = []
    for test in result["tests"]:
        names, ends, difference = (test["first"], test["second"]), (test["low"], test["high"]), test["difference"]
        if difference < 0:
            names, ends, difference = names[::-1], (-ends[1], -ends[0]), -difference
        told = "better" if test["significant"] else "not told apart"
        rows.append(
            (
                f"{names[0]} − {names[1]}",
                signed(difference),
                interval(ends, sign=True),
                p_value(test["p"]),
                p_value(test["p_t"]),
                p_value(test["p_holm"]),
                told,
            )
        )
    head = ("pair", "difference", "95 % interval", "p", "p (t)", "p (Holm)", "")
    marked = frozenset(number for number, test in enumerate(result["tests"]) if test["significant"])
    return Table(f"Paired tests of {called(result['metric'])}", head, tuple(rows), marked=marked)


def cost(result: Record) -> Table:
    """One row per model: seconds by stage, peak memory, learned numbers, and device x threads."""
    records = best_first(result)
    stages = list(dict.fromkeys(stage for record in records for stage in record["cost"]["seconds"]))
    rows = [
        (
            record["model"],
            *(
                duration(record["cost"]["seconds"][stage]) if stage in record["cost"]["seconds"] else ""
                for stage in stages
            ),
            size(record["cost"]["peak_memory_bytes"]),
            count(record["cost"]["parameters"]),
            f"{record['device']} x {record['cost']['threads']}",
        )
        for record in records
    ]
    return Table("Cost", ("model", *stages, "memory", "numbers", "on"), tuple(rows))


def catalogue(title: str, rows: Sequence[Record]) -> Table:
    """Items with what is known of them: title, genres, logit, probability, ...; numbers to the right."""
    names = list(rows[0]) if rows else ["item"]
    texts = [name for name in names if rows and not isinstance(rows[0][name], float)]
    head = (*texts, *(name for name in names if name not in texts))
    body = tuple(tuple(_cell(row[name]) for name in head) for row in rows)
    return Table(title, head, body, right=len(texts))


def _measured(records: Sequence[Record]) -> list[str]:
    """Every metric that some of the records have, in their order."""
    return list(dict.fromkeys(name for record in records for name in record["intervals"]))


def _estimated(record: Record, name: str) -> str:
    return f"{mean(record[name])} [{interval(record['intervals'][name])}]" if name in record else ""


def _cut(name: str) -> int:
    """The k of a metric, 0 of an error."""
    cut = name.rpartition("@")[2]
    return int(cut) if cut.isdigit() else 0


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
