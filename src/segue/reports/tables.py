"""Results as tables of text, the same for the terminal and the HTML page.

A *record* is what ``metrics.json`` of a run holds: means by names such as ``ndcg@10``, ``intervals``, ``protocol``,
``cost``, ... A *result* holds records by model (``models``), paired tests (``tests``) and the ``metric`` they test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.core.model import is_lower_better
from segue.evaluation.evaluation_result import ranked_queries
from segue.reports.quantities import (
    format_amount,
    format_bytes,
    format_count,
    format_duration,
    format_interval,
    format_mean,
    format_span,
    metric_label,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable

__all__ = [
    "Table",
    "all_metrics_table",
    "baselines_table",
    "best_first",
    "comparison_table",
    "cost_table",
    "cross_validation_table",
    "group_tables",
    "groups_tables",
    "item_table",
    "key_value_grid",
    "main_metrics",
    "metrics_table",
    "overlap_table",
    "split_columns",
]

Record = Mapping[str, Any]

GAP = 3
"""Characters between two columns."""

MAX_COLUMNS = 5
"""Metrics in one table of groups; more are shown in further tables."""


@dataclass(frozen=True)
class Table:
    """A titled table of texts; ``rich.print(table)`` prints it to a terminal."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    first_numeric: int = 1
    """The first column that is aligned to the right."""
    highlighted: frozenset[int] = frozenset()
    """Rows to highlight, such as the best model or a significant difference."""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        assert not wrong, f"{self.title}: row {wrong[0]} does not match columns {self.columns}"

    def __rich__(self) -> RenderableType:
        from rich import box
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, name in enumerate(self.columns):
            justify: Any = "right" if number >= self.first_numeric else "left"
            table.add_column(Text(name), justify=justify, overflow="fold")
        for number, row in enumerate(self.rows):
            # Text, not str: a title such as "[rec]" must not be read as markup
            table.add_row(*map(Text, row), style="bold" if number in self.highlighted else None)
        return Group(Text(self.title, "bold"), table)


def split_columns(table: Table, width: int) -> list[Table]:
    """Split a table that is wider than ``width`` characters.

    Each part has the first column. A column is not wrapped unless it does not fit beside the first one.
    """
    sizes = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    parts: list[list[int]] = [[]]
    for number, size in enumerate(sizes[1:], 1):
        used = 2 + sizes[0] + sum(GAP + sizes[other] for other in parts[-1])
        if parts[-1] and used + GAP + size > width:
            parts.append([])
        parts[-1].append(number)
    if len(parts) == 1:
        return [table]
    found = []
    for part, columns in enumerate(parts, 1):
        rows = tuple((row[0], *(row[number] for number in columns)) for row in table.rows)
        first_numeric = 1 + sum(number < table.first_numeric for number in columns)
        names = (table.columns[0], *(table.columns[number] for number in columns))
        title = table.title if part == 1 else f"{table.title.partition(',')[0]} ({part} of {len(parts)})"
        found.append(Table(title, names, rows, first_numeric, table.highlighted))
    return found


def metrics_table(record: Record) -> Table:
    """Show every metric of one run with its interval.

    Validation, training error and the baseline are shown beside it, where known.
    """
    valid, train, baseline = record.get("valid") or {}, record.get("train") or {}, record.get("baseline")
    part = record.get("part", "test")
    if part == "valid":
        valid = {}
    head = ["", record["model"], "95 % interval"]
    head += ["validation"] if valid else []
    head += ["train"] if train else []
    head += [baseline["model"], "95 % interval"] if baseline else []
    rows = []
    for name, ends in record["intervals"].items():
        row = [metric_label(name), format_mean(record[name]), format_span(ends)]
        row += [format_mean(valid[name]) if name in valid else ""] if valid else []
        row += [format_mean(train[name]) if name in train else ""] if train else []
        if baseline:
            is_known = name in baseline
            row += [format_mean(baseline[name]), format_span(baseline["intervals"][name])] if is_known else ["", ""]
        rows.append(tuple(row))
    protocol = record["protocol"]
    queries = f", {format_amount(ranked_queries(protocol), 'query', 'queries')}" if "queries" in protocol else ""
    candidates = f", {protocol['candidates']}" if "candidates" in protocol else ""
    name = f", protocol {protocol['protocol']}" if "protocol" in protocol else ""
    shown = "validation" if part == "valid" else part
    title = f"{record['model']} on {record['data']} ({shown}{queries}{candidates}{name})"
    return Table(title, tuple(head), tuple(rows))


def groups_tables(record: Record, by: str) -> list[Table]:
    """Show one row per group of queries, see :func:`group_tables`."""
    groups = [(name, found["queries"], found) for name, found in record["groups"].items()]
    return group_tables(f"By {by.replace('_', ' ')}", (by,), groups, list(record["intervals"]))


def group_tables(
    title: str, head: tuple[str, ...], groups: Sequence[tuple[Any, ...]], names: Sequence[str]
) -> list[Table]:
    """Show one row per group and one column per metric, with intervals.

    Metrics with the same groups share tables of at most :data:`MAX_COLUMNS`. Metrics that no group has are left out,
    and so are groups without a value in a table.

    Args:
        head: the columns before the number of queries.
        groups: for each group its texts, its number of queries, and mean and interval by metric.
        names: the metrics to show.
    """
    same_groups: dict[tuple[bool, ...], list[str]] = {}  # metrics that the same groups have
    for name in names:
        same_groups.setdefault(tuple(name in group[-1] for group in groups), []).append(name)
    blocks = [
        some[start : start + MAX_COLUMNS]
        for have, some in same_groups.items()
        if any(have)
        for start in range(0, len(some), MAX_COLUMNS)
    ]
    tables = []
    for number, block in enumerate(blocks, 1):
        rows = []
        for *texts, queries, found in groups:
            cells = [
                f"{format_mean(found[one][0])} [{format_span(found[one][1:])}]" if one in found else "" for one in block
            ]
            if any(cells):
                rows.append((*texts, format_count(queries), *cells))
        part = f" ({number} of {len(blocks)})" if len(blocks) > 1 else ""
        columns = (*head, "queries", *map(metric_label, block))
        tables.append(Table(f"{title}{part}", columns, tuple(rows), first_numeric=len(head)))
    return tables


def best_first(result: Record) -> list[Record]:
    """Return the records, best first by the tested metric."""
    if len(result["models"]) == 1:
        return list(result["models"].values())
    metric = result["metric"]
    return sorted(
        result["models"].values(), key=lambda record: record[metric] if is_lower_better(metric) else -record[metric]
    )


def comparison_table(result: Record) -> Table:
    """Show one row per model, best first.

    Columns are errors, metrics at the largest k, the interval of the tested metric, and the cost. The last row is the
    strongest simple baseline, where known.
    """
    records = best_first(result)
    names = main_metrics(records)
    head = (
        "model",
        *map(metric_label, names),
        f"{metric_label(result['metric'])} 95 %",
        "train",
        "memory",
        "parameters",
    )
    rows = [
        (
            record["model"],
            *(format_mean(record[name]) if name in record else "" for name in names),
            format_interval(record["intervals"][result["metric"]]),
            format_duration(record["cost"]["seconds"]["train"]),
            format_bytes(record["cost"]["peak_memory_bytes"]),
            format_count(record["cost"]["parameters"]),
        )
        for record in records
    ]
    if baseline := result.get("baseline"):
        means = (format_mean(baseline[name]) if name in baseline else "" for name in names)
        interval = format_interval(baseline["intervals"][result["metric"]])
        rows.append((f"{baseline['model']} (simple baseline)", *means, interval, "", "", ""))
    queries = format_amount(ranked_queries(records[0]["protocol"]), "test query", "test queries")
    seeds = records[0].get("seeds")
    title = f"{result['data']}: {queries}" + (f", mean of {len(seeds)} seeds" if seeds else "")
    among = records[0]["protocol"].get("candidates", "whole catalog")
    title += "" if among == "whole catalog" else f", {among} only"
    name = records[0]["protocol"].get("protocol")
    title += "" if name is None else f", protocol {name}"
    return Table(title, head, tuple(rows), highlighted=frozenset([0]))


def baselines_table(result: Record) -> Table:
    """Show one row per simple baseline, the strongest first.

    Columns are the means with their intervals by metric, and the time.
    """
    names = list(dict.fromkeys(name for one in result["baselines"].values() for name in one["metrics"]))
    rows = []
    for model, one in result["baselines"].items():
        found = one["metrics"]
        cells = [f"{format_mean(found[n][0])} [{format_span(found[n][1:])}]" if n in found else "" for n in names]
        rows.append((model, *cells, format_duration(one["seconds"])))
    part = "validation" if result["part"] == "valid" else result["part"]
    queries = format_amount(result["queries"], f"{part} query", f"{part} queries")
    title = f"{result['data']}: simple baselines on {queries}, 95 % intervals"
    head = ("baseline", *map(metric_label, names), "time")
    return Table(title, head, tuple(rows), highlighted=frozenset([0]))


def all_metrics_table(result: Record) -> Table:
    """Show one row per metric and one mean with its interval per model.

    The best model comes first, the strongest simple baseline last.
    """
    records = best_first(result)
    names, models = _metric_names(records), [record["model"] for record in records]
    if baseline := result.get("baseline"):
        records, models = [*records, baseline], [*models, f"{baseline['model']} (simple baseline)"]
    rows = [(metric_label(name), *(_mean_with_interval(record, name) for record in records)) for name in names]
    return Table("All metrics", ("", *models), tuple(rows))


def overlap_table(result: Record) -> Table | None:
    """Show how far the lists of two models, or of the seeds of one, agree.

    Returns ``None`` if the lists are not known.
    """
    overlaps = result.get("overlaps")
    if not overlaps or not overlaps["pairs"]:
        return None
    rows = [
        (
            f"{pair['first']} and {pair['second']}" if pair["first"] != pair["second"] else f"seeds of {pair['first']}",
            format_mean(pair["jaccard"]),
            format_interval((pair["jaccard_low"], pair["jaccard_high"])),
            format_mean(pair["rbo"]),
            format_interval((pair["rbo_low"], pair["rbo_high"])),
        )
        for pair in overlaps["pairs"]
    ]
    head = ("lists", "Jaccard", "95 % interval", "RBO", "95 % interval ")
    return Table(f"Overlap of the lists, first {overlaps['k']} items", head, tuple(rows))


def cross_validation_table(title: str, rows: Sequence[Record]) -> Table:
    """Show one row per model and metric.

    Columns are the mean, its interval and the standard deviation over folds.
    """
    body = tuple(
        (
            row["model"],
            metric_label(row["metric"]),
            format_mean(row["mean"]),
            format_span((row["low"], row["high"])),
            format_mean(row["std"]),
        )
        for row in rows
    )
    return Table(title, ("model", "metric", "mean", "95 % over folds", "std"), body, first_numeric=2)


def cost_table(result: Record) -> Table:
    """Show seconds by stage, peak memory, parameters and device of each model."""
    records = best_first(result)
    stages = list(dict.fromkeys(stage for record in records for stage in record["cost"]["seconds"]))
    rows = []
    for record in records:
        seconds = record["cost"]["seconds"]
        rows.append(
            (
                record["model"],
                *(format_duration(seconds[stage]) if stage in seconds else "" for stage in stages),
                format_bytes(record["cost"]["peak_memory_bytes"]),
                format_count(record["cost"]["parameters"]),
                f"{record['device']} x {record['cost']['threads']}",
            )
        )
    return Table("Cost", ("model", *stages, "memory", "parameters", "device"), tuple(rows))


def item_table(title: str, rows: Sequence[Record]) -> Table:
    """Show items with columns such as title and score; numbers are right-aligned."""
    names = list(rows[0]) if rows else ["item_id"]
    texts = [name for name in names if rows and not isinstance(rows[0][name], float)]
    head = (*texts, *(name for name in names if name not in texts))
    body = tuple(tuple(_format_cell(row[name]) for name in head) for row in rows)
    return Table(title, head, body, first_numeric=len(texts))


def key_value_grid(record: Record) -> RichTable:
    """Show names and values, one per line, for a terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable.grid(padding=(0, 2))
    for name, value in record.items():
        grid.add_row(Text(name.replace("_", " "), "bold"), Text(_format_value(value)))
    return grid


def main_metrics(records: Sequence[Record]) -> list[str]:
    """Return the errors, and the metrics at the largest k, of the records."""
    every = _metric_names(records)
    largest = max(map(_cutoff, every))
    return [name for name in every if _cutoff(name) in (0, largest)]


def _metric_names(records: Sequence[Record]) -> list[str]:
    """Return every metric that any of the records has, in order."""
    return list(dict.fromkeys(name for record in records for name in record["intervals"]))


def _mean_with_interval(record: Record, name: str) -> str:
    return f"{format_mean(record[name])} [{format_interval(record['intervals'][name])}]" if name in record else ""


def _cutoff(name: str) -> int:
    """Return the k of a metric, 0 for an error."""
    cutoff = name.rpartition("@")[2]
    return int(cutoff) if cutoff.isdigit() else 0


def _format_cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{name.replace('_', ' ')}: {_format_value(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return format_count(value)
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
