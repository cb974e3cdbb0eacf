"""How accurate the models are on one dataset: ``segue compare`` with the recipes, as a page for ``docs/results``.

Training from recipes takes hours for some datasets; finished runs with the same settings are used again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from segue.reports.tables import Table, compared, cost, every_metric, tested

__all__ = ["accuracy", "page"]

BOARDS: dict[str, tuple[list[str], list[str]]] = {
    "ml-1m": (["xlstm", "sasrec", "ease", "item_knn", "popular"], []),
    "ml-1m-sasrec": (["xlstm", "ease", "item_knn", "popular"], []),
    "amazon-beauty": (["sasrec", "ease", "item_knn", "popular"], []),
    "ml-100k": (["xlstm", "sasrec", "lstm", "gru4rec", "ease", "item_knn", "popular"], []),
}
"""Models and settings by dataset."""


def accuracy(source: str) -> dict[str, Any]:
    """The result of ``segue compare`` on ``source``, with the command that makes it."""
    models, settings = BOARDS.get(source, (["xlstm", "sasrec", "popular"], []))
    command = ["segue", "compare", source, *models, *(word for text in settings for word in ("--set", text))]
    done = subprocess.run([sys.executable, "-m", *command, "--json"], stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    for key in ("folder", "page"):
        del result[key]
    for record in result["models"].values():
        del record["data_folder"]
        if "--resume" in record["command"]:  # begun by the comparison itself, in a folder of this machine
            record["command"] = " ".join(command)
    return result | {"command": " ".join(command)}


def page(result: dict[str, Any]) -> str:
    """Markdown: the comparison, every metric, the paired tests, the cost, and where it all comes from."""
    records = list(result["models"].values())
    first = records[0]
    lines = [f"# {result['data']}: leave-one-out, whole catalogue", ""]
    lines += [f"Made by `{result['command']}`, recipes in `recipes/{result['data']}/`.", ""]
    for table in (compared(result), every_metric(result), tested(result), cost(result)):
        lines += [f"## {table.title}", "", *_markdown(table), ""]
    lines += ["## Provenance", ""]
    for record in records:
        valid = record["valid"].get("ndcg@10", 0.0)
        lines.append(
            f"* {record['model']}: {record['date']}, seed {record['seed']}, {record['device']}, "
            f"{record['cost']['threads']} thread(s), Segue {record['segue']}; validation NDCG@10 {valid:.4f}; "
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
