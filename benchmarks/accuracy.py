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

from segue.reports.quantities import metric_label
from segue.reports.tables import Table, all_metrics_table, comparison_table, cost_table, tests_table

__all__ = ["BOARDS", "Board", "accuracy", "page"]


@dataclass(frozen=True)
class Board:
    """Models compared on the same queries."""

    data: str
    models: list[str]
    settings: list[str] = field(default_factory=list)
    title: str = "leave-one-out, whole catalog"
    metric: str = "ndcg@10"
    published: dict[str, str] = field(default_factory=dict)
    """Figures published under this protocol, by source."""


CLASSIC = ["ials", "bpr", "slim", "ease", "item_knn", "user_knn", "svd", "nmf", "neumf", "lightgcn", "multi_vae"]
"""Models that ignore the order of events."""

BOARDS = {
    "ml-1m": Board("ml-1m", ["xlstm", "sasrec", "ease", "item_knn", "popular"]),
    "ml-1m-sasrec": Board("ml-1m-sasrec", ["xlstm", "ease", "item_knn", "popular"]),
    "amazon-beauty": Board("amazon-beauty", ["sasrec", "ease", "item_knn", "popular"]),
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
        {
            "matrix factorization (Rendle et al. 2020)": "0.7294 / 0.4523",
            "ials of width 64": "0.722 / 0.445",
            "NeuMF, reproduced by Rendle et al.": "0.6725 / 0.4011",
        },
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
    for key in ("folder", "page"):
        del result[key]
    for record in result["models"].values():
        del record["data_folder"]
        if "--resume" in record["command"]:  # started by the comparison itself, in a local folder
            record["command"] = shlex.join(command)
    return result | {"command": shlex.join(command), "title": board.title, "published": board.published}


def page(result: dict[str, Any]) -> str:
    """Format the comparison, all metrics, the paired tests, the cost, and the provenance."""
    records = list(result["models"].values())
    first = records[0]
    lines = [f"# {result['data']}: {result['title']}", ""]
    lines += [f"Command: `{result['command']}`, recipes in `recipes/{result['data']}/`.", ""]
    if result["published"]:
        lines += ["Published under this protocol:", ""]
        lines += [*(f"* {source}: {figure}" for source, figure in result["published"].items()), ""]
    for table in (comparison_table(result), all_metrics_table(result), tests_table(result), cost_table(result)):
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
    lines += [
        f"* data hash {first['data_hash']}; {first['counts']['events']:,} events; the split was checked for leakage "
        "before each training and passed",
        f"* machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB, "
        f"{machine['system']}; Python {machine['python']}",
    ]
    lines += [f"* warning: {text}" for text in result["warnings"]]
    return "\n".join([*lines, ""])


def _markdown(table: Table) -> list[str]:
    alignment = ["---" if number < table.first_numeric else "---:" for number in range(len(table.columns))]
    return ["| " + " | ".join(cells) + " |" for cells in (table.columns, alignment, *table.rows)]
