"""Every sequential model under one equal tuning budget: the same trials, chosen on validation, then the test.

A model's trials are settings drawn from one space that is the same for all; the first is the space's middle. The trial
with the best validation NDCG@10 is the one whose test figures stand in the table.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl

from benchmarks.machine import trainings
from segue.core.files import read_json
from segue.core.registry import model_class, model_keys
from segue.evaluation import significance
from segue.evaluation.bootstrap import estimate
from segue.experiment.compare import run_of
from segue.experiment.plan import plan
from segue.experiment.run_folder import METRICS

__all__ = ["SPACE", "page", "run", "sequential"]

METRIC = "ndcg@10"

SPACE: dict[str, list[Any]] = {
    "learning_rate": [2e-3, 1e-3, 4e-3],
    "dropout": [0.3, 0.2, 0.5],
    "width": [64, 128],
    "batch_size": [32, 64],
    "max_length": [50, 100],
}
"""What is drawn from, the middle first."""

FIXED = ["windows=all", "mask_seen=true", "epochs=20", "patience=4", "schedule=cosine", "warmup=1"]
"""What all trials of all models share."""


def sequential() -> list[str]:
    """Keys of the models that read a history in order and are trained by the one loop."""
    from segue.nn.sequence_model import SequenceModel

    return [key for key in model_keys() if issubclass(model_class(key), SequenceModel)]


def trials(count: int) -> list[list[str]]:
    """Assignments of each trial: the middle of the space, then draws that are the same for every model."""
    rng = np.random.default_rng(0)
    drawn = [{name: values[0] for name, values in SPACE.items()}]
    while len(drawn) < count:
        one = {name: values[int(rng.integers(len(values)))] for name, values in SPACE.items()}
        if one not in drawn:
            drawn.append(one)
    return [[f"{name}={value}" for name, value in one.items()] for one in drawn]


def run(source: str, models: list[str], count: int, say: Any, quick: bool = False) -> dict[str, Any]:
    """``count`` trials of each model on ``source``: what was found, the best by validation, and paired tests."""
    rows: dict[str, Any] = {}
    values: dict[str, np.ndarray[Any, Any]] = {}
    for model in models:
        tried = []
        for settings in trials(count):
            own = [*FIXED, *settings, *(["epochs=1"] if quick else [])]
            chosen = list({text.partition("=")[0]: text for text in own}.values())
            folder = run_of(plan({"model": model, "data": source}, chosen, "none"), say)
            record = read_json(folder / METRICS)
            tried.append({"settings": settings, "valid": record["valid"][METRIC], "folder": folder, "record": record})
            say(f"{model} {' '.join(settings)}: validation {tried[-1]['valid']:.4f}")
        best = max(tried, key=lambda trial: float(trial["valid"]))
        table = pl.read_parquet(best["folder"] / "values.parquet")
        values[model] = table[METRIC].to_numpy()
        names = ("hit_rate@5", "ndcg@5", "mrr@10", "hit_rate@10", "ndcg@10")
        found = estimate(np.column_stack([table[name].to_numpy() for name in names]))
        rows[model] = {
            "settings": best["settings"],
            "valid": best["valid"],
            "trials": [trial["valid"] for trial in tried],
            "test": {name: [one.mean, one.low, one.high] for name, one in zip(names, found, strict=True)},
            "seconds": sum(trial["record"]["cost"]["seconds"]["train"] for trial in tried),
            "parameters": best["record"]["cost"]["parameters"],
        }
    record = best["record"]
    tests = significance.compare(values) if len(values) > 1 else []
    return {
        "source": source,
        "trials": count,
        "space": SPACE,
        "fixed": FIXED,
        "rows": rows,
        "tests": [vars(test) | {"significant": test.significant} for test in tests],
        "data_hash": record["data_hash"],
        "questions": record["counts"]["test_questions"],
        "audit": record["audit"],
        "seed": record["seed"],
        "date": record["date"],
    }


def page(found: dict[str, Any]) -> str:
    """Markdown: the models by test NDCG@10, and which neighbours are told apart."""
    names = ["hit_rate@5", "ndcg@5", "mrr@10", "hit_rate@10", "ndcg@10"]
    rows = sorted(found["rows"].items(), key=lambda item: -float(item[1]["test"]["ndcg@10"][0]))
    lines = [
        f"# Sequential models on {found['source']}, {found['trials']} trials each",
        "",
        f"Made by `python -m benchmarks tuned --source {found['source']} --trials {found['trials']}`.",
        f"All models had the same trials: `{' '.join(found['fixed'])}` and draws from `{json.dumps(found['space'])}`;",
        "the one with the best validation NDCG@10 is shown.",
        f"Test, {found['questions']:,} questions, whole catalogue, history removed, 95 % intervals over users; seed "
        f"{found['seed']}.",
        "",
        "| model | chosen | validation | HR@5 | NDCG@5 | MRR@10 | HR@10 | NDCG@10 | 95 % | trials, s | numbers |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, row in rows:
        test = row["test"]
        cells = [
            model,
            " ".join(row["settings"]),
            f"{row['valid']:.4f}",
            *(f"{test[name][0]:.4f}" for name in names),
            f"{test['ndcg@10'][1]:.4f} to {test['ndcg@10'][2]:.4f}",
            f"{row['seconds']:,.0f}",
            f"{row['parameters']:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    apart = [f"{test['first']} and {test['second']}" for test in found["tests"] if test["significant"]]
    lines += [
        "",
        f"Pairs that are told apart (paired test of NDCG@10, Holm over {len(found['tests'])} pairs): "
        f"{', '.join(apart) if apart else 'none'}.",
        "",
        *trainings(found),
        "",
    ]
    return "\n".join(lines)
