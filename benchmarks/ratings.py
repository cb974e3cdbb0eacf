"""How far predicted ratings are from the true ones: every rating model under the splits that papers use.

Each entry is trained several times, with other seeds or on other folds, by an ordinary ``segue train`` from the recipe
of that model and data; finished runs are used again. Nothing is held out for validation here: settings were chosen
before, on a tenth of the training part of ``u1``, of fold 0, or of another random split. Other folds ask for ratings
that were there, as they do with every setting that is used for all folds; ``u1`` and fold 0 do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks.machine import trainings
from benchmarks.ratings_speed import errors, pairs
from benchmarks.subprocess_runner import fresh, python_of
from segue.core.files import read_json
from segue.data.splits import split
from segue.experiment.compare import run_of
from segue.experiment.data import load_data
from segue.experiment.paths import recipes_folder
from segue.experiment.plan import plan
from segue.experiment.run_folder import METRICS

__all__ = ["MODELS", "TASKS", "page", "predictors", "run"]


@dataclass(frozen=True)
class Task:
    """One split, drawn or given several times."""

    title: str
    data: str
    times: tuple[tuple[str, ...], ...]
    """Settings of each repetition."""
    also: tuple[str, ...] = ()
    """Models beside :data:`MODELS`."""
    facts: dict[str, str] = field(default_factory=dict)
    """Figures published under this protocol, by their origin."""
    peers: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """Models of other libraries that get the same splits: library, and what its side is asked for."""


def _seeds(*settings: str, count: int) -> tuple[tuple[str, ...], ...]:
    return tuple((*settings, f"run.seed={seed}") for seed in range(count))


MODELS = (
    "bayesian_pmf",
    "factorization_machine",
    "svdpp",
    "als",
    "pmf",
    "svd@ratings",
    "nmf@ratings",
    "item_knn@ratings",
    "user_knn@ratings",
)
"""Models that predict values; ``key@what`` is the one of the recipe ``key-what.toml``."""

QUICK = {key: ["sweeps=2"] for key in ("bayesian_pmf", "factorization_machine", "svdpp", "als", "pmf", "nmf")}

TASKS = {
    "ml-100k-u1": Task(
        "u1.base and u1.test",
        "ml-100k",
        _seeds("split.kind=given", "split.name=u1", "split.tell_time=true", count=3),
        ("factorization_machine@features", "als@features"),
        facts={
            "Bayesian factorisation machine, ordered probit, dates and side information": "0.8808",
            "GLocal-K, ids only": "0.8889",
        },
    ),
    "ml-100k-folds": Task(
        "five random folds",
        "ml-100k",
        tuple(("split.kind=k_fold", f"split.fold={fold}") for fold in range(5)),
        ("als@features",),
        facts={"Surprise SVD++": "0.919", "Surprise KNNBaseline": "0.931", "Surprise SVD": "0.934"},
        peers={
            "Surprise SVD++": ("surprise", {"model": "SVDpp", "settings": {}}),
            "Surprise KNNBaseline": ("surprise", {"model": "KNNBaseline", "settings": {}}),
            "Surprise SVD": ("surprise", {"model": "SVD", "settings": {}}),
        },
    ),
    "ml-100k-given": Task(
        "u1 to u5",
        "ml-100k",
        tuple(("split.kind=given", f"split.name=u{number}", "split.tell_time=true") for number in range(1, 6)),
        ("factorization_machine@features", "als@features"),
    ),
    "ml-1m-90": Task(
        "random 90/10",
        "ml-1m",
        tuple(("split.kind=random", "split.test=0.1", f"split.seed={seed}", f"run.seed={seed}") for seed in range(3)),
        facts={"GLocal-K": "0.8227", "CF-NADE": "0.829", "GC-MC": "0.832"},
    ),
}


def predictors(task: str) -> list[str]:
    """The models of a task.

    Raises:
        ValueError: an unknown task.
    """
    return [*MODELS, *_task(task).also]


def _task(name: str) -> Task:
    if name not in TASKS:
        raise ValueError(f"task: unknown '{name}', expected one of {', '.join(TASKS)}")
    return TASKS[name]


def run(task: str, models: list[str], say: Any, quick: bool = False) -> dict[str, Any]:
    """Each of ``models`` (see :data:`MODELS`) trained for every repetition.

    Returns:
        per model the root mean squared errors, their mean and 95 % interval (Student's t over repetitions), and cost.

    Raises:
        ValueError: an unknown task.
    """
    asked = _task(task)
    times = asked.times[:1] if quick else asked.times
    rows: dict[str, Any] = {}
    for name in models:
        key, _, what = name.partition("@")
        path = recipes_folder() / asked.data / f"{key}-{what}.toml" if what else None
        records = []
        for settings in times:
            wanted = [
                *settings,
                "split.valid=0",
                'evaluation.metrics=["rmse","mae"]',
                *(QUICK.get(key, []) if quick else []),
            ]
            folder = run_of(plan({"model": key, "data": asked.data}, wanted, path), say)
            records.append(read_json(folder / METRICS))
            say(f"{name} {' '.join(settings)}: {records[-1]['rmse']:.4f}")
        rows[name] = {
            "rmse": [record["rmse"] for record in records],
            "mae": [record["mae"] for record in records],
            "seconds": [record["cost"]["seconds"]["train"] for record in records],
            "parameters": records[0]["cost"]["parameters"],
            "recipe": records[0]["recipe"],
        }
    record = records[-1]
    for name, (library, wanted) in asked.peers.items():
        python = python_of(library)
        if python is not None:
            rows[name] = _peer(f"ratings_{library}", python, asked.data, wanted, times)
            say(f"{name}: {', '.join(f'{value:.4f}' for value in rows[name]['rmse'])}")
    return {
        "task": task,
        "title": asked.title,
        "data": asked.data,
        "published": asked.facts,
        "settings": [list(settings) for settings in times],
        "rows": rows,
        **{key: record[key] for key in ("data_hash", "date", "warnings")},
    }


def _peer(
    script: str, python: Path, data: str, wanted: dict[str, Any], times: tuple[tuple[str, ...], ...]
) -> dict[str, Any]:
    """Another library's model on the same splits, one after the other."""
    figures = []
    for number, settings in enumerate(times):
        chosen = plan({"model": "als", "data": data}, [*settings, "split.valid=0"], "none")
        log = load_data(chosen)
        arrays = pairs(split(log, chosen.split))
        values = arrays["train_values"]
        ask = {"threads": 1, "seed": number, "users": log.n_users, "items": log.n_items}
        told, left = fresh(script, python, ask | {"scale": [float(values.min()), float(values.max())]} | wanted, arrays)
        figures.append(errors(left["predicted"], arrays) | {"seconds": told["fit_seconds"]})
    found: dict[str, Any] = {name: [one[name] for one in figures] for name in ("rmse", "mae", "seconds")}
    return found | {"parameters": None, "recipe": "its own defaults"}


def estimated(values: list[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval over repetitions (NaN for a single one)."""
    if len(values) < 2:
        return values[0], float("nan")
    spread = float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return float(np.mean(values)), float(t.ppf(0.975, len(values) - 1)) * spread


def page(found: dict[str, Any]) -> str:
    """Markdown: the models by error."""
    lines = [
        f"# Ratings of {found['data']}: {found['title']}",
        "",
        f"Made by `python -m benchmarks ratings --task {found['task']} --out docs/results`. Settings are those of the",
        f"recipes in `recipes/{found['data']}/`, chosen once on a part of the training of u1, of fold 0 or of a random",
        "split; nothing is held out for validation here. Mean over repetitions,",
        f"{len(found['settings'])} of them, and half the width of its 95 % interval over them (Student's t).",
        "Neighbours are found when they are asked for, which is not in the seconds of training.",
        "",
        "| model | RMSE | ± | MAE | ± | training, s | numbers |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in sorted(found["rows"].items(), key=lambda item: float(np.mean(item[1]["rmse"]))):
        figures = [f"{value:.4f}" for metric in ("rmse", "mae") for value in estimated(row[metric])]
        cells = [name, *figures, f"{np.mean(row['seconds']):,.1f}"]
        cells.append("" if row["parameters"] is None else f"{row['parameters']:,}")
        lines.append("| " + " | ".join(cells) + " |")
    if found["published"]:
        lines += ["", "Published under this protocol:", ""]
        lines += [f"* {origin}: {figure}" for origin, figure in found["published"].items()]
    lines += ["", "One by one:", ""]
    for name, row in found["rows"].items():
        lines.append(
            f"* {name}: {', '.join(f'{value:.4f}' for value in row['rmse'])}; recipe {row['recipe'] or 'none'}"
        )
    lines += ["", *(f"* mind: {warning}" for warning in found["warnings"]), *trainings(found), ""]
    return "\n".join(lines)
