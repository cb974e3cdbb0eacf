"""``segue auto`` with a fixed time, next to the recipes of Segue and the simple baselines with the same time.

``segue auto`` runs in a process of its own. Then each recipe of the data (or, without one, each of :data:`DEFAULTS`
with its default settings) is trained for the same time, with the best epoch kept, and so is each simple baseline.
Everything is chosen on validation; the test part is read once per model at the end.

The claim: on validation ``auto`` is never below the strongest simple baseline, and on the test part it reaches at least
95 % of the best recipe.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_load, describe_lines
from segue.core.model import Model, Solver
from segue.core.registry import model_class, model_keys
from segue.core.types import Split
from segue.data.splits import split
from segue.evaluation.evaluate import evaluate
from segue.evaluation.simple_baselines import RANKING_BASELINES, ranking_baselines
from segue.experiment.data import load_data
from segue.experiment.evaluate import mean_values
from segue.experiment.evaluate_run import evaluate_run
from segue.experiment.paths import recipes_folder, runs_folder
from segue.experiment.plan import Plan, make_plan
from segue.experiment.records.held_out_readings import describe_reading, record_reading
from segue.experiment.resources import thread_count
from segue.experiment.tuning.trial import TrialParts, train_trial

__all__ = ["DEFAULTS", "SHARE", "SOURCES", "measure", "page", "recipes_of", "run"]

METRIC = "ndcg@10"

MINUTES = 10.0
"""Time of ``segue auto``, and of each recipe."""

SHARE = 0.95
"""Share of the best recipe on the test part that ``auto`` is expected to reach."""

SOURCES = (
    *("ml-100k", "ml-1m", "amazon-beauty", "kg-lastfm", "diginetica"),
    "simulated?users=6040&items=3706&seed=1",
)
"""Data without ``--source``; what is not available is named on the page."""

QUICK = "simulated?users=200&items=50&seed=1"

DEFAULTS = ("item_knn", "ials", "ease", "sasrec", "xlstm")
"""Models that stand for the recipes where the data has none."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Reference:
    """A model that was trained with the same time."""

    name: str
    kind: str
    """``recipe``, ``defaults`` or ``baseline``."""
    valid: float | None
    test: float | None
    seconds: float
    note: str = ""


def recipes_of(source: str, models: str | None = None) -> dict[str, tuple[str, Plan]]:
    """Return the plans that ``auto`` is compared with, and where their settings come from.

    Recipes with another evaluation protocol or validation metric are left out.
    """
    texts = [f"training.metric={METRIC}"]
    rules = make_plan({"model": "popular", "data": source}, texts, "none").comparison_key()
    folder = recipes_folder() / Path(source.partition("?")[0]).stem
    keys = sorted({path.stem for path in folder.glob("*.toml")} & set(model_keys()))
    found = {}
    for key in keys:
        plan = make_plan({"model": key, "data": source}, texts)
        if not model_class(key).requires_ratings and plan.comparison_key() == rules:
            found[key] = ("recipe", plan)
    if not found:
        found = {key: ("defaults", make_plan({"model": key, "data": source}, texts, "none")) for key in DEFAULTS}
    return found if models is None else {key: found[key] for key in models.split(",") if key in found}


def measure(source: str, seconds: float, models: str | None, log: Log) -> dict[str, Any]:
    """Run ``segue auto`` on one source, then everything that it is compared with."""
    chosen = _run_auto(source, seconds, log)
    plans = recipes_of(source, models)
    any_plan = make_plan({"model": "popular", "data": source}, [f"training.metric={METRIC}"], "none")
    parts = split(load_data(any_plan), any_plan.split)
    rows = []
    for key in (one for one in RANKING_BASELINES if one in ranking_baselines(parts.train)):
        plan = make_plan({"model": key, "data": source}, [f"training.metric={METRIC}"], "none")
        rows.append(_train(key, "baseline", plan, parts, seconds, log))
    for key, (kind, plan) in plans.items():
        rows.append(_train(key, kind, plan, parts, seconds, log))
    return {"source": source, "auto": chosen, "references": [vars(row) for row in rows]}


def _run_auto(source: str, seconds: float, log: Log) -> dict[str, Any]:
    """Run the command, and evaluate its run on the test part."""
    log(f"{source}: segue auto for {seconds:g} s")
    started = time.monotonic()
    command = [sys.executable, "-m", "segue", "auto", source, "--time", f"{seconds:g}s", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    wall = time.monotonic() - started
    if done.returncode:
        raise ValueError(f"segue auto {source} failed with status {done.returncode}")
    record = json.loads(done.stdout)
    found = evaluate_run(Path(record["run"]), "test", command="benchmarks auto")
    best, baseline = record["best"], record["baseline"]
    return {
        "model": best["model"],
        "kind": best["kind"],
        "settings": best["settings"],
        "valid": best["valid"][0],
        "test": found.record[METRIC],
        "test_interval": found.record["intervals"][METRIC],
        "baseline": baseline["model"],
        "baseline_valid": baseline["valid"][0],
        "attempts": len(record["attempts"]),
        "skipped": record["skipped"],
        "seconds": record["seconds"],
        "wall_seconds": round(wall, 1),
    }


def _train(key: str, kind: str, plan: Plan, parts: Split, seconds: float, log: Log) -> Reference:
    """Train a model for at most ``seconds``; evaluate its best epoch on the test part."""
    deadline = time.monotonic() + seconds
    found = train_trial(plan, TrialParts(parts.train, parts.valid), deadline=deadline)
    if found.model is None or found.estimate is None:
        note = found.error or ("not finished" if issubclass(model_class(key), Solver) else "no epoch finished")
        log(f"{key} ({kind}): {note}, {found.seconds:.0f} s")
        return Reference(key, kind, None, None, round(found.seconds, 1), note)
    value = _read_test(key, found.model, parts, plan)
    note = f"stopped after {found.epochs} epochs" if found.state == "stopped" else ""
    log(f"{key} ({kind}): validation {found.estimate.mean:.4f}, test {value:.4f}, {found.seconds:.0f} s {note}")
    return Reference(key, kind, round(found.estimate.mean, 6), value, round(found.seconds, 1), note)


def _read_test(key: str, model: Model, parts: Split, plan: Plan) -> float:
    result = evaluate(model, parts.test, metrics=[METRIC], exclude_seen=plan.evaluation.exclude_seen)
    record_reading(runs_folder(), describe_reading(key, parts, mean_values(result), "benchmarks auto"))
    return round(result.estimates[METRIC].mean, 6)


def run(options: Namespace, log: Log) -> dict[str, Any]:
    """Measure the sources of the options."""
    minutes = options.minutes or (0.5 if options.quick else MINUTES)
    sources = [options.source] if options.source else [QUICK] if options.quick else list(SOURCES)
    rows, missing = [], {}
    load = cpu_load()
    for source in sources:
        try:
            load_data(make_plan({"model": "popular", "data": source}, (), "none"))
        except (ValueError, OSError) as error:
            if options.source:
                raise
            missing[source] = str(error).splitlines()[0]
            log(f"{source}: {missing[source]}")
            continue
        rows.append(measure(source, 60.0 * minutes, options.models, log))
    facts = {"threads": thread_count(), "load_before_percent": load}
    return {"minutes": minutes, "metric": METRIC, "rows": rows, "missing": missing, **facts}


def verdicts(row: dict[str, Any]) -> tuple[bool, float | None]:
    """Return whether ``auto`` is at least the strongest baseline on validation, and its share of the best recipe.

    The share is of the test metrics; ``None`` if no recipe was trained in the time.
    """
    found = row["auto"]
    tests = [one["test"] for one in row["references"] if one["kind"] != "baseline" and one["test"] is not None]
    valid = [one["valid"] for one in row["references"] if one["kind"] == "baseline" and one["valid"] is not None]
    is_above = found["valid"] >= max([found["baseline_valid"], *valid]) - 1e-6
    return is_above, found["test"] / max(tests) if tests and max(tests) > 0 else None


def page(found: dict[str, Any]) -> str:
    """Format one table of all sources, and one of each."""
    minutes = found["minutes"]
    lines = [
        f"# Choosing a model in {minutes:g} minutes",
        "",
        f"`segue auto D --time {minutes:g}m`, and each recipe of Segue for the data with the same time (the defaults "
        f"of {', '.join(f'`{key}`' for key in DEFAULTS)} where there is none). Metric: {found['metric']}, "
        "leave-one-out, whole catalog, history removed, one seed. Models are chosen on validation.",
        "",
        "| data | chosen | validation | strongest simple baseline | test | best recipe, test | share | time |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += ["| " + " | ".join(_summary(row)) + " |" for row in found["rows"]]
    lines += ["", *_verdict_lines(found), ""]
    for row in found["rows"]:
        lines += [f"## {row['source']}", "", *_reference_lines(row), ""]
    lines += [f"* not measured: {source}: {reason}" for source, reason in found["missing"].items()]
    return "\n".join([*lines, _load_line(found), *describe_lines(found["machine"]), ""])


def _load_line(found: dict[str, Any]) -> str:
    """Say how many processors are used, and whether others were free for these threads."""
    threads, cores, load = found["threads"], found["machine"]["cores"], found["load_before_percent"]
    free = 100.0 * max(0.0, 1.0 - threads / cores)
    mark = ": **disturbed, not a result**" if load > free + found["max_load_percent"] else ""
    used = f"{threads} thread{'s' * (threads > 1)} on {cores} processors"
    return f"* {used}; CPU load of other processes at the start: {load:.0f} % of all processors{mark}"


def _summary(row: dict[str, Any]) -> list[str]:
    chosen, (_, share) = row["auto"], verdicts(row)
    recipes = [one for one in row["references"] if one["kind"] != "baseline" and one["test"] is not None]
    best = max(recipes, key=lambda one: float(one["test"]), default=None)
    return [
        row["source"],
        chosen["model"],
        f"{chosen['valid']:.4f}",
        f"{chosen['baseline']} {chosen['baseline_valid']:.4f}",
        f"{chosen['test']:.4f} [{chosen['test_interval'][0]:.4f}, {chosen['test_interval'][1]:.4f}]",
        "none" if best is None else f"{best['name']} {best['test']:.4f}",
        "" if share is None else f"{share:.1%}",
        f"{chosen['seconds']:.0f} s",
    ]


def _verdict_lines(found: dict[str, Any]) -> list[str]:
    """Say on which data the claim holds."""
    rows = found["rows"]
    below = [row["source"] for row in rows if not verdicts(row)[0]]
    short = [row["source"] for row in rows if (share := verdicts(row)[1]) is not None and share < SHARE]
    below_on_test = [row["source"] for row in rows if row["auto"]["test"] < _strongest_baseline(row)]
    late = [row["source"] for row in rows if row["auto"]["seconds"] > 1.1 * 60.0 * found["minutes"]]
    return [
        f"* below the strongest simple baseline on validation: {', '.join(below) or 'none'}",
        f"* below the strongest simple baseline on the test part: {', '.join(below_on_test) or 'none'}",
        f"* below {SHARE:.0%} of the best recipe on the test part: {', '.join(short) or 'none'}",
        f"* more than a tenth over the time: {', '.join(late) or 'none'}",
    ]


def _strongest_baseline(row: dict[str, Any]) -> float:
    """Return the best metric of a simple baseline on the test part."""
    tests = [one["test"] for one in row["references"] if one["kind"] == "baseline" and one["test"] is not None]
    return max(tests, default=0.0)


def _reference_lines(row: dict[str, Any]) -> list[str]:
    chosen = row["auto"]
    settings = ", ".join(f"{key}={value}" for key, value in chosen["settings"].items()) or "defaults"
    lines = [
        f"`auto`: `{chosen['model']}` ({settings}), {chosen['attempts']} attempts, {chosen['seconds']:.0f} s, "
        f"{chosen['wall_seconds']:.0f} s with the start of the process.",
        "",
        "| model | settings | validation | test | seconds | |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for one in sorted(row["references"], key=lambda one: -(one["test"] or 0.0)):
        values = ["" if one[part] is None else f"{one[part]:.4f}" for part in ("valid", "test")]
        kind = "simple baseline" if one["kind"] == "baseline" else one["kind"]
        lines.append(f"| {one['name']} | {kind} | {' | '.join(values)} | {one['seconds']:.1f} | {one['note']} |")
    return lines
