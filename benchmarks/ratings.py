"""Accuracy of predicted ratings: every rating model under the splits used in papers.

Each entry is trained several times, with other seeds or on other folds, by an ordinary ``segue train`` from the recipe
of that model and data; finished runs are reused. Nothing is held out for validation: settings were chosen before, on a
tenth of the training part of ``u1`` (factorization machines), of fold 0, or of another random split; the recipe of each
model says of which. Test ratings of every other split were part of that data, as with any settings shared by folds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks.machine import training_lines
from benchmarks.published import DATES, FIGURES, RATED_IDS
from benchmarks.ratings_speed import errors, pairs
from benchmarks.readings import count_readings, reading_lines
from benchmarks.subprocess_runner import find_python, run_in_subprocess
from benchmarks.verdicts import compare_figures, emphasize, verdict_lines
from segue.data.splits import split
from segue.experiment.compare_runs import ensure_run, read_test_results
from segue.experiment.data import load_data
from segue.experiment.paths import recipes_folder
from segue.experiment.plan import make_plan

__all__ = ["MODELS", "TASKS", "page", "rating_models", "run"]


@dataclass(frozen=True)
class Task:
    """One kind of split with several repetitions."""

    title: str
    data: str
    repetitions: tuple[tuple[str, ...], ...]
    """Settings of each repetition."""
    extra_models: tuple[str, ...] = ()
    """Models in addition to :data:`MODELS`."""
    compared: dict[str, str] = field(default_factory=dict)
    """Inputs of the models that are compared with published figures."""
    peers: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """Models of other libraries that get the same splits: library, and settings of its runner."""


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
"""Models that predict ratings; ``key@variant`` uses the recipe ``key-variant.toml``."""

QUICK = {key: ["iterations=2"] for key in ("bayesian_pmf", "factorization_machine", "svdpp", "als", "pmf", "nmf")}

TASKS = {
    "ml-100k-u1": Task(
        "u1.base and u1.test",
        "ml-100k",
        _seeds("split.strategy=predefined", "split.name=u1", "split.use_query_time=true", count=3),
        ("factorization_machine@features", "als@features"),
        compared={"factorization_machine": RATED_IDS, "factorization_machine@features": DATES},
    ),
    "ml-100k-folds": Task(
        "five random folds",
        "ml-100k",
        tuple(("split.strategy=k_fold", f"split.fold={fold}") for fold in range(5)),
        ("als@features",),
        compared={"factorization_machine": RATED_IDS},
        peers={
            "Surprise SVD++": ("surprise", {"model": "SVDpp", "settings": {}}),
            "Surprise KNNBaseline": ("surprise", {"model": "KNNBaseline", "settings": {}}),
            "Surprise SVD": ("surprise", {"model": "SVD", "settings": {}}),
        },
    ),
    "ml-100k-given": Task(
        "u1 to u5",
        "ml-100k",
        tuple(
            ("split.strategy=predefined", f"split.name=u{number}", "split.use_query_time=true")
            for number in range(1, 6)
        ),
        ("factorization_machine@features", "als@features"),
    ),
    "ml-1m-90": Task(
        "random 90/10",
        "ml-1m",
        tuple(
            ("split.strategy=random", "split.test=0.1", f"split.seed={seed}", f"run.seed={seed}") for seed in range(3)
        ),
        compared={"bayesian_pmf": RATED_IDS},
    ),
}


def rating_models(task: str) -> list[str]:
    """List the models of a task.

    Raises:
        ValueError: an unknown task.
    """
    return [*MODELS, *_task(task).extra_models]


def _task(name: str) -> Task:
    if name not in TASKS:
        raise ValueError(f"task: unknown '{name}', expected one of {', '.join(TASKS)}")
    return TASKS[name]


def run(task: str, models: list[str], log: Any, quick: bool = False) -> dict[str, Any]:
    """Train each of ``models`` (see :data:`MODELS`) for every repetition.

    Returns:
        per model the errors of every repetition, and its cost.

    Raises:
        ValueError: an unknown task.
    """
    chosen = _task(task)
    repetitions = chosen.repetitions[:1] if quick else chosen.repetitions
    rows: dict[str, Any] = {}
    every_run: list[Path] = []
    for name in models:
        key, _, variant = name.partition("@")
        path = recipes_folder() / chosen.data / f"{key}-{variant}.toml" if variant else None
        records = []
        for settings in repetitions:
            overrides = [
                *settings,
                "split.valid=0",
                'evaluation.metrics=["rmse","mae"]',
                *(QUICK.get(key, []) if quick else []),
            ]
            folder = ensure_run(make_plan({"model": key, "data": chosen.data}, overrides, path), log, read_test=True)
            every_run.append(folder)
            records.append(read_test_results(folder)[0])
            log(f"{name} {' '.join(settings)}: {records[-1]['rmse']:.4f}")
        rows[name] = {
            "rmse": [record["rmse"] for record in records],
            "mae": [record["mae"] for record in records],
            "seconds": [record["cost"]["seconds"]["train"] for record in records],
            "parameters": records[0]["cost"]["parameters"],
            "recipe": records[0]["recipe"],
        }
    record = records[-1]
    for name, (library, peer_settings) in chosen.peers.items():
        python = find_python(library)
        if python is not None:
            rows[name] = _peer(f"ratings_{library}", python, chosen.data, peer_settings, repetitions)
            log(f"{name}: {', '.join(f'{value:.4f}' for value in rows[name]['rmse'])}")
    return {
        "task": task,
        "title": chosen.title,
        "data": chosen.data,
        "test_readings": count_readings(every_run),
        "settings": [list(settings) for settings in repetitions],
        "rows": rows,
        **{key: record[key] for key in ("data_hash", "date", "warnings")},
    }


def _peer(
    script: str, python: Path, data: str, peer_settings: dict[str, Any], repetitions: tuple[tuple[str, ...], ...]
) -> dict[str, Any]:
    """Run the model of another library on the same splits."""
    figures = []
    for number, settings in enumerate(repetitions):
        plan = make_plan({"model": "als", "data": data}, [*settings, "split.valid=0"], "none")
        dataset = load_data(plan)
        arrays = pairs(split(dataset, plan.split))
        values = arrays["train_values"]
        job = {"threads": 1, "seed": number, "users": dataset.n_users, "items": dataset.n_items}
        job["scale"] = [float(values.min()), float(values.max())]
        measured, results = run_in_subprocess(script, python, job | peer_settings, arrays)
        figures.append(errors(results["predicted"], arrays) | {"seconds": measured["fit_seconds"]})
    found: dict[str, Any] = {name: [one[name] for one in figures] for name in ("rmse", "mae", "seconds")}
    return found | {"parameters": None, "recipe": "defaults of the library"}


def mean_with_margin(values: list[float]) -> tuple[float, float]:
    """Compute the mean and half the width of its 95 % interval over repetitions (NaN for a single one)."""
    if len(values) < 2:
        return values[0], float("nan")
    spread = float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return float(np.mean(values)), float(t.ppf(0.975, len(values) - 1)) * spread


def page(found: dict[str, Any]) -> str:
    """Format the models by error."""
    lines = [
        f"# Ratings of {found['data']}: {found['title']}",
        "",
        f"Command: `python -m benchmarks ratings --task {found['task']} --out docs/results`. Settings are those of the",
        f"recipes in `recipes/{found['data']}/`, chosen once on a part of the training data of u1, of fold 0 or of a",
        "random split, as each recipe says; test ratings of every other split were part of that data. Nothing is",
        "held out for validation here. The table shows means over",
        f"{len(found['settings'])} repetitions and half the width of their 95 % interval (Student's t).",
        "Neighborhood models compute neighbors at prediction time, which the training seconds do not include.",
        "",
        "| model | RMSE | ± | MAE | ± | training, s | parameters |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in sorted(found["rows"].items(), key=lambda item: float(np.mean(item[1]["rmse"]))):
        figures = [f"{value:.4f}" for metric in ("rmse", "mae") for value in mean_with_margin(row[metric])]
        cells = [name, *figures, f"{np.mean(row['seconds']):,.1f}"]
        cells.append("" if row["parameters"] is None else f"{row['parameters']:,}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [*_published_lines(found), *_peer_lines(found), "", "RMSE of each repetition:", ""]
    for name, row in found["rows"].items():
        lines.append(
            f"* {name}: {', '.join(f'{value:.4f}' for value in row['rmse'])}; recipe {row['recipe'] or 'none'}"
        )
    runs = sum(row["parameters"] is not None for row in found["rows"].values()) * len(found["settings"])
    lines += ["", *(f"* warning: {warning}" for warning in found["warnings"])]
    lines += [*reading_lines(found, f"ratings-{found['task']}", runs), *training_lines(found), ""]
    return "\n".join(lines)


def _published_lines(found: dict[str, Any]) -> list[str]:
    """Compare models with published errors, a row each."""
    models = {name: one for name, one in _task(found["task"]).compared.items() if name in found["rows"]}
    rows = FIGURES.get(f"ratings-{found['task']}", ())
    if not models or not rows or len(found["settings"]) < 2:
        return []
    repetitions = len(found["settings"])
    lines = ["", "## Comparison with published figures", "", *verdict_lines(), ""]
    lines.append(
        f"| published RMSE | inputs | note | {' | '.join(f'{name} ({repetitions} runs)' for name in models)} |"
    )
    lines.append("| --- |" + " --- |" * (len(models) + 2))
    means = {name: mean_with_margin(found["rows"][name]["rmse"]) for name in models}
    lines.append(f"| Segue |  |  | {' | '.join(f'{mean:.4f} ± {margin:.4f}' for mean, margin in means.values())} |")
    for published in rows:
        cells = [f"{published.source} {published.figures[0]}", published.inputs, published.note]
        for name, inputs in models.items():
            mean, margin = means[name]
            verdict = compare_figures(
                (mean - margin, mean + margin),
                float(published.figures[0]),
                has_equal_inputs=inputs == published.inputs,
                has_equal_test=published.has_same_test,
                is_error=True,
            )
            cells.append(emphasize(verdict.value, verdict))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _peer_lines(found: dict[str, Any]) -> list[str]:
    """Show the difference from other libraries on the same splits, paired by repetition."""
    peers = [name for name in _task(found["task"]).peers if name in found["rows"]]
    lines = []
    for own in _task(found["task"]).compared if peers else ():
        differences = []
        for peer in peers:
            gaps = np.subtract(found["rows"][own]["rmse"], found["rows"][peer]["rmse"])
            differences.append("{}: {:+.4f} ± {:.4f}".format(peer, *mean_with_margin(gaps.tolist())))
        lines += [
            "",
            f"On the same splits, RMSE of `{own}` minus that of libraries with their default settings (they were not "
            f"tuned; `{own}` was), paired by repetition: {'; '.join(differences)}.",
        ]
    return lines
