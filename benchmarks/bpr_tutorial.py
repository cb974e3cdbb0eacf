"""The usual first tutorial, BPR on MovieLens 100K for ten epochs, compared with RecBole.

Both libraries get the same events for training, validation and test, train with the same batch size, learning rate and
width, validate after each epoch, write nothing to disk and are tested once at the end. The same function measures the
lists of both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.subprocess_runner import run_alternating

__all__ = ["page", "run"]

ROUNDS = 3

METRICS = ("recall", "precision", "ndcg")


def run(options: Any) -> dict[str, Any]:
    """Measure both libraries."""
    from segue.core.types import Recommendations
    from segue.data import load
    from segue.data.splits import split
    from segue.evaluation.evaluate import evaluate_lists
    from segue.experiment.plan import make_plan

    source = options.source or "ml-100k"
    planned = make_plan({"model": "bpr", "data": source})
    model, ks = planned.model, list(planned.evaluation.ks)
    parts = split(load(source), planned.split)
    arrays = {"query_users": parts.test.queries.users}
    events = {"train": parts.train.histories, "valid": parts.valid.targets, "test": parts.test.targets}
    users = {"train": None, "valid": parts.valid.queries.users, "test": parts.test.queries.users}
    for part, rows in events.items():
        query_users = users[part]
        arrays |= {
            f"{part}_items": rows.items,
            f"{part}_users": rows.rows if query_users is None else query_users[rows.rows],
        }
    base = {"part": "bpr", "threads": options.threads, "seed": options.seed, "source": source, "ks": ks}
    base |= {"epochs": model.iterations, "batch": model.batch_size, "embedding_dim": model.embedding_dim}
    base |= {"learning_rate": model.learning_rate, "model": model.model_dump(), "split": planned.split.model_dump()}
    found: dict[str, Any] = {"source": source, "load_before_percent": cpu_load(), "settings": base, "runs": {}}
    runs = [("Segue", "segue", base), ("RecBole", "recbole", base)]
    for name, (figures, results) in run_alternating(1 if options.quick else ROUNDS, runs, arrays).items():
        lists = results["recommended"]
        lengths = (lists >= 0).sum(axis=1)
        top = Recommendations(np.maximum(lists, 0).astype(np.int32), np.zeros(lists.shape, np.float32), lengths)
        measured = evaluate_lists(top, parts.test, ks=ks)
        found["runs"][name] = figures | {key: value.mean for key, value in measured.estimates.items()}
    return found


def page(found: dict[str, Any]) -> str:
    """Format the table."""
    settings, runs = found["settings"], found["runs"]
    keys = [f"{metric}@{k}" for k in settings["ks"] for metric in METRICS]
    lines = [
        f"# BPR on {found['source']}: the usual first tutorial, compared with RecBole",
        "",
        f"{settings['epochs']} epochs, batches of {settings['batch']}, width {settings['embedding_dim']}, "
        f"learning rate {settings['learning_rate']}, one uniform negative; {settings['threads']} threads, fastest "
        "of several processes.",
        "",
        "| library | "
        + " | ".join(keys)
        + " | train and validate, s | test, s | read and split, s | import, s | peak MiB |",
        "| --- |" + " ---: |" * (len(keys) + 5),
    ]
    for name, run in runs.items():
        cells = [f"{run[key]:.4f}" for key in keys]
        cells += [f"{run[f'{what}_seconds']:.2f}" for what in ("fit", "evaluate", "prepare", "import")]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{run['peak_mib']:,.0f}"]) + " |")
    if len(runs) == 2:
        own, other = runs["Segue"], runs["RecBole"]
        totals = [run["fit_seconds"] + run["evaluate_seconds"] for run in (own, other)]
        lines += [
            "",
            f"Segue trains and validates {other['fit_seconds'] / own['fit_seconds']:.1f} x as fast; including the test "
            f"{totals[1] / totals[0]:.1f} x. Reading and splitting are not comparable: RecBole reads text.",
        ]
    lines += [
        "",
        f"* both libraries have the same settings, and neither was tuned; 1 seed ({settings['seed']}); each run was "
        "evaluated once on the test part, after training",
    ]
    return "\n".join([*lines, load_line(found), *describe_lines(found["machine"]), ""])
