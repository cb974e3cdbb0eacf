"""Accuracy on items without training events, and what it costs on the others.

In each of several draws, a tenth of the items is held out of training at random, and so are their events in all
histories. Everything else is leave-one-out: the last item of each user is the test, and where it is a cold item, the
query is one of the cold items. Each model is trained by an ordinary ``segue train``, from its recipe for the data if
there is one; finished runs are reused. The seed of a model is that of the draw. Draws start at 1: settings are chosen
on the validation parts of others, such as draw 0.

Values are averaged per user over the draws before intervals and tests, because a user has a query in every draw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.cold_item_rows import ITEM_SETTINGS, MODELS, TASKS, Task, Variant
from benchmarks.machine import describe_lines
from benchmarks.readings import count_readings, reading_lines
from benchmarks.table_rows import difference_cells, head_lines, range_cell, row_line, select_rows
from segue.core.files import read_json
from segue.core.types import Dataset
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.significance import PairedTest, check_equivalence, compare_all, holm_correction
from segue.experiment.compare_runs import ensure_run, read_test_results
from segue.experiment.data import load_data
from segue.experiment.evaluate_run import evaluate_run
from segue.experiment.plan import Plan, make_plan
from segue.experiment.run_folder import METRICS, WARMTH
from segue.reports.quantities import format_duration, metric_label

__all__ = [
    "MODELS",
    "TASKS",
    "Task",
    "check_claims",
    "check_warm",
    "describe_log",
    "log_lines",
    "make_plans",
    "page",
    "run",
    "summarize",
]

SHARE = 0.1
"""Share of the items that is held out of training."""

METRICS_SHOWN = ("hit_rate@10", "ndcg@10")

WARM_MARGIN = 0.01
"""Difference of HR@10 on warm items that counts as none: that of the rule by which bonuses for new items are chosen."""


COLD, COLD_ONLY, WARM, WARM_ONLY, ALL = (
    "cold targets among all items",
    "cold targets among cold items",
    "warm targets among all items",
    "warm targets among warm items",
    "all targets among all items",
)
MEASURES = (COLD, COLD_ONLY, WARM, WARM_ONLY, ALL)

BASELINES = ("content", "content@features", "popular", "random")
SIMPLE = ("ease", "item_knn", "ials")
"""Models of ids that the models with text are compared with on warm items, besides their twins."""
TWINS = {"fusion": "sasrec", "two_tower": "two_tower@ids"}

Values = Mapping[str, pl.DataFrame]
"""By measure one row per user, with the metrics."""


def run(source: str | None, models: str | None, seeds: int, log: Any, quick: bool = False) -> dict[str, Any]:
    """Train and evaluate every model on every draw.

    Args:
        source: default: MovieLens 1M with texts; with ``quick`` a small simulated log.
        models: rows of the table, separated by commas; default: all.
        seeds: number of draws.

    Raises:
        ValueError: an unknown model.
    """
    source = source or ("simulated?users=150&items=60&seed=1" if quick else "ml-1m-text")
    names = select_rows(models, MODELS)
    draws = range(1, 2 if quick else 1 + seeds)
    folders: dict[str, list[Path]] = {name: [] for name in names}
    values: dict[str, list[Values]] = {name: [] for name in names}
    for draw in draws:
        for name, plan in make_plans(source, names, draw, quick).items():
            folders[name].append(ensure_run(plan, log, read_test=True))
            values[name].append(measure(folders[name][-1], draw))
            found = values[name][-1]
            means = [float(found[part][METRICS_SHOWN[0]].to_numpy().mean()) for part in (COLD, WARM)]
            log(f"draw {draw}, {name}: {METRICS_SHOWN[0]} of {COLD} {means[0]:.4f}, of {WARM} {means[1]:.4f}")
    records = {name: [read_json(folder / METRICS) for folder in found] for name, found in folders.items()}
    first, pooled = records[names[0]][0], {name: pool(values[name]) for name in names}
    return {
        "source": source,
        "draws": len(draws),
        "share": SHARE,
        "texts": list(_task(source).texts),
        "rows": {name: summarize(values[name]) | _cost(records[name]) | {"what": MODELS[name].what} for name in names},
        "tests": check_claims(pooled),
        "equivalence": check_warm(pooled),
        "counts": first["counts"],
        "held_out_items": first["split"]["held_out_items"],
        "data_hash": first["data_hash"],
        "warnings": first["warnings"],
        "log": describe_log(load_data(make_plans(source, names[-1:], 1)[names[-1]], log)),
        "test_readings": count_readings([folder for found in folders.values() for folder in found]),
    }


def describe_log(data: Dataset) -> dict[str, Any]:
    """Return what the reader and the filters report about the log, and whether its events have times."""
    header = data.header
    return {
        "has_times": data.histories.times is not None,
        "events": data.histories.size,
        "removed": dict(header.get("filters", {}).get("removed", {})),
        "settings": dict(header.get("filters", {}).get("settings", {})),
        "notes": list(header.get("notes", ())),
    }


def log_lines(found: Mapping[str, Any]) -> list[str]:
    """State what the figures of a page depend on: the order of the log, and events that were filtered out."""
    log = found.get("log")
    if log is None:
        return []
    lines = []
    if not log["has_times"]:
        lines.append(
            "**This log has no order.** Its events have no times, and their order is that of the file. The target of "
            "leave-one-out is the last event in the file, not the latest; `sasrec` and `transformer_xl` read histories "
            "in an arbitrary order. Nothing on this page measures a gain from sequences."
        )
    total = log["events"] + sum(log["removed"].values())
    for name, count in log["removed"].items():
        lines.append(f"`filters.{name}={log['settings'].get(name)}` removes {count:,} of {total:,} events.")
    return [*lines, *([f"Notes of the dataset: {'; '.join(log['notes'])}."] if log["notes"] else []), ""]


def make_plans(source: str, names: Sequence[str], draw: int, quick: bool = False) -> dict[str, Plan]:
    """Resolve the settings of each model for one draw of the cold items."""
    task, plans = _task(source), {}
    common = [*task.settings, f"split.cold_items={SHARE}", f"split.seed={draw}", f"run.seed={draw}"]
    common += ["evaluation.baseline=none", "evaluation.hot_items=1000000000"]  # one group of items with events
    for name in names:
        variant = MODELS[name]
        text = [f"text.columns=[{','.join(task.texts)}]", *task.encoding] if variant.reads_text and task.texts else []
        shared = _shared_settings(variant, source) if variant.like else []
        recipe = "none" if variant.like else None
        plan = make_plan({"model": variant.key, "data": source}, [*common, *text, *shared, *variant.settings], recipe)
        if quick and hasattr(plan.training, "epochs"):
            plan = replace(plan, training=plan.training.model_copy(update={"epochs": 1}))
        plans[name] = plan
    _check_twins(plans)
    return plans


def _shared_settings(variant: Variant, source: str) -> list[str]:
    """Return the settings of a recipe that the model of ``variant`` has too."""
    plan = make_plan({"model": variant.like, "data": source})
    defaults, values = make_plan({"model": variant.key, "data": source}, recipe="none").values(), plan.values()
    return [
        f"{group}.{name}={json.dumps(value)}"
        for group in ("model", "training")
        for name, value in values[group].items()
        if name in defaults[group] and name != "inputs" and value != defaults[group][name]
    ]


def _check_twins(plans: Mapping[str, Plan]) -> None:
    """Check that a model and its twin differ in what they know of items only.

    Raises:
        ValueError: the settings that differ, such as those of two recipes.
    """
    for name, twin in TWINS.items():
        if name not in plans or twin not in plans:
            continue
        own, other = plans[name].values(), plans[twin].values()
        faults = [
            f"{group}.{key}: {value!r} of {name}, {other[group][key]!r} of {twin}"
            for group in ("model", "training")
            for key, value in own[group].items()
            if key in other[group] and key not in ITEM_SETTINGS and value != other[group][key]
        ]
        if faults:
            raise ValueError("\n".join([f"{name} and {twin} need equal settings; change their recipes:", *faults]))


def measure(folder: Path, draw: int) -> Values:
    """Return the values per user of a run by measure.

    A user without a target has no row. Users all of whose training events were on cold items are not known to the
    models and have no id; each is named by their query and draw.
    """
    values = _name_users(read_test_results(folder)[1], draw)
    groups = pl.read_parquet(folder / WARMTH)
    users = values.select("user").with_row_index("query").with_columns(pl.col("query").cast(pl.Int64))

    def of_group(group: str) -> pl.DataFrame:
        rows = groups.filter(pl.col("group") == group).with_columns(pl.col("query").cast(pl.Int64))
        return rows.join(users, on="query", how="left").select("user", *METRICS_SHOWN)

    def among(items: str) -> pl.DataFrame:
        found = evaluate_run(folder, "test", [f"evaluation.items={items}"], command="benchmarks cold_items")
        return _name_users(found.values, draw)

    return {
        COLD: of_group("cold items"),
        COLD_ONLY: _rows(among("cold")),
        WARM: of_group("warm items"),
        WARM_ONLY: _rows(among("warm")),
        ALL: _rows(values),
    }


def _name_users(values: pl.DataFrame, draw: int) -> pl.DataFrame:
    names = pl.format("query {} of draw {}", pl.int_range(pl.len()), pl.lit(draw))
    return values.with_columns(pl.col("user").fill_null(names))


def _rows(values: pl.DataFrame) -> pl.DataFrame:
    return values.select("user", *METRICS_SHOWN).filter(pl.col(METRICS_SHOWN[0]).is_not_nan())


def pool(draws: Sequence[Values]) -> Values:
    """Average the values of each user over the draws in which they have a target."""
    return {name: pl.concat([draw[name] for draw in draws]).group_by("user").mean().sort("user") for name in MEASURES}


def summarize(draws: Sequence[Values]) -> dict[str, Any]:
    """Return mean, interval and the mean of each draw, by measure and metric."""
    pooled = pool(draws)
    return {
        "measures": {
            name: {
                "users": len(pooled[name]),
                **{
                    metric: {**asdict(found), "draws": [float(draw[name][metric].to_numpy().mean()) for draw in draws]}
                    for metric, found in estimate_values(
                        {metric: pooled[name][metric].to_numpy() for metric in METRICS_SHOWN}, 0
                    ).items()
                },
            }
            for name in MEASURES
        }
    }


def check_claims(pooled: Mapping[str, Values]) -> list[dict[str, Any]]:
    """Test the models that read text against baselines and twins.

    On cold items they are compared with ``BASELINES``; on warm items with their twins, and with ``SIMPLE``.

    Holm's correction is over the tests of one measure, metric and group of second models.
    """
    lines = []
    for measure_name in (COLD, COLD_ONLY, WARM, WARM_ONLY):
        is_cold = measure_name in (COLD, COLD_ONLY)
        for kind in ("baselines",) if is_cold else ("twins", "simple baselines"):
            pairs = [
                (first, second)
                for first, twin in TWINS.items()
                for second in {"baselines": BASELINES, "twins": (twin,), "simple baselines": SIMPLE}[kind]
                if first in pooled and second in pooled
            ]
            for metric in METRICS_SHOWN:
                tests = [_test(pooled[a][measure_name], pooled[b][measure_name], a, b, metric) for a, b in pairs]
                corrected = holm_correction([test.p for test in tests]) if tests else []
                for test, p_holm in zip(tests, corrected, strict=True):
                    found = replace(test, p_holm=p_holm)
                    lines.append(
                        {"measure": measure_name, "metric": metric, **asdict(found), "outcome": _outcome(found)}
                    )
    return lines


def check_warm(pooled: Mapping[str, Values]) -> list[dict[str, Any]]:
    """Test whether the models that read text are equivalent to their twins on warm items.

    Holm's correction is over the tests of one measure.
    """
    lines = []
    for measure_name in (WARM, WARM_ONLY):
        pairs = [
            _align(pooled[name][measure_name], pooled[twin][measure_name], name, twin, METRICS_SHOWN[0])
            for name, twin in TWINS.items()
            if name in pooled and twin in pooled
        ]
        tests = [check_equivalence(pair, WARM_MARGIN) for pair in pairs]
        corrected = [holm_correction([getattr(test, name) for test in tests]) for name in ("p", "p_not_worse")]
        lines += [
            {"measure": measure_name, **asdict(test), "p_equivalent": p, "p_not_worse": p_not_worse}
            for test, p, p_not_worse in zip(tests, *corrected, strict=True)
        ]
    return lines


def _outcome(test: PairedTest) -> str:
    if not test.significant:
        return "no significant difference"
    return "better" if test.difference > 0 else "worse"


def _test(first: pl.DataFrame, second: pl.DataFrame, a: str, b: str, metric: str) -> PairedTest:
    return compare_all(_align(first, second, a, b, metric))[0]


def _align(first: pl.DataFrame, second: pl.DataFrame, a: str, b: str, metric: str) -> dict[str, NDArray[np.float64]]:
    """Return the values of both models in the same order of users."""
    both = first.select("user", pl.col(metric).alias("a")).join(
        second.select("user", pl.col(metric).alias("b")), on="user", how="inner"
    )
    if not len(both) == len(first) == len(second):
        raise ValueError(f"{a} and {b} have {len(first)} and {len(second)} users, expected the same queries")
    return {a: both["a"].to_numpy(), b: both["b"].to_numpy()}


def _task(source: str) -> Task:
    return TASKS.get(source, Task())


def _cost(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "seconds": float(np.mean([record["cost"]["seconds"]["train"] for record in records])),
        "parameters": records[0]["cost"]["parameters"],
        "recipe": records[0]["recipe"],
        "runs": [record["run"] for record in records],
    }


def page(found: dict[str, Any]) -> str:
    """Format a table with a row per model and measure, and the paired tests."""
    texts = f"text: {', '.join(found['texts'])}" if found["texts"] else "no text"
    counts = found["counts"]
    lines = [
        f"# Cold items: {found['source']}",
        "",
        *log_lines(found),
        f"{found['share']:.0%} of the items ({found['held_out_items']:,} of {counts['items']:,}) are held out of "
        f"training, in {found['draws']} draw(s); leave-one-out; seen items are not ranked; {texts}.",
        "A cold item has no training event; items whose only events are test or validation are cold in every draw.",
        "Figures are HR@10 / NDCG@10 with 95 % intervals over users, of each user's "
        "mean over the draws. A user counts once, but in the mean of each draw in which they have such a target: the "
        "two differ where many users have a cold target in every draw. Validation ranks all items, and chose the best "
        "epoch. Settings were chosen on the validation part of other draws; the recipes say how.",
        *([note] if (note := _task(found["source"]).note) else []),
        *_strength_lines(found["rows"]),
        "",
    ]
    for name in MEASURES:
        rows = found["rows"]
        users = next(iter(rows.values()))["measures"][name]["users"]
        labels = " | ".join(f"{metric_label(metric)} | 95 % | draws" for metric in METRICS_SHOWN)
        lines += [f"## {name[0].upper()}{name[1:]}", "", f"{users:,} users.", ""]
        lines += [
            f"| model | knows of items | {labels} |",
            "| --- | --- |" + " ---: | --- | --- |" * len(METRICS_SHOWN),
        ]
        for model in sorted(rows, key=lambda model: -rows[model]["measures"][name][METRICS_SHOWN[0]]["mean"]):
            cells = [model, rows[model]["what"]]
            for metric in METRICS_SHOWN:
                one = rows[model]["measures"][name][metric]
                cells += [f"{one['mean']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}"]
                cells.append(", ".join(f"{value:.4f}" for value in one["draws"]))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, *_test_lines(found["tests"]), *_equivalence_lines(found), *_cost_lines(found), ""])


def _strength_lines(rows: Mapping[str, Any]) -> list[str]:
    """Name the strongest simple baseline of warm items, and how the twins compare with popularity."""
    means = {name: row["measures"][WARM][METRICS_SHOWN[0]]["mean"] for name, row in rows.items()}
    simple = [name for name in SIMPLE if name in means]
    if not simple:
        return (
            [
                "Simple models of ids (`ease`, `item_knn`, `ials`) are not among the rows, so this page does not show "
                "that any row is strong on warm items."
            ]
            if "popular" in means and len(means) > 7
            else []
        )
    best = max(simple, key=lambda name: means[name])
    texts = [f"`{name}` {means[name]:.4f}" for name in (best, *TWINS, *TWINS.values(), "popular") if name in means]
    return [
        f"On warm targets the strongest simple baseline is `{best}`. HR@10 there: {', '.join(texts)}. No difference "
        "from a twin says little where the twin is weak."
    ]


def _test_lines(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "## Paired tests",
        "",
        "Paired randomization tests over users of the first model minus the second; better and worse: p < 0.05 after "
        "Holm's correction over the tests of one measure, metric and group of second models (on warm items: twins, "
        "simple baselines). No significant difference does not mean equal, and the correction makes it more frequent: "
        "the interval, which is not corrected, says how much worse the first model may be.",
        "",
        "| measure | metric | pair | difference | 95 % | p (Holm) | first model |",
        "| --- | --- | --- | ---: | --- | ---: | --- |",
    ]
    lines += [
        row_line([test["measure"], metric_label(test["metric"]), *difference_cells(test), test["outcome"]])
        for test in tests
    ]
    return [*lines, ""]


def _equivalence_lines(found: Mapping[str, Any]) -> list[str]:
    if not found.get("equivalence"):
        return []
    lines = [
        "## Equivalence on warm items",
        "",
        f"Tests of the difference from the twin against a margin of {WARM_MARGIN:g} HR@10, which was fixed before: two "
        "one-sided paired t-tests, with Holm's correction over the tests of one measure. Equivalent: the difference is "
        "within the margin. Not worse: it is at most the margin below. Otherwise the data do not show either.",
        "",
        *head_lines(["measure", "pair", "difference", "90 %", "p, equivalent", "p, not worse", "first model"]),
    ]
    for test in found["equivalence"]:
        is_equivalent, is_not_worse = test["p_equivalent"] < 0.05, test["p_not_worse"] < 0.05
        cells = [test["measure"], f"{test['first']} − {test['second']}", f"{test['difference']:+.4f}"]
        cells += [range_cell(test["low"], test["high"], sign="+"), f"{test['p_equivalent']:.4f}"]
        cells += [f"{test['p_not_worse']:.4f}", "equivalent" if is_equivalent else "not worse" if is_not_worse else ""]
        lines.append(row_line(cells))
    return [*lines, ""]


def _cost_lines(found: Mapping[str, Any]) -> list[str]:
    lines = ["## Cost and provenance", "", "| model | train | parameters | recipe |", "| --- | ---: | ---: | --- |"]
    for model, row in found["rows"].items():
        like = MODELS[model].like
        recipe = f"that of {like}" if like else row["recipe"] or "none (defaults)"
        lines.append(f"| {model} | {format_duration(row['seconds'])} | {row['parameters']:,} | {recipe} |")
    n_runs = sum(len(row["runs"]) for row in found["rows"].values())
    return [
        *lines,
        "",
        f"* data hash {found['data_hash']}; each split was checked for leakage before training and passed",
        *reading_lines(dict(found), f"cold_items-{found['source']}", n_runs),
        *(f"* warning: {text}" for text in found["warnings"]),
        *describe_lines(found["machine"]),
    ]
