"""Every sequential model under an equal tuning budget: the same trials, selected on validation, then tested.

The trials of a model are settings drawn from one space that all models share; the first is the center of the space.
Trials are compared by validation NDCG@10; only the best one of each model is evaluated on the test part.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import training_lines
from benchmarks.readings import count_readings, reading_lines
from segue.core.files import read_json
from segue.core.registry import model_class, model_keys
from segue.evaluation import significance
from segue.evaluation.bootstrap import estimate
from segue.experiment.compare_runs import ensure_run, read_test_results
from segue.experiment.plan import make_plan
from segue.experiment.run_folder import METRICS

__all__ = ["SPACE", "page", "run", "sequential_models"]

METRIC = "ndcg@10"

SPACE: dict[str, list[Any]] = {
    "learning_rate": [2e-3, 1e-3, 4e-3],
    "dropout": [0.3, 0.2, 0.5],
    "embedding_dim": [64, 128],
    "batch_size": [32, 64],
    "max_length": [50, 100],
}
"""Values of each setting, the center of the space first."""

FIXED = ["windows=all", "mask_seen=true", "epochs=20", "patience=4", "schedule=cosine", "warmup=1"]
"""Settings of every trial."""


def sequential_models() -> list[str]:
    """List the models that read a history in order."""
    from segue.nn.sequence_model import SequenceModel

    return [key for key in model_keys() if issubclass(model_class(key), SequenceModel)]


def trials(count: int) -> list[list[str]]:
    """Draw the settings of each trial: the center of the space, then draws that all models share."""
    rng = np.random.default_rng(0)
    drawn = [{name: values[0] for name, values in SPACE.items()}]
    while len(drawn) < count:
        one = {name: values[int(rng.integers(len(values)))] for name, values in SPACE.items()}
        if one not in drawn:
            drawn.append(one)
    return [[f"{name}={value}" for name, value in one.items()] for one in drawn]


def run(source: str, models: list[str], count: int, log: Any, quick: bool = False) -> dict[str, Any]:
    """Train ``count`` trials of each model; return the best by validation, and paired tests."""
    rows: dict[str, Any] = {}
    values: dict[str, np.ndarray[Any, Any]] = {}
    chosen_runs: list[Path] = []
    for model in models:
        tried = []
        for settings in trials(count):
            own = [*FIXED, *settings, *(["epochs=1"] if quick else [])]
            chosen = list({text.partition("=")[0]: text for text in own}.values())
            folder = ensure_run(make_plan({"model": model, "data": source}, chosen, "none"), log)
            record = read_json(folder / METRICS)
            tried.append({"settings": settings, "valid": record["valid"][METRIC], "folder": folder, "record": record})
            log(f"{model} {' '.join(settings)}: validation {tried[-1]['valid']:.4f}")
        best = max(tried, key=lambda trial: float(trial["valid"]))
        table = read_test_results(best["folder"])[1]  # trials read validation only, the best one reads the test
        chosen_runs.append(best["folder"])
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
    tests = significance.compare_all(values) if len(values) > 1 else []
    return {
        "source": source,
        "trials": count,
        "space": SPACE,
        "fixed": FIXED,
        "rows": rows,
        "test_readings": count_readings(chosen_runs),
        "tests": [vars(test) | {"significant": test.significant} for test in tests],
        "data_hash": record["data_hash"],
        "queries": record["counts"]["test_queries"],
        "leakage": record["leakage"],
        "seed": record["seed"],
        "date": record["date"],
    }


def page(found: dict[str, Any]) -> str:
    """Format the models by test NDCG@10, and the pairs with a significant difference."""
    names = ["hit_rate@5", "ndcg@5", "mrr@10", "hit_rate@10", "ndcg@10"]
    rows = sorted(found["rows"].items(), key=lambda item: -float(item[1]["test"]["ndcg@10"][0]))
    lines = [
        f"# Sequential models on {found['source']}, {found['trials']} trials each",
        "",
        f"Command: `python -m benchmarks equal_budget_tuning --source {found['source']} --trials {found['trials']}`.",
        f"All models have the same trials: `{' '.join(found['fixed'])}` and draws from `{json.dumps(found['space'])}`.",
        f"{found['queries']:,} queries, whole catalog, history removed; 1 seed ({found['seed']}).",
        "",
        *_tuning_lines(found),
        "## Test of the best trial of each model",
        "",
        "95 % intervals over users.",
        "",
        "| model | trial | HR@5 | NDCG@5 | MRR@10 | HR@10 | NDCG@10 | 95 % | all trials, s | parameters |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, row in rows:
        test = row["test"]
        cells = [
            model,
            f"{row['trials'].index(row['valid']) + 1}",
            *(f"{test[name][0]:.4f}" for name in names),
            f"{test['ndcg@10'][1]:.4f} to {test['ndcg@10'][2]:.4f}",
            f"{row['seconds']:,.0f}",
            f"{row['parameters']:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    pairs = [f"{test['first']} and {test['second']}" for test in found["tests"] if test["significant"]]
    lines += [
        "",
        f"Pairs with a significant difference (paired test of NDCG@10, Holm over {len(found['tests'])} pairs): "
        f"{', '.join(pairs) if pairs else 'none'}.",
        "",
        *reading_lines(found, f"equal_budget_tuning-{found['source']}", found["trials"] * len(found["rows"])),
        *training_lines(found),
        "",
    ]
    return "\n".join(lines)


def _tuning_lines(found: dict[str, Any]) -> list[str]:
    """Show the settings of each trial and its validation NDCG@10, without any test figure."""
    count = found["trials"]
    lines = ["## Validation NDCG@10 of the trials", ""]
    lines += [f"* trial {number}: `{' '.join(settings)}`" for number, settings in enumerate(trials(count), 1)]
    lines += ["", f"| model | {' | '.join(f'trial {number}' for number in range(1, count + 1))} |"]
    lines.append("| --- |" + " ---: |" * count)
    for model, row in sorted(found["rows"].items(), key=lambda item: -float(item[1]["valid"])):
        lines.append(f"| {model} | {' | '.join(f'{value:.4f}' for value in row['trials'])} |")
    return [*lines, ""]
