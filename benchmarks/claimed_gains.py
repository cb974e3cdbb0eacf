"""Gains of a model of sequences and text over simple baselines, next to gains that were once reported.

The report: Precision@K +22 %, Recall@K +18 %, F1@K +20 % and AUC +15 % over baselines that it does not describe. Here
``fusion`` over ``transformer_xl`` is compared with popularity, neighbors, linear models and ALS: leave-one-out, whole
catalog, seen items removed. The models of all seeds are evaluated on the same queries; the values of a user are means
over the seeds.

With one target per query, Precision@K is HitRate@K / K, Recall@K is HitRate@K and F1@K is 2 HitRate@K / (K + 1), so
that their relative gains are equal: different gains cannot come from this protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cold_item_page import log_lines
from benchmarks.cold_item_rows import TASKS, Task
from benchmarks.cold_items import describe_log
from benchmarks.machine import describe_lines
from benchmarks.stronger_baselines import baseline_lines
from segue.core.run import Run
from segue.core.types import Split
from segue.data.splits import split
from segue.evaluation.evaluate import evaluate, make_validator
from segue.evaluation.significance import compare_all
from segue.experiment.data import load_data
from segue.experiment.plan import Plan, make_plan
from segue.reports.quantities import format_duration, metric_label
from segue.training.train import train

__all__ = ["CLAIMS", "MODELS", "compare", "page", "run"]

MODELS = {
    "fusion": ("model.backbone=transformer_xl",),
    "popular": (),
    "item_knn": (),
    "user_knn": (),
    "ease": (),
    "svd": (),
    "ials": (),
    "als": (),
}
"""Settings by model; the first is compared with the others."""

RATING_MODELS = ("als",)
"""Baselines that predict values and do not rank: a gain over them is not counted."""

CLAIMS = {"precision": 0.22, "recall": 0.18, "f1": 0.20, "auc": 0.15}
"""Relative gains that were reported."""

KS = (5, 10)

Values = Mapping[str, NDArray[np.float64]]
"""Metrics by name, one value per query."""


def run(source: str | None, seeds: int, log: Callable[[str], None], quick: bool = False) -> dict[str, Any]:
    """Train every model with every seed and compare them.

    Args:
        source: default: MovieLens 1M with texts; with ``quick`` a small simulated log.
    """
    source = source or ("simulated?users=150&items=60&seed=1" if quick else "ml-1m-text")
    plans = make_plans(source, quick)
    first = plans["fusion"]
    data = load_data(first, log)
    parts = split(data, first.split)
    values: dict[str, list[Values]] = {name: [] for name in plans}
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    for seed in range(1 if quick else seeds):
        for name, plan in plans.items():
            started = time.process_time()
            values[name].append(_train_and_evaluate(plan, parts, seed))
            seconds[name].append(time.process_time() - started)
            log(f"seed {seed}, {name}: recall@10 {np.nanmean(values[name][-1]['recall@10']):.4f}")
    return {
        "source": source,
        "seeds": 1 if quick else seeds,
        "texts": list(TASKS.get(source, Task()).texts),
        "queries": len(parts.test),
        "data_hash": data.header.get("hash"),
        "warnings": list(data.header.get("warnings", ())),
        "log": describe_log(data),
        "recipes": {name: plan.task.recipe for name, plan in plans.items()},
        "seconds": {name: float(np.mean(found)) for name, found in seconds.items()},
        **compare(values),
    }


def make_plans(source: str, quick: bool = False) -> dict[str, Plan]:
    """Resolve the settings of each model."""
    task = TASKS.get(source, Task())
    text = [f"text.columns=[{','.join(task.texts)}]", *task.encoding] if task.texts else []
    plans = {}
    for name, settings in MODELS.items():
        own = [*task.settings, *settings, *(text if name == "fusion" else [])]
        plans[name] = make_plan({"model": name, "data": source}, own)
    if quick:
        plan = plans["fusion"]
        plans["fusion"] = replace(plan, training=plan.training.model_copy(update={"epochs": 1}))
    return plans


def _train_and_evaluate(plan: Plan, parts: Split, seed: int) -> Values:
    validate = make_validator(parts.valid, plan.metric)
    model = train(plan.task.model, plan.model, plan.training, parts.train, Run(seed), validate)
    return evaluate(model, parts.test, ks=KS, metrics=("precision", "recall", "f1", "auc")).values


def compare(values: Mapping[str, Sequence[Values]]) -> dict[str, Any]:
    """Return means by model and metric, and the gains of the first model.

    Holm's correction is over the baselines, for each metric.
    """
    names = list(next(iter(values.values()))[0])
    pooled = {
        model: {name: np.mean([one[name] for one in found], axis=0) for name in names}
        for model, found in values.items()
    }
    first, *_ = values
    gains = []
    for name in names:
        claim = CLAIMS[name.partition("@")[0]]
        for test in compare_all({model: found[name] for model, found in pooled.items()}, baseline=first):
            # the tests are of each baseline minus the first model
            base = float(np.nanmean(pooled[test.first][name]))
            gain, low, high = (-value / base if base else np.inf for value in (test.difference, test.high, test.low))
            gains.append(
                {"metric": name, "baseline": test.first, "claim": claim, "gain": gain, "low": low, "high": high}
                | {"test": asdict(test)}
            )
    rows = {
        model: {
            name: {
                "mean": float(np.nanmean(pooled[model][name])),
                "seeds": [float(np.nanmean(one[name])) for one in found],
            }
            for name in names
        }
        for model, found in values.items()
    }
    return {"rows": rows, "gains": gains}


def outcome(gain: Mapping[str, Any]) -> str:
    """Say whether a claimed gain is reached.

    It is if the model is significantly better and no part of the interval is below the claim; if the interval includes
    the claim, it is on par.
    """
    if gain["test"]["p_holm"] >= 0.05 or gain["high"] < gain["claim"]:
        return "not reached"
    return "reached" if gain["low"] >= gain["claim"] else "on par"


def page(found: Mapping[str, Any]) -> str:
    """Format a table of the metrics and one of the gains."""
    rows, texts = found["rows"], f"text: {', '.join(found['texts'])}" if found["texts"] else "no text"
    metrics = list(next(iter(rows.values())))
    lines = [
        f"# Claimed gains of sequences and text: {found['source']}",
        "",
        *log_lines(found),
        "A system of sequences and text once reported Precision@K +22 %, Recall@K +18 %, F1@K +20 % and AUC +15 % over "
        "baselines, without data, baselines or protocol. This page measures the same four for `fusion` over "
        "`transformer_xl`.",
        "",
        f"Leave-one-out, {found['queries']:,} queries, whole catalog, seen items removed; {found['seeds']} seed(s); "
        f"{texts}. Settings are those of the recipes, or defaults. The recipe of `fusion` was chosen on validation for "
        "another encoder, `sasrec`, with a tenth of the items held out; nothing was tuned for this page."
        + (f" {note}" if (note := TASKS.get(found["source"], Task()).recipe_note) else ""),
        "",
        "With one target per query, Precision@K = HitRate@K / K, Recall@K = HitRate@K, F1@K = 2 HitRate@K / (K + 1). "
        "Their relative gains are equal. The reported ones differ, so they come from another protocol.",
        "",
        "`als` predicts values, which are ratings or numbers of uses, and is not made to rank. A gain over it is not "
        "counted; `ials` is the comparable model for ranking.",
        "",
        *baseline_lines(f"claimed_gains-{found['source']}"),
        f"| model | {' | '.join(map(metric_label, metrics))} | Recall@10 of the seeds | CPU time | recipe |",
        "| --- |" + " ---: |" * len(metrics) + " --- | ---: | --- |",
    ]
    for model, row in rows.items():
        cells = [f"{row[name]['mean']:.4f}" for name in metrics]
        seeds = row["recall@10"]["seeds"]
        cells.append(", ".join(f"{value:.4f}" for value in (seeds if len(set(seeds)) > 1 else seeds[:1])))
        cells += [format_duration(found["seconds"][model]), found["recipes"][model] or "none (defaults)"]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    counted = [one for one in found["gains"] if one["baseline"] not in RATING_MODELS]
    best = max((name for name in rows if name not in RATING_MODELS), key=lambda name: rows[name]["recall@10"]["mean"])
    note = "" if "ease" in rows else " Other simple models, such as `ease` and `ials`, are not among the rows."
    reached, on_par = (
        [f"{metric_label(one['metric'])} over `{one['baseline']}`" for one in counted if outcome(one) == name]
        for name in ("reached", "on par")
    )
    lines += [
        "",
        "## Relative gains",
        "",
        f"Reached: {len(reached)} of {len(counted)} gains over models that rank"
        f"{': ' + ', '.join(reached) if reached else ''}. On par: {len(on_par)}"
        f"{': ' + ', '.join(on_par) if on_par else ''}. Precision, Recall and F1 at one K are the same comparison, so "
        f"there are {len({(one['metric'].partition('@')[2], one['baseline']) for one in counted})} in all. The highest "
        f"Recall@10 is that of `{best}`.{note}",
        "",
        "Paired randomization tests over users; Holm's correction over the baselines. Intervals are those of the mean "
        "difference, divided by the mean of the baseline; they do not include the differences between seeds. A gain is "
        "reached if `fusion` is significantly better and no part of the interval is below the reported gain, and on "
        "par if the interval includes it.",
        "",
        "| metric | baseline | reported | measured | 95 % | p (Holm) | |",
        "| --- | --- | ---: | ---: | --- | ---: | --- |",
    ]
    for one in found["gains"]:
        ends = f"{100 * one['low']:+.1f} to {100 * one['high']:+.1f} %"
        result = outcome(one)
        if one["baseline"] in RATING_MODELS:
            result = "not counted: rating model, compare `ials`"
        gains = f"{100 * one['claim']:+.0f} % | {100 * one['gain']:+.1f} %"
        p = f"{one['test']['p_holm']:.4f}"
        lines.append(f"| {metric_label(one['metric'])} | {one['baseline']} | {gains} | {ends} | {p} | {result} |")
    return "\n".join([
        *lines,
        "",
        "* readings of the test part: one of each row and seed by the run of this page",
        f"* data hash {found['data_hash']}",
        *(f"* warning: {text}" for text in found["warnings"]),
        *describe_lines(found["machine"]),
        "",
    ])  # fmt: skip
