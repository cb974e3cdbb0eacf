"""How accurate the models are on one dataset: ``segue compare`` with the recipes, as a page for ``docs/results``.

Training from recipes takes hours for some datasets; finished runs with the same settings are used again.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from segue.reports.quantities import called
from segue.reports.tables import Table, compared, cost, every_metric, tested

__all__ = ["BOARDS", "Board", "accuracy", "page"]


@dataclass(frozen=True)
class Board:
    """Models on the same questions."""

    data: str
    models: list[str]
    settings: list[str] = field(default_factory=list)
    title: str = "leave-one-out, whole catalogue"
    metric: str = "ndcg@10"
    facts: dict[str, str] = field(default_factory=dict)
    """Figures published under this protocol, by their origin."""


CLASSIC = ["ials", "bpr", "slim", "ease", "item_knn", "user_knn", "svd", "nmf", "neumf", "lightgcn", "multi_vae"]
"""Models that rank by who had what, in whatever order."""

BOARDS = {
    "ml-1m": Board("ml-1m", ["xlstm", "sasrec", "ease", "item_knn", "popular"]),
    "ml-1m-sasrec": Board("ml-1m-sasrec", ["xlstm", "ease", "item_knn", "popular"]),
    "amazon-beauty": Board("amazon-beauty", ["sasrec", "ease", "item_knn", "popular"]),
    "ml-100k": Board("ml-100k", ["xlstm", "sasrec", "lstm", "gru4rec", "ease", "item_knn", "popular"]),
    "ml-1m-collaborative": Board("ml-1m", [*CLASSIC, "popular"]),
    "ml-1m-among-100": Board(
        "ml-1m",
        ["ials", "bpr", "neumf", "ease", "lightgcn", "multi_vae", "item_knn", "popular"],
        ["split.valid=0", "evaluation.sampled=99", "ials.width=64", "ials.unobserved_weight=0.2", "ials.l2=0.005"],
        "leave-one-out, one item to be found among 99 drawn ones",
        "sampled_ndcg@10",
        {
            "matrix factorisation (Rendle et al. 2020)": "0.7294 / 0.4523",
            "ials of width 64": "0.722 / 0.445",
            "NeuMF, run again by Rendle et al.": "0.6725 / 0.4011",
        },
    ),
    "amazon-book": Board(
        "amazon-book-kgat",
        ["ials", "bpr", "ease", "item_knn", "popular"],
        ["split.kind=given", "split.name=kgat", "split.valid=0", "evaluation.ks=[10,20]"],
        "the given train and test, whole catalogue",
        "ndcg@20",
    ),
}
"""By the name of the page."""


def accuracy(name: str) -> dict[str, Any]:
    """The result of ``segue compare`` on a board, with the command that makes it.

    Args:
        name: of a board, or of a dataset for which there is none.
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
        if "--resume" in record["command"]:  # begun by the comparison itself, in a folder of this machine
            record["command"] = shlex.join(command)
    return result | {"command": shlex.join(command), "title": board.title, "published": board.facts}


def page(result: dict[str, Any]) -> str:
    """Markdown: the comparison, every metric, the paired tests, the cost, and where it all comes from."""
    records = list(result["models"].values())
    first = records[0]
    lines = [f"# {result['data']}: {result['title']}", ""]
    lines += [f"Made by `{result['command']}`, recipes in `recipes/{result['data']}/`.", ""]
    if result["published"]:
        lines += ["Published under this protocol:", ""]
        lines += [*(f"* {origin}: {figure}" for origin, figure in result["published"].items()), ""]
    for table in (compared(result), every_metric(result), tested(result), cost(result)):
        lines += [f"## {table.title}", "", *_markdown(table), ""]
    lines += ["## Provenance", ""]
    chosen = result["metric"]
    for record in records:
        told = [f"validation {called(name)} {value:.4f}; " for name, value in record["valid"].items() if name == chosen]
        lines.append(
            f"* {record['model']}: {record['date']}, seed {record['seed']}, {record['device']}, "
            f"{record['cost']['threads']} thread(s), Segue {record['segue']}; {''.join(told)}"
            f"recipe {record['recipe'] or 'none (defaults)'}; `{record['command']}`"
        )
    machine = first["machine"]
    lines += [
        f"* data hash {first['data_hash']}; {first['counts']['events']:,} events; the split was audited before each "
        "training, no faults",
        f"* machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB, "
        f"{machine['system']}; Python {machine['python']}",
    ]
    lines += [f"* warning: {text}" for text in result["warnings"]]
    return "\n".join([*lines, ""])


def _markdown(table: Table) -> list[str]:
    rule = ["---" if number < table.right else "---:" for number in range(len(table.head))]
    return ["| " + " | ".join(cells) + " |" for cells in (table.head, rule, *table.rows)]
