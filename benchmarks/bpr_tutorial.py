"""The tutorial that everybody begins with: BPR on MovieLens 100K, ten epochs, beside RecBole, which is known for it.

Both get the same events for training, validation and test, train with the same batches, step and width, validate after
each epoch, keep nothing on disk and are tested once, after the last. The lists of both are measured by the same
function.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.machine import busy, told, undisturbed
from benchmarks.subprocess_runner import in_turn

__all__ = ["page", "run"]

ROUNDS = 3

METRICS = ("recall", "precision", "ndcg")


def run(ask: Any) -> dict[str, Any]:
    """Figures of both sides."""
    from segue.core.types import Recommendations
    from segue.data import load
    from segue.data.splits import split
    from segue.evaluation.evaluate import evaluate_lists
    from segue.experiment.plan import plan

    source = ask.source or "ml-100k"
    planned = plan({"model": "bpr", "data": source})
    model, ks = planned.model, list(planned.evaluation.ks)
    parts = split(load(source), planned.split)
    arrays = {"asked": parts.test.queries.users}
    events = {"train": parts.train.histories, "valid": parts.valid.targets, "test": parts.test.targets}
    users = {"train": None, "valid": parts.valid.queries.users, "test": parts.test.queries.users}
    for part, rows in events.items():
        own = users[part]
        arrays |= {f"{part}_items": rows.items, f"{part}_users": rows.rows if own is None else own[rows.rows]}
    base = {"part": "bpr", "threads": ask.threads, "seed": ask.seed, "source": source, "ks": ks}
    base |= {"epochs": model.sweeps, "batch": model.batch_size, "width": model.width}
    base |= {"learning_rate": model.learning_rate, "model": model.model_dump(), "split": planned.split.model_dump()}
    found: dict[str, Any] = {"source": source, "busy_before_percent": busy(), "settings": base, "sides": {}}
    sides = [("Segue", "segue", base), ("RecBole", "recbole", base)]
    for name, (figures, left) in in_turn(1 if ask.quick else ROUNDS, sides, arrays).items():
        lists = left["recommended"]
        lengths = (lists >= 0).sum(axis=1)
        given = Recommendations(np.maximum(lists, 0).astype(np.int32), np.zeros(lists.shape, np.float32), lengths)
        measured = evaluate_lists(given, parts.test, ks=ks)
        found["sides"][name] = figures | {key: value.mean for key, value in measured.summary.items()}
    return found


def page(found: dict[str, Any]) -> str:
    """The table, as Markdown."""
    settings, sides = found["settings"], found["sides"]
    keys = [f"{metric}@{k}" for k in settings["ks"] for metric in METRICS]
    lines = [
        f"# BPR on {found['source']}: the tutorial, beside RecBole",
        "",
        f"{settings['epochs']} epochs, batches of {settings['batch']}, width {settings['width']}, "
        f"learning rate {settings['learning_rate']}, one uniform negative; {settings['threads']} threads, the fastest "
        "of fresh processes.",
        "",
        "| side | "
        + " | ".join(keys)
        + " | train and validate, s | test, s | read and split, s | import, s | peak MiB |",
        "| --- |" + " ---: |" * (len(keys) + 5),
    ]
    for name, side in sides.items():
        cells = [f"{side[key]:.4f}" for key in keys]
        cells += [f"{side[f'{what}_seconds']:.2f}" for what in ("fit", "evaluate", "prepare", "import")]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{side['peak_mib']:,.0f}"]) + " |")
    if len(sides) == 2:
        own, other = sides["Segue"], sides["RecBole"]
        both = [side["fit_seconds"] + side["evaluate_seconds"] for side in (own, other)]
        lines += [
            "",
            f"Segue trains and validates {other['fit_seconds'] / own['fit_seconds']:.1f} x as fast; with the test "
            f"{both[1] / both[0]:.1f} x. What is read and split is not the same: RecBole reads text.",
        ]
    return "\n".join([*lines, "", undisturbed(found), *told(found["machine"]), ""])
