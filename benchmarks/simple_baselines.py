"""Simple baselines of a leave-one-out board on validation and on the test part.

Measured are the models of ``segue baselines`` and the nearest neighbors with their defaults, and ``item_knn`` with the
best settings of a small grid. Settings, and the baseline that counts as the strongest, are chosen on validation; the
test part is read once per row after all choices. All models are solved and deterministic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import segue
from benchmarks.machine import describe_lines
from benchmarks.table_rows import correct, difference_cells, head_lines, interval_cell, row_line
from segue.core.model import Model
from segue.core.run import Run
from segue.core.types import HeldOut, Split
from segue.data.split_settings import SplitSettings
from segue.data.splits import split
from segue.evaluation.evaluate import EvaluationResult, evaluate
from segue.evaluation.significance import PairedTest, compare_pair
from segue.evaluation.simple_baselines import RANKING_BASELINES, skipped_baselines
from segue.experiment.evaluate import mean_values
from segue.experiment.paths import runs_folder
from segue.experiment.records.held_out_readings import describe_reading, record_reading
from segue.reports.quantities import metric_label
from segue.training.settings import Training
from segue.training.train import train

__all__ = ["GRID", "TUNED", "describe_settings", "measure", "page", "run"]

NEIGHBORS = ("item_knn", "user_knn")
"""Measured with their defaults, in addition to the models of ``segue baselines``."""

TUNED = "item_knn, chosen settings"
"""Row of ``item_knn`` with the best settings of :data:`GRID`."""

GRID: tuple[dict[str, Any], ...] = tuple(
    {"half_life": half_life, "k": k, "weighting": weighting}
    for half_life, k, weighting in product((None, 1.0, 3.0, 10.0), (100, 500), (None, "bm25"))
)
"""Settings of ``item_knn`` to choose from on validation; the first are its defaults."""

METRICS = ("ndcg@10", "hit_rate@10")
"""The first one chooses."""

QUICK = "simulated?users=60&items=40&seed=1"

Log = Callable[[str], None]


def run(source: str | None, log: Log, quick: bool = False) -> dict[str, Any]:
    """Measure all rows on a source.

    Args:
        source: default: MovieLens 1M.
        quick: a small simulated log, which checks that the part runs.
    """
    source = source or (QUICK if quick else "ml-1m")
    started = time.perf_counter()
    data = segue.load(source)
    found = measure(split(data, SplitSettings()), log)
    about: dict[str, Any] = {"users": data.n_users, "items": data.n_items, "events": data.histories.size}
    about["hash"] = data.header.get("hash")
    return {"source": source, "data": about, **found, "seconds": time.perf_counter() - started}


def measure(parts: Split, log: Log) -> dict[str, Any]:
    """Return a row per baseline with both parts, the grid, and the paired tests on the test part."""
    grid: list[tuple[dict[str, Any], float]] = []
    for settings in GRID:
        value = _evaluate(_fit("item_knn", settings, parts), parts.valid).estimates[METRICS[0]].mean
        grid.append((settings, value))
        log(f"item_knn, {describe_settings(settings)}: validation {value:.4f}")
    best = max(grid, key=lambda one: one[1])[0]
    skipped = skipped_baselines(parts.train)
    keys = [key for key in (*RANKING_BASELINES, *NEIGHBORS) if key not in skipped]
    settings_of: dict[str, tuple[str, dict[str, Any]]] = {key: (key, {}) for key in keys}
    if best != GRID[0]:
        settings_of[TUNED] = ("item_knn", best)
    models = {name: _fit(key, settings, parts) for name, (key, settings) in settings_of.items()}
    valid = {name: _evaluate(model, parts.valid) for name, model in models.items()}
    ranking = sorted(valid, key=lambda name: -valid[name].estimates[METRICS[0]].mean)
    strongest = ranking[0]
    second = next(name for name in ranking if settings_of[name][0] != settings_of[strongest][0])
    test = {name: _read_test(name, model, parts) for name, model in models.items()}
    rows = {}
    for name in ranking:
        key, settings = settings_of[name]
        both = {"valid": _intervals(valid[name]), "test": _intervals(test[name])}
        rows[name] = {"model": key, "settings": settings, **both}
        log(f"{name}: validation {both['valid'][METRICS[0]][0]:.4f}, test {both['test'][METRICS[0]][0]:.4f}")
    tests = correct([_compare(test, strongest, second, metric) for metric in METRICS])
    return {
        "queries": {"valid": len(parts.valid), "test": len(parts.test)},
        "rows": rows,
        "grid": grid,
        "skipped": skipped,
        "strongest": strongest,
        "second": second,
        "tests": [{"metric": metric, **one} for metric, one in zip(METRICS, tests, strict=True)],
    }


def _fit(key: str, settings: Mapping[str, Any], parts: Split) -> Model:
    return train(key, dict(settings), Training(), parts.train, Run(0))


def _evaluate(model: Model, held_out: HeldOut) -> EvaluationResult:
    return evaluate(model, held_out, metrics=METRICS)


def _read_test(name: str, model: Model, parts: Split) -> EvaluationResult:
    """Evaluate a model on the test part and record the reading."""
    found = _evaluate(model, parts.test)
    record_reading(runs_folder(), describe_reading(name, parts, mean_values(found), "benchmarks simple_baselines"))
    return found


def _intervals(found: EvaluationResult) -> dict[str, list[float]]:
    return {
        name: [found.estimates[name].mean, found.estimates[name].low, found.estimates[name].high] for name in METRICS
    }


def _compare(test: Mapping[str, EvaluationResult], first: str, second: str, metric: str) -> PairedTest:
    found = compare_pair(test[first].values[metric], test[second].values[metric])
    return replace(found, first=first, second=second)


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Format settings, those of the defaults of ``item_knn`` left out."""
    changed = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in settings.items()
        if value != GRID[0][name]
    ]
    return ", ".join(changed) or "defaults"


def page(found: Mapping[str, Any]) -> str:
    """Format the rows, the strongest baseline, the paired tests and the grid as Markdown."""
    source, data, queries = found["source"], found["data"], found["queries"]
    lines = [
        f"# Simple baselines on {source}",
        "",
        "```sh",
        f"python -m benchmarks simple_baselines --source {source} --out docs/results",
        "```",
        "",
        f"Leave-one-out, {queries['valid']:,} validation and {queries['test']:,} test queries, whole catalog of "
        f"{data['items']:,} items, seen items removed; {data['events']:,} events of {data['users']:,} users. The "
        "models are trained once, on the training part. They have their defaults, except `item_knn` with settings "
        "chosen on validation. Brackets: 95 % intervals over users.",
        "",
        *_row_lines(found["rows"]),
        "",
        _strongest_line(found),
        "",
        "Paired randomization tests over users on the test part, of the strongest model on validation minus the "
        "strongest other model; Holm's correction over both tests:",
        "",
        *head_lines(["metric", "pair", "difference", "95 %", "p (Holm)"]),
        *(row_line([metric_label(test["metric"]), *difference_cells(test)]) for test in found["tests"]),
        "",
        "Settings of `item_knn` with NDCG@10 on validation, the highest in bold:",
        "",
        *_grid_lines(found["grid"]),
        "",
        *(f"* not measured: `{name}`, as {reason}" for name, reason in found["skipped"].items()),
        f"* data hash {data['hash']}; one reading of the test part per row, after all choices",
        f"* the whole took {found['seconds'] / 60:.1f} minutes",
        *describe_lines(found["machine"]),
    ]
    return "\n".join([*lines, ""])


def _row_lines(rows: Mapping[str, Any]) -> list[str]:
    columns = [(part, metric) for part in ("valid", "test") for metric in METRICS]
    labels = [f"{'validation' if part == 'valid' else part} {metric_label(metric)}" for part, metric in columns]
    lines = head_lines(["model", "settings", *labels], len(columns))
    for row in rows.values():
        figures = [row[part][metric] for part, metric in columns]
        settings = describe_settings(row["settings"])
        lines.append(row_line([f"`{row['model']}`", settings, *(interval_cell(one[0], one[1:]) for one in figures)]))
    return lines


def _strongest_line(found: Mapping[str, Any]) -> str:
    row, first = found["rows"][found["strongest"]], METRICS[0]
    settings = describe_settings(row["settings"])
    return (
        f"The strongest on validation is `{row['model']}` ({settings}), with NDCG@10 "
        f"{interval_cell(row['valid'][first][0], row['valid'][first][1:])}. On the test part it has "
        f"{interval_cell(row['test'][first][0], row['test'][first][1:])}."
    )


def _grid_lines(grid: Sequence[tuple[Mapping[str, Any], float]]) -> list[str]:
    values = [value for _, value in grid]
    texts = [f"{value:.4f}" for value in values]
    best = values.index(max(values))
    texts[best] = f"**{texts[best]}**"
    return [f"* {describe_settings(settings)}: {text}" for (settings, _), text in zip(grid, texts, strict=True)]
