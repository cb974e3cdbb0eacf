"""Sections of a report on runs of one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from segue.core.model import is_lower_better
from segue.reports.html.board import Board, GroupResult
from segue.reports.html.headline import board_standfirst
from segue.reports.html.layout import (
    Block,
    Cell,
    CodeBlock,
    Details,
    FactsBlock,
    FigureBlock,
    FigureRow,
    ListBlock,
    Paragraph,
    Part,
    Section,
    TableBlock,
)
from segue.reports.html.run_charts import cost_chart, difference_chart, group_chart, metric_chart, training_chart
from segue.reports.page import protocol_facts, reproduction_facts
from segue.reports.paired_tests import (
    describe_correction,
    describe_tests,
    effect_sizes_table,
    power_notes,
    tests_table,
)
from segue.reports.quantities import (
    format_count,
    format_duration,
    format_interval,
    format_mean,
    format_span,
    metric_label,
)
from segue.reports.tables import cost_table, main_metrics, overlap_table

__all__ = ["board_part"]

Record = Mapping[str, Any]

MAX_PAIRS = 15
"""Pairs of models that are drawn; tables list all."""

MAX_METRICS = 3
"""Metrics that are drawn; tables list all."""

GROUP_TITLES = {
    "popularity": "popularity of the next item",
    "length": "length of the history",
    "warmth": "warmth of items and users",
}
GROUP_NOTES = {
    "popularity": "The head are the most popular items with a fifth of the training events, the tail the least popular "
    "ones with a fifth. Only the targets of a group count.",
    "length": "Events in the history of the query, in quarters of the queries where there are many lengths.",
    "warmth": "Items are grouped by their number of training events, users by the number of events in the history.",
}


def board_part(board: Board, number: int, count: int) -> Part:
    """Return the part of a page on one board.

    Args:
        number: of the board on the page, from 1 to ``count``; figures of several boards have it in their keys.
    """
    prefix = "" if count == 1 else f"{number}-"
    sections = [
        _results(board, prefix),
        *_differences(board, prefix),
        *_groups(board, prefix),
        *_training(board, prefix),
        _costs(board, prefix),
        *_lists(board),
        *_users(board),
        _protocol(board),
        _reproduction(board),
    ]
    return Part(board.title, tuple(sections), "" if count == 1 else board_standfirst(board))


def _results(board: Board, prefix: str) -> Section:
    label, records = metric_label(board.metric), _all_records(board)
    names = _drawn_metrics(board)
    figures = tuple(
        FigureBlock(
            f"{prefix}metric-{_file_name(name)}",
            metric_label(name) + (", lower is better" if is_lower_better(name) else ""),
            _describe_rows(name, rows),
            metric_chart(name, rows),
        )
        for name in names
        if (rows := _metric_rows(board, name))
    )
    note = (
        "Points are means over users, lines their 95 % bootstrap intervals. Intervals that overlap do not show that "
        "two models are equal: the paired tests below compare them on the same users."
    )
    if board.strongest is not None:
        note += f" The dashed line is the strongest simple baseline, {board.strongest}; simple baselines are gray."
    blocks: list[Block] = [FigureRow(figures), Paragraph(note, is_note=True), _metrics_table(board, records)]
    if board.notes:
        blocks.append(ListBlock(tuple(board.notes), is_warning=True))
    return Section("Results", tuple(blocks), f"Models in order of {label} on {_queries(board)}.")


def _all_records(board: Board) -> dict[str, Record]:
    """Return models and simple baselines, best first."""
    sign = 1.0 if is_lower_better(board.metric) else -1.0
    every = {**board.models, **board.baselines}
    return dict(sorted(every.items(), key=lambda one: sign * one[1].get(board.metric, sign * float("inf"))))


def _drawn_metrics(board: Board) -> list[str]:
    """Return the metric of the board and two others that all models have."""
    k = board.metric.rpartition("@")[2]
    common = [
        name for name in next(iter(board.models.values()))["intervals"] if all(name in r for r in board.models.values())
    ]
    wanted = [board.metric, f"hit_rate@{k}", f"ndcg@{k}", f"mrr@{k}", "rmse", "mae"]
    return [name for name in dict.fromkeys(wanted) if name in common][:MAX_METRICS]


def _metric_rows(board: Board, metric: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "mean": record[metric],
            "low": record["intervals"][metric][0],
            "high": record["intervals"][metric][1],
            "is_simple": board.is_simple(name),
            "is_strongest": name == board.strongest,
        }
        for name, record in _all_records(board).items()
        if metric in record
    ]


def _describe_rows(metric: str, rows: Sequence[Record]) -> str:
    means = "; ".join(
        f"{row['name']} {format_mean(row['mean'])} ({format_span((row['low'], row['high']))})" for row in rows
    )
    return f"{metric_label(metric)} with 95 % intervals: {means}."


def _metrics_table(board: Board, records: Mapping[str, Record]) -> TableBlock:
    every = list(board.models.values())
    names = [board.metric, *(name for name in main_metrics(every) if name != board.metric)]
    others = [name for record in every for name in record["intervals"] if name not in names]
    names += list(dict.fromkeys(others))
    rows = []
    for name, record in records.items():
        mark = "strongest simple baseline" if name == board.strongest else ""
        mark = mark or ("simple baseline" if board.is_simple(name) else "")
        seeds = record.get("seeds")
        first = Cell(name, f"mean of {len(seeds)} seeds" if seeds else "", mark)
        rows.append((first, *(_metric_cell(record, metric) for metric in names)))
    best = board.ranking[0]
    highlighted = frozenset(number for number, name in enumerate(records) if name == best)
    head = ("model", *map(metric_label, names))
    return TableBlock("All metrics, with 95 % intervals", head, tuple(rows), highlighted=highlighted)


def _metric_cell(record: Record, metric: str) -> Cell:
    if metric not in record or metric not in record["intervals"]:
        return Cell("")
    return Cell(format_mean(record[metric]), format_span(record["intervals"][metric]))


def _differences(board: Board, prefix: str) -> list[Section]:
    """Show the paired tests between models, and against the strongest simple baseline."""
    label = metric_label(board.metric)
    blocks: list[Block] = []
    for tests, key, title in (
        (board.tests, "differences", f"Differences of {label} between the models"),
        (board.baseline_tests, "baseline-differences", f"Differences of {label} from the strongest simple baseline"),
    ):
        is_repeated = board.strongest in board.models and tests is board.baseline_tests and len(board.models) > 1
        if not tests or is_repeated:
            continue
        drawn = _drawn_tests(board, tests)
        text = "; ".join(
            f"{one['pair']} {format_interval((one['low'], one['high']), sign=True)}, "
            + ("significant" if one["significant"] else "not significant")
            for one in drawn
        )
        result = {**board.result(), "tests": _in_order(board, tests)}
        figure = FigureBlock(f"{prefix}{key}", title, f"{title}: {text}.", difference_chart(board.metric, drawn))
        blocks += [figure, TableBlock.of(tests_table(result))]
        if notes := power_notes(result):
            blocks.append(ListBlock(tuple(notes)))
        if (effects := effect_sizes_table(result)) is not None:
            blocks.append(Details("Effect sizes", "", (TableBlock.of(effects, EFFECTS_NOTE),)))
    if not blocks:
        return []
    tests = board.tests or board.baseline_tests
    lead = (
        "Every pair is compared on the same users. A line that crosses zero, with an empty point, is a difference that "
        "may be chance."
    )
    lead += " A difference above zero is a lower error." if is_lower_better(board.metric) else ""
    lead += f" {describe_correction({'tests': list(tests)})}." if len(tests) > 1 else ""
    return [Section("Differences", tuple(blocks), lead)]


EFFECTS_NOTE = (
    "Cohen's d_z is the mean difference in standard deviations of the differences per query. The rank-biserial "
    "correlation is the share of the ranks of the differences in favor of the first model, minus the share in favor of "
    "the second."
)


def _drawn_tests(board: Board, tests: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the pairs with the better model first.

    Of many pairs, only those with the best model are drawn.
    """
    best = board.ranking[0]
    ordered = _in_order(board, tests)
    chosen = ordered if len(tests) <= MAX_PAIRS else [t for t in ordered if best in (t["first"], t["second"])]
    drawn = []
    for test in chosen[:MAX_PAIRS]:
        names, ends, difference = (test["first"], test["second"]), (test["low"], test["high"]), test["difference"]
        if difference < 0:
            names, ends, difference = names[::-1], (-ends[1], -ends[0]), -difference
        p = test["p_fdr_bh"] if test.get("correction") == "fdr_bh" else test["p_holm"]
        drawn.append(
            {
                "pair": " − ".join(names),
                "difference": difference,
                "low": ends[0],
                "high": ends[1],
                "p": round(p, 4),
                "significant": test["significant"],
            }
        )
    return drawn


def _in_order(board: Board, tests: Sequence[Record]) -> list[Record]:
    """Order pairs by the rank of the better model, then by that of the other."""
    rank = {name: number for number, name in enumerate(_all_records(board))}
    return sorted(tests, key=lambda test: sorted((rank[test["first"]], rank[test["second"]])))


def _groups(board: Board, prefix: str) -> list[Section]:
    """Show the metric by kind of group."""
    blocks: list[Block] = []
    label, models = metric_label(board.metric), board.ranking
    for kind, rows in board.groups.items():
        title = f"{label} by {GROUP_TITLES[kind]}"
        names = list(dict.fromkeys(row.group for row in rows))
        text = "; ".join(f"{row.model}, {row.group} {format_mean(row.mean)}" for row in rows)
        if kind != "warmth":  # the table suffices
            spec = group_chart(board.metric, [vars(row) for row in rows], names, models)
            blocks.append(FigureBlock(f"{prefix}{kind}", title, f"{title}: {text}.", spec))
        table = _groups_table(title, rows, models, GROUP_NOTES[kind])
        blocks.append(table if kind == "warmth" else Details("Values and definitions", GROUP_TITLES[kind], (table,)))
    if not blocks:
        return []
    return [Section("Who is served", tuple(blocks), "A mean can hide that a model serves only some users or items.")]


def _groups_table(title: str, rows: Sequence[GroupResult], models: Sequence[str], note: str) -> TableBlock:
    names = list(dict.fromkeys(row.group for row in rows))
    found = {(row.group, row.model): row for row in rows}
    body = []
    for name in names:
        some = next(row for row in rows if row.group == name)
        cells = [
            Cell(format_mean(one.mean), format_span((one.low, one.high)))
            if (one := found.get((name, model)))
            else Cell("")
            for model in models
        ]
        body.append((Cell(name, some.definition), Cell(format_count(some.queries)), *cells))
    return TableBlock(title, ("group", "queries", *models), tuple(body), note=note)


def _training(board: Board, prefix: str) -> list[Section]:
    """Show loss and validation metric by epoch or iteration."""
    models, figures = board.ranking, []
    validated = {
        name.partition("/")[2]
        for lines in board.histories.values()
        for line in lines
        for name in line
        if name.startswith("valid/")
    }
    metric = board.metric if board.metric in validated else next(iter(sorted(validated)), None)
    for key, title, names in (
        ("loss", "Training loss", {"loss": "training"}),
        (
            "valid",
            f"Validation {metric_label(metric or '')}",
            {f"train/{metric}": "training", f"valid/{metric}": "validation"},
        ),
    ):
        rows: list[dict[str, Any]] = [
            {"model": model, "step": line["step"], "value": line[name], "part": part}
            for model in models
            for name, part in names.items()
            for line in board.histories.get(model, ())
            if name in line
        ]
        if len({row["step"] for row in rows}) < 2:
            continue
        text = "; ".join(
            f"{model}: from {_first(rows, model):.4g} to {_last(rows, model):.4g}"
            for model in dict.fromkeys(row["model"] for row in rows)
        )
        spec = training_chart(rows, title, models)
        figures.append(FigureBlock(f"{prefix}training-{key}", title, f"{title} by epoch or iteration. {text}.", spec))
    if not figures:
        return []
    lead = "Losses of models with different objectives are not comparable with each other; validation metrics are."
    lead = lead if len(board.models) > 1 else ""
    return [Section("Training", (FigureRow(tuple(figures)),), lead)]


def _first(rows: Sequence[Record], model: str) -> float:
    return float(next(row["value"] for row in rows if row["model"] == model))


def _last(rows: Sequence[Record], model: str) -> float:
    return float([row["value"] for row in rows if row["model"] == model][-1])


def _costs(board: Board, prefix: str) -> Section:
    rows = [
        {
            "model": name,
            "mean": record[board.metric],
            "low": record["intervals"][board.metric][0],
            "high": record["intervals"][board.metric][1],
            "seconds": max(record["cost"]["seconds"]["train"], 0.01),
            "shown": format_duration(record["cost"]["seconds"]["train"]),
        }
        for name, record in board.models.items()
        if "train" in record["cost"]["seconds"]
    ]
    blocks: list[Block] = []
    if len(rows) > 1:
        title = f"{metric_label(board.metric)} by training time"
        text = "; ".join(f"{row['model']} {format_mean(row['mean'])} after {row['shown']}" for row in rows)
        spec = cost_chart(board.metric, rows, board.ranking)
        blocks.append(FigureBlock(f"{prefix}cost", title, f"{title}: {text}.", spec))
    blocks.append(replace(TableBlock.of(cost_table(board.result())), caption="Time by stage, memory and parameters"))
    return Section("Cost", tuple(blocks))


def _lists(board: Board) -> list[Section]:
    """Show how far the lists of the models agree, where they are known."""
    table = overlap_table(board.result())
    if table is None:
        return []
    note = (
        "1: the same items. Jaccard is the share of common among distinct items. Rank-biased overlap (RBO) gives more "
        "weight to the first ranks. Intervals are over queries."
    )
    return [Section("Overlap of the lists", (TableBlock.of(table, note),))]


def _users(board: Board) -> list[Section]:
    if board.users is None:
        return []
    return [Section("Users", (board.users,), board.users_rule)]


def _protocol(board: Board) -> Section:
    first = board.models[board.ranking[0]]
    tests = board.tests or board.baseline_tests
    facts = protocol_facts(first, describe_tests({"tests": list(tests)}) if tests else "none")
    sources = [("Source", board.source)] if board.source != board.data else []
    hashes = [("Data hash", str(first["data_hash"]))] if first.get("data_hash") else []
    return Section("Protocol", (FactsBlock((*sources, *facts, *hashes)),))


def _reproduction(board: Board) -> Section:
    """Show command, settings, hash of the data and model card of each model."""
    blocks: list[Block] = []
    for one in reproduction_facts(list(board.result()["models"].values())):
        documents = board.documents.get(one["model"])
        inner: list[Block] = [CodeBlock(one["command"], f"Command of {one['model']}")] if one["command"] else []
        inner.append(FactsBlock(tuple((name, value) for name, value in one["facts"] if value)))
        if documents is not None and documents.card:
            inner.append(
                Details("Model card", "card.md", (CodeBlock(documents.card, f"Model card of {one['model']}"),))
            )
        if documents is not None and documents.settings:
            text = CodeBlock(documents.settings, f"Settings of {one['model']}")
            inner.append(Details("Settings", "settings.toml", (text,)))
        blocks.append(Details(one["model"], str(one["run"]), tuple(inner)))
    return Section("Reproduction", tuple(blocks), "Commands, hashes, model cards and all settings.")


def _queries(board: Board) -> str:
    return board.query_count if board.queries else f"the {board.part_name} part"


def _file_name(metric: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in metric)
