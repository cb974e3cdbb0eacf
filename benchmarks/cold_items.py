"""Accuracy on items without training events, and what it costs on the others.

In each of several draws, a tenth of the items is held out of training at random, and so are their events in all
histories. Everything else is leave-one-out: the last item of each user is the test, and where it is a cold item, the
query is one of the cold items. Each model is trained by an ordinary ``segue train``, from its recipe for the data if
there is one; finished runs are reused. The seed of a model is that of the draw. Draws start at 1: settings are chosen
on the validation parts of others, such as draw 0.

A figure is the mean over the targets of all draws. A user has a query in every draw, so intervals and tests resample
users with all their targets.

Cold targets are of two kinds: items that have events, which were held out, and items without any event in the training
part of the whole log. Whatever says how popular an item is elsewhere helps to find the first kind, not the second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.cold_item_page import page
from benchmarks.cold_item_rows import (
    ALL,
    BASELINES,
    COLD,
    COLD_ONLY,
    HELD_OUT,
    ITEM_SETTINGS,
    MEASURES,
    METRICS_SHOWN,
    MODELS,
    NO_EVENTS,
    SIMPLE,
    TASKS,
    TWINS,
    WARM,
    WARM_MARGIN,
    WARM_ONLY,
    Task,
    Variant,
)
from benchmarks.readings import count_readings
from benchmarks.table_rows import select_rows
from segue.core.events import Codes, Mask, Scores
from segue.core.files import read_json
from segue.core.types import DataSchema, Dataset, Queries, Split
from segue.data.splits import split
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.metrics import hit_rate, ndcg
from segue.evaluation.ranking import rank
from segue.evaluation.significance import PairedTest, check_equivalence, compare_all, holm_correction
from segue.experiment.compare_runs import ensure_run, read_test_results
from segue.experiment.data import load_data
from segue.experiment.evaluate_run import evaluate_run
from segue.experiment.plan import Plan, make_plan
from segue.experiment.run_folder import METRICS, WARMTH

__all__ = [
    "MODELS",
    "TASKS",
    "Task",
    "check_claims",
    "check_warm",
    "describe_log",
    "make_plans",
    "page",
    "run",
    "summarize",
]

SHARE = 0.1
"""Share of the items that is held out of training."""

Values = Mapping[str, pl.DataFrame]
"""By measure one row per target, or per user once pooled, with the metrics."""


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
    column = _task(source).popularity
    if column is not None and not models:
        values[column] = []
    for draw in draws:
        plans = make_plans(source, names, draw, quick)
        data, plan = load_data(plans[names[-1]]), plans[names[-1]]
        parts = split(data, plan.split)
        has_events_I = (
            np.bincount(
                split(data, plan.split.model_copy(update={"cold_items": 0.0})).train.histories.items,
                minlength=data.n_items,
            )
            > 0
        )
        has_events_N = has_events_I[parts.test.targets.items]
        for name, plan in plans.items():
            folders[name].append(ensure_run(plan, log, read_test=True))
            values[name].append(measure(folders[name][-1], draw, has_events_N))
            found = values[name][-1]
            means = [float(found[part][METRICS_SHOWN[0]].to_numpy().mean()) for part in (COLD, WARM)]
            log(f"draw {draw}, {name}: {METRICS_SHOWN[0]} of {COLD} {means[0]:.4f}, of {WARM} {means[1]:.4f}")
        if column in values:
            values[column].append(
                measure_column(parts, column, read_test_results(folders[names[0]][-1])[1], draw, has_events_N)
            )
    records = {name: [read_json(folder / METRICS) for folder in found] for name, found in folders.items()}
    first, pooled = records[names[0]][0], {name: pool(found) for name, found in values.items()}
    rows = {name: summarize(values[name]) | _cost(records[name]) | {"what": MODELS[name].what} for name in names}
    if column in values:
        rows[column] = summarize(values[column]) | {"what": "this feature alone", "seconds": 0.0, "parameters": 0}
        rows[column] |= {"recipe": None, "runs": []}
    return {
        "source": source,
        "draws": len(draws),
        "share": SHARE,
        "texts": list(_task(source).texts),
        "rows": rows,
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


def measure(folder: Path, draw: int, has_events_N: Mask) -> Values:
    """Return the values of a run by measure, one row per target.

    Args:
        has_events_N: whether the target of each query has events in the training part of a split without cold items.
    """
    values = read_test_results(folder)[1]
    groups = pl.read_parquet(folder / WARMTH)
    is_cold_N = np.zeros(len(values), bool)
    is_cold_N[groups.filter(pl.col("group") == "cold items")["query"].cast(pl.Int64).to_numpy()] = True
    cold, warm = (
        evaluate_run(folder, "test", [f"evaluation.items={items}"], command="benchmarks cold_items").values
        for items in ("cold", "warm")
    )
    return _by_measure(values, cold, warm, is_cold_N, has_events_N, draw)


def measure_column(parts: Split, column: str, values: pl.DataFrame, draw: int, has_events_N: Mask) -> Values:
    """Return the values of a ranking by a numeric feature of the items, highest first, by measure.

    Args:
        values: results of any model, for the users of the queries.
    """
    assert parts.train.item_features is not None
    numbers_I = parts.train.item_features.collect()[column].cast(pl.Float32).fill_null(-1.0).to_numpy()
    model = _ItemScores(parts.train.schema, numbers_I)
    is_cold_I = np.bincount(parts.train.histories.items, minlength=parts.train.n_items) == 0
    is_cold_N = is_cold_I[parts.test.targets.items]
    tables = []
    for candidates_I, is_used_N in ((None, None), (is_cold_I, is_cold_N), (~is_cold_I, ~is_cold_N)):
        ranks = rank(model, parts.test, k=0, candidates=candidates_I)
        found = {"hit_rate@10": hit_rate(ranks, 10), "ndcg@10": ndcg(ranks, 10)}
        if is_used_N is not None:
            found = {name: np.where(is_used_N, metric_N, np.nan) for name, metric_N in found.items()}
        tables.append(pl.DataFrame({"user": values["user"], **found}))
    return _by_measure(*tables, is_cold_N, has_events_N, draw)


@dataclass(frozen=True, eq=False)
class _ItemScores:
    """Scores items equally for all users."""

    schema: DataSchema
    scores_I: Scores
    scale: Literal["logit", "score"] = "score"

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the scores of all items."""
        assert candidates is None
        return np.tile(self.scores_I, (len(queries), 1))


def _by_measure(
    values: pl.DataFrame, cold: pl.DataFrame, warm: pl.DataFrame, is_cold_N: Mask, has_events_N: Mask, draw: int
) -> Values:
    """Divide the values of all queries, one row each.

    Users all of whose training events were on cold items are not known to the models and have no id; each is named by
    their query and draw.
    """
    values, cold, warm = (_name_users(table, draw) for table in (values, cold, warm))
    return {
        COLD: _rows(values.filter(is_cold_N)),
        COLD_ONLY: _rows(cold),
        HELD_OUT: _rows(cold.filter(has_events_N)),
        NO_EVENTS: _rows(cold.filter(~has_events_N)),
        WARM: _rows(values.filter(~is_cold_N)),
        WARM_ONLY: _rows(warm),
        ALL: _rows(values),
    }


def _name_users(values: pl.DataFrame, draw: int) -> pl.DataFrame:
    names = pl.format("query {} of draw {}", pl.int_range(pl.len()), pl.lit(draw))
    return values.with_columns(pl.col("user").fill_null(names))


def _rows(values: pl.DataFrame) -> pl.DataFrame:
    return values.select("user", *METRICS_SHOWN).filter(pl.col(METRICS_SHOWN[0]).is_not_nan())


def pool(draws: Sequence[Values]) -> Values:
    """Return a value per user, whose mean over users is the mean over the targets of all draws.

    It is the sum over the targets of the user, divided by the mean number of targets per user.
    """
    pooled = {}
    for name in MEASURES:
        rows = pl.concat([draw[name] for draw in draws])
        sums = rows.group_by("user").sum().sort("user")
        pooled[name] = sums.with_columns(pl.col(METRICS_SHOWN) * (len(sums) / max(1, len(rows))))
    return pooled


def summarize(draws: Sequence[Values]) -> dict[str, Any]:
    """Return mean, interval and the mean of each draw, by measure and metric."""
    pooled = pool(draws)
    return {
        "measures": {
            name: {
                "users": len(pooled[name]),
                "targets": sum(len(draw[name]) for draw in draws),
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
