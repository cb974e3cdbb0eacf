"""Accuracy of the models on one board: ``segue compare`` with the recipes, as a page of ``docs/results``.

Training from recipes takes hours for some datasets; finished runs with the same settings are reused.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.published import ATTRIBUTES, FIGURES, IDS, Published
from benchmarks.readings import count_readings, reading_lines
from benchmarks.stronger_baselines import baseline_lines
from benchmarks.verdicts import compare_figures, emphasize, verdict_lines
from segue.experiment.paths import find_run
from segue.reports.paired_tests import tests_table
from segue.reports.quantities import metric_label
from segue.reports.tables import Table, all_metrics_table, comparison_table, cost_table
from segue.reports.warmth import warmth_comparison_table

__all__ = ["BOARDS", "Board", "accuracy", "page"]


@dataclass(frozen=True)
class Board:
    """Models compared on the same queries."""

    data: str
    models: list[str]
    settings: list[str] = field(default_factory=list)
    title: str = "leave-one-out, whole catalog"
    metric: str = "ndcg@10"
    compared: dict[str, str] = field(default_factory=dict)
    """Inputs of the models that are compared with published figures."""
    published_metrics: tuple[str, ...] = ("hit_rate@10", "ndcg@10")
    """Metrics of the published figures."""
    draws: tuple[int, ...] = ()
    """Seeds of further draws of sampled items, on which the model in ``compared`` is evaluated, too."""


CLASSIC = ["ials", "bpr", "slim", "ease", "item_knn", "user_knn", "svd", "nmf", "neumf", "lightgcn", "multi_vae"]
"""Models that ignore the order of events."""

BOARDS = {
    "ml-1m": Board("ml-1m", ["xlstm", "sasrec", "ease", "item_knn", "popular"], compared={"xlstm": IDS, "sasrec": IDS}),
    "ml-1m-sasrec": Board("ml-1m-sasrec", ["xlstm", "ease", "item_knn", "popular"], compared={"xlstm": IDS}),
    "amazon-beauty": Board(
        "amazon-beauty",
        ["sasrec", "sasrec@ids", "ease", "item_knn", "popular"],
        ["sasrec@ids.inputs=[]"],
        compared={"sasrec": ATTRIBUTES, "sasrec@ids": IDS},
    ),
    "ml-100k": Board("ml-100k", ["xlstm", "sasrec", "lstm", "gru4rec", "ease", "item_knn", "popular"]),
    "ml-1m-collaborative": Board("ml-1m", [*CLASSIC, "popular"]),
    "ml-1m-among-100": Board(
        "ml-1m",
        ["ials", "bpr", "neumf", "ease", "lightgcn", "multi_vae", "item_knn", "popular"],
        [
            "split.valid=0",
            "evaluation.sampled=99",
            "ials.embedding_dim=64",
            "ials.unobserved_weight=0.2",
            "ials.l2=0.005",
        ],
        "leave-one-out, one held-out item among 99 sampled items",
        "sampled_ndcg@10",
        {"ials": IDS},
        ("sampled_hit_rate@10", "sampled_ndcg@10"),
        draws=(0, 1, 2, 3, 4),
    ),
    "amazon-book": Board(
        "amazon-book-kgat",
        ["ials", "bpr", "ease", "item_knn", "popular"],
        ["split.strategy=predefined", "split.name=kgat", "split.valid=0", "evaluation.ks=[10,20]"],
        "predefined train and test, whole catalog",
        "ndcg@20",
    ),
}
"""Boards by the name of their page."""


def accuracy(name: str) -> dict[str, Any]:
    """Run ``segue compare`` on a board; return its result with the command.

    Args:
        name: a board, or a dataset without one.
    """
    board = BOARDS.get(name) or Board(name, ["xlstm", "sasrec", "popular"])
    words = [word for text in board.settings for word in ("--set", text)]
    command = ["segue", "compare", board.data, *board.models, *words]
    command += [] if board.metric == "ndcg@10" else ["--metric", board.metric]
    done = subprocess.run([sys.executable, "-m", *command, "--json"], stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    folders = [find_run(record["run"]) for record in result["models"].values()]
    result["test_readings"] = count_readings(folders)
    if board.draws:
        result["draws"] = {model: evaluate_draws(board, result["models"][model]["run"]) for model in board.compared}
    for key in ("folder", "page"):
        del result[key]
    for record in result["models"].values():
        del record["data_folder"]
        if "--resume" in record["command"]:  # started by the comparison itself, in a local folder
            record["command"] = shlex.join(command)
    return result | {"command": shlex.join(command), "title": board.title, "board": name}


def evaluate_draws(board: Board, run: str) -> list[dict[str, float]]:
    """Evaluate a run on several draws of sampled items; return the published metrics of each draw."""
    from segue.core import bundle
    from segue.data.splits import split
    from segue.evaluation.evaluate import evaluate
    from segue.experiment.data import load_run_data
    from segue.experiment.paths import SETTINGS
    from segue.experiment.plan import read_plan

    folder = find_run(run)
    plan = read_plan(folder / SETTINGS)
    model, held_out = bundle.load(folder / "bundle").model, split(load_run_data(folder), plan.split).test
    rows = []
    for seed in board.draws:
        found = evaluate(model, held_out, (10,), seed=seed, sampled=plan.evaluation.sampled)
        rows.append({"seed": seed, **{name: round(found[name].mean, 6) for name in board.published_metrics}})
    return rows


def page(result: dict[str, Any]) -> str:
    """Format the comparison, published figures, all metrics, the paired tests, the cost, and the provenance."""
    name = result.get("board", result["data"])
    board = BOARDS.get(name) or Board(name, [])
    records = list(result["models"].values())
    first = records[0]
    lines = [f"# {result['data']}: {result['title']}", ""]
    lines += [f"Command: `{result['command']}`, recipes in `recipes/{result['data']}/`.", ""]
    lines += [*_input_lines(board), *baseline_lines(name)]
    comparison, *others = (
        comparison_table(result),
        all_metrics_table(result),
        tests_table(result),
        cost_table(result),
    )
    lines += [f"## {comparison.title}", "", *_markdown(comparison), "", *_published_lines(result, board, name)]
    warmth = warmth_comparison_table(result)
    for table in [*others, *([] if warmth is None else [warmth])]:
        lines += [f"## {table.title}", "", *_markdown(table), ""]
    lines += ["## Provenance", ""]
    chosen = result["metric"]
    for record in records:
        validation = [
            f"validation {metric_label(name)} {value:.4f}; "
            for name, value in record["valid"].items()
            if name == chosen
        ]
        lines.append(
            f"* {record['model']}: {record['date']}, seed {record['seed']}, {record['device']}, "
            f"{record['cost']['threads']} thread(s), Segue {record['segue']}; {''.join(validation)}"
            f"recipe {record['recipe'] or 'none (defaults)'}; `{record['command']}`"
        )
    machine = first["machine"]
    lines += reading_lines(result, name, len(records))
    lines += [
        f"* data hash {first['data_hash']}; {first['counts']['events']:,} events; the split was checked for leakage "
        "before each training and passed",
        f"* machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB, "
        f"{machine['system']}; Python {machine['python']}",
    ]
    lines += [f"* warning: {text}" for text in result["warnings"]]
    return "\n".join([*lines, ""])


def _input_lines(board: Board) -> list[str]:
    """State the inputs of the models, if they differ."""
    if len(set(board.compared.values())) < 2:
        return []
    inputs = "; ".join(f"`{model}` reads {inputs}" for model, inputs in board.compared.items())
    return [f"Inputs: {inputs}; the other models read {IDS}.", ""]


def _published_lines(result: dict[str, Any], board: Board, name: str) -> list[str]:
    """Compare models of the board with published figures, a row each."""
    rows = FIGURES.get(name, ())
    models = [model for model in board.compared if model in result["models"]]
    if not rows or not models:
        return []
    labels = " / ".join(map(metric_label, board.published_metrics))
    head = [f"published, {labels}", "inputs", "note"]
    head += [f"{model} ({_count_seeds(result['models'][model])})" for model in models]
    own = ["Segue", "", "", *(_own_figures(result["models"][model], board) for model in models)]
    lines = ["## Comparison with published figures", "", *verdict_lines(), "", _row(head), _row(["---"] * len(head))]
    lines.append(_row(own))
    for published in rows:
        cells = [f"{published.source} {' / '.join(published.figures)}", published.inputs, published.note]
        cells += [_verdicts(result["models"][model], board, model, published) for model in models]
        lines.append(_row(cells))
    return [*lines, "", *_draw_lines(result, board)]


def _count_seeds(record: dict[str, Any]) -> str:
    count = len(record.get("seeds", [record["seed"]]))
    return f"{count} seed{'s' * (count > 1)}"


def _own_figures(record: dict[str, Any], board: Board) -> str:
    """Format the figures of a model with their intervals."""
    intervals = record["intervals"]
    return " / ".join(
        f"{record[name]:.4f} [{intervals[name][0]:.4f}, {intervals[name][1]:.4f}]" for name in board.published_metrics
    )


def _verdicts(record: dict[str, Any], board: Board, model: str, published: Published) -> str:
    """Compare each figure of a model with the published one."""
    verdicts = [
        compare_figures(
            (record["intervals"][name][0], record["intervals"][name][1]),
            float(figure),
            has_equal_inputs=board.compared[model] == published.inputs,
            has_equal_test=published.has_same_test,
        )
        for name, figure in zip(board.published_metrics, published.figures, strict=True)
    ]
    return " / ".join(emphasize(verdict.value, verdict) for verdict in verdicts)


def _draw_lines(result: dict[str, Any], board: Board) -> list[str]:
    """Show the figures of each draw of sampled items."""
    lines = []
    for model, rows in result.get("draws", {}).items():
        figures = [[row[name] for name in board.published_metrics] for row in rows]
        texts = (" / ".join(f"{value:.4f}" for value in values) for values in figures)
        mean = " / ".join(f"{value:.4f}" for value in np.mean(figures, axis=0))
        lines += [
            f"The tables show the draw of sampled items with seed {rows[0]['seed']}. `{model}` on the draws with seeds "
            f"{', '.join(str(row['seed']) for row in rows)}: {', '.join(texts)}; mean {mean}.",
            "",
        ]
    return lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(table: Table) -> list[str]:
    alignment = ["---" if number < table.first_numeric else "---:" for number in range(len(table.columns))]
    return [_row(list(cells)) for cells in (table.columns, alignment, *table.rows)]
