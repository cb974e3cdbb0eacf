"""Compare models as runs, which are reused if they are finished."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from segue.core.config import suggest
from segue.core.files import read_json, write_json
from segue.core.registry import model_class
from segue.core.run import Interrupted
from segue.data.splits import split
from segue.evaluation import rating_metrics
from segue.evaluation.beyond_accuracy.list_metrics import metric_names, split_list_metrics
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.metrics import canonical_name
from segue.evaluation.significance import Correction, StatTest, check_test_of_metric, check_tests
from segue.experiment.arguments import GROUPS, check_device, reject_unused, unused_by_model
from segue.experiment.baselines.strongest import choose_baseline, describe_baseline, describe_weaker
from segue.experiment.compare import compare_values
from segue.experiment.data import load_data, validate_inputs
from segue.experiment.evaluate_run import evaluate_run, named_errors, validate_metrics, warmth_values
from segue.experiment.paths import SETTINGS, runs_folder
from segue.experiment.plan import Plan, make_plan
from segue.experiment.protocols.presets import PROTOCOLS
from segue.experiment.records.held_out_readings import describe_reading, record_reading
from segue.experiment.records.recommended_lists import compare_lists
from segue.experiment.run_folder import METRICS, WARMTH, create_run, create_unique_folder, is_finished
from segue.experiment.run_history import find_reusable_run
from segue.features.text.settings import TextSettings
from segue.reports.page import write_page

__all__ = ["average_results", "compare_runs", "ensure_run", "make_plans", "own_overrides", "read_test_results"]

Log = Callable[[str], None]

BELOW_BASELINE = " is below a simple baseline: "
"""Part of the warning of a run about its validation, which the comparison on the test part replaces."""


def compare_runs(
    models: Sequence[str],
    task: Mapping[str, Any],
    overrides: Sequence[str],
    metric: str | None,
    *,
    seeds: Sequence[int] = (),
    baseline: str | None = None,
    stat_test: StatTest = "randomization",
    correction: Correction = "holm",
    recipes: Mapping[str, str | Path] = MappingProxyType({}),
    log: Log,
) -> dict[str, Any]:
    """Train or reuse one run per model and seed, and compare them by ``metric``.

    Each is trained in its own process. Tables and a page are written to ``runs/compare``.

    Args:
        models: keys of models; ``key@label`` is the same model under another name, to which ``overrides`` can give
            different settings.
        task: ``data`` and other values of :class:`segue.experiment.settings.TaskSettings`, without the model.
        overrides: for all models, or for one as ``model_key.setting=value``.
        seeds: one run each, whose values per query are averaged; empty: the seed in the settings.
        baseline: compare every other model with this one; ``None``: every pair.
        stat_test: the paired test, see :mod:`segue.evaluation.significance`; likewise ``correction``.
        recipes: files of settings by model; for other models, the recipe that comes with Segue.

    Returns:
        ``models`` (the record of each), ``baseline`` (that of the strongest simple baseline), ``tests``, ``warnings``,
        ``folder`` and ``page``.
    """
    if baseline is not None and baseline not in models:
        raise ValueError(f"baseline: unknown '{baseline}'{suggest(baseline, models)}")
    check_tests(stat_test, correction)
    plans = make_plans(models, task, overrides, recipes=recipes)
    metric = _choose_metric(plans, metric)
    check_test_of_metric(metric, stat_test)
    runs: dict[str, list[Path]] = {model: [] for model in models}
    for seed in seeds or (None,):
        seeded = [*overrides, *([] if seed is None else [f"run.seed={seed}"])]
        for model, plan in make_plans(models, task, seeded, recipes=recipes).items():
            runs[model].append(ensure_run(plan, log, read_test=True))
    records, tables = {}, {}
    for model, folders in runs.items():
        records[model], tables[model] = _average_seeds(folders)
        records[model]["model"] = model
        if metric not in (names := tables[model].columns[1:]):
            raise ValueError(f"metric: '{metric}' was not computed for {model}{suggest(metric, names)}")
    columns = {model: {metric: table[metric].to_numpy()} for model, table in tables.items()}
    tests = compare_values(columns, metric, baseline, stat_test, correction)
    out = create_unique_folder(runs_folder() / "compare", str(task["data"]))
    named = [table.select(pl.lit(model).alias("model"), pl.all()) for model, table in tables.items()]
    pl.concat(named, how="diagonal").write_parquet(out / "values.parquet")  # not all models predict ratings
    warnings = {warning for record in records.values() for warning in record["warnings"]}
    baseline_record = _measure_simple_baseline(next(iter(plans.values())), metric)
    if baseline_record is not None:
        value, means = baseline_record[metric], {model: record[metric] for model, record in records.items()}
        warnings = {warning for warning in warnings if BELOW_BASELINE not in warning}
        warnings |= {*describe_weaker(means, metric, baseline_record["model"], value, "test")}
    result = {
        "data": task["data"],
        "metric": metric,
        "models": records,
        "baseline": baseline_record,
        "tests": [test.record() for test in tests],
        "overlaps": compare_lists(runs),
        "warnings": sorted(warnings),
        "folder": str(out),
        "page": str(out / "index.html"),
    }
    write_json(out / "comparison.json", result)
    write_page(out / "index.html", result, {model: _read_history(folders[0]) for model, folders in runs.items()})
    return result


def _measure_simple_baseline(plan: Plan, metric: str) -> dict[str, Any] | None:
    """Return the record of the strongest simple baseline on the test part.

    It is chosen on validation, and its reading is recorded. Returns ``None`` if the settings exclude it, or without
    validation queries.
    """
    settings = plan.evaluation
    if settings.baseline is None:
        return None
    needs_text = bool(split_list_metrics(settings.metrics)[1])  # a metric may be computed from encoded texts
    parts = split(load_data(plan if needs_text else replace(plan, text=TextSettings())), plan.split)
    name = choose_baseline(parts, metric, settings.exclude_seen, settings.baseline, plan.run.seed)
    if name is None:
        return None
    record = describe_baseline(plan, parts, name, "test")
    means = {key: record[key] for key in record["intervals"]}
    record_reading(runs_folder(), describe_reading(name, parts, means, "segue compare"))
    return record


def _average_seeds(folders: Sequence[Path]) -> tuple[dict[str, Any], pl.DataFrame]:
    """Average the record and the values per query of one model over its seeds."""
    return average_results([_read_test_results(folder) for folder in folders])


def average_results(
    read: Sequence[tuple[dict[str, Any], pl.DataFrame, pl.DataFrame | None]],
) -> tuple[dict[str, Any], pl.DataFrame]:
    """Average the results of runs that differ only in their seed.

    Args:
        read: per run its record, its values per query, and those of hot, warm and cold items and users.

    Returns:
        A record with ``seeds``, ``seed_means`` and new intervals, and the mean values per query.
    """
    records, tables = [record for record, _, _ in read], [table for _, table, _ in read]
    record, table = records[0], tables[0]
    if len(read) == 1:
        return record, table
    names = table.columns[1:]
    columns = {name: np.mean([table[name].to_numpy() for table in tables], axis=0) for name in names}
    estimates = estimate_values(columns, record["seed"])
    stages = record["cost"]["seconds"]
    seconds = {stage: float(np.mean([one["cost"]["seconds"].get(stage, 0.0) for one in records])) for stage in stages}
    record |= {
        "seeds": [one["seed"] for one in records],
        "seed_means": {name: [one[name] for one in records] for name in names},
        "intervals": {name: [round(found.low, 6), round(found.high, 6)] for name, found in estimates.items()},
        "warmth": _average_warmth(record, [groups for _, _, groups in read]),
        "cost": {**record["cost"], "seconds": seconds},
        **{name: round(found.mean, 6) for name, found in estimates.items()},
    }
    return record, table.with_columns(**{name: pl.Series(column) for name, column in columns.items()})


def _average_warmth(record: Mapping[str, Any], tables: Sequence[pl.DataFrame | None]) -> list[dict[str, Any]]:
    """Average the metrics of hot, warm and cold items and users over the seeds."""
    known = [table for table in tables if table is not None]
    if len(known) < len(tables):  # a run of an older version has no groups
        return []
    names = [name for name in known[0].columns if name not in ("group", "query")]
    mean = pl.concat(known).group_by("group", "query", maintain_order=True).agg(pl.col(names).mean())
    averaged = []
    for group in record["warmth"]:
        part = mean.filter(pl.col("group") == group["group"])
        values = {name: part[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in group["metrics"]}
        values = {name: column for name, column in values.items() if not np.isnan(column).all()}
        estimates = estimate_values(values, record["seed"])
        metrics = {name: [round(e.mean, 6), round(e.low, 6), round(e.high, 6)] for name, e in estimates.items()}
        averaged.append({**group, "metrics": metrics})
    return averaged


def read_test_results(folder: Path) -> tuple[dict[str, Any], pl.DataFrame]:
    """Return the record and the values per query of a run on its test part.

    A run that was evaluated on validation only is evaluated on the test now, which is recorded.
    """
    record, values, _ = _read_test_results(folder)
    return record, values


def _read_test_results(folder: Path) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame | None]:
    """Return the values of hot, warm and cold items and users too.

    They are ``None`` for a run of an older version.
    """
    record = read_json(folder / METRICS)
    if record.get("part", "test") == "test":
        groups = folder / WARMTH
        values = pl.read_parquet(folder / "values.parquet")
        return record, values, pl.read_parquet(groups) if groups.exists() else None
    found = evaluate_run(folder, "test", command="compare")
    return {**record, **found.record, "baseline": None}, found.values, warmth_values(found.result)


def make_plans(
    models: Sequence[str],
    task: Mapping[str, Any],
    overrides: Sequence[str],
    at_least: int = 2,
    recipes: Mapping[str, str | Path] = MappingProxyType({}),
) -> dict[str, Plan]:
    """Make one plan per model, all comparable with each other.

    Args:
        recipes: see :func:`compare_runs`.

    Raises:
        ValueError: fewer than ``at_least`` models, one named twice, unknown settings, or models that would be evaluated
            under different protocols.
    """
    if len(models) < at_least or len(set(models)) < len(models):
        raise ValueError(f"models: got {', '.join(models)}, expected at least {at_least}, each once")
    plans = {
        model: make_plan({"model": model.partition("@")[0], **task}, own, recipes.get(model))
        for model, own in own_overrides(models, overrides).items()
    }
    if len({plan.comparison_key() for plan in plans.values()}) > 1:
        lines = "\n  ".join(line for model in models[1:] for line in plans[models[0]].diff(plans[model]))
        raise ValueError(
            f"compare: the recipes of these models use different evaluation protocols; use --set for:\n  {lines}"
        )
    for plan in plans.values():
        check_device(plan.run.device)
        validate_metrics(plan)
        validate_inputs(plan, plan.split.use_query_time, plan.split.use_query_context)
    return plans


def own_overrides(models: Sequence[str], overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return the overrides of each model.

    Settings of the training loop are left out for models that do not use it, if another model does.

    Raises:
        ValueError: no model uses a setting, or only some have it.
    """
    keys = {model: model.partition("@")[0] for model in models}
    found: dict[str, list[str]] = {model: [] for model in models}
    for text in overrides:
        name = text.partition("=")[0].strip()
        unused = {model for model, key in keys.items() if unused_by_model(key, [name])}
        if len(unused) == len(keys):
            reject_unused(keys[models[0]], [name])
        _check_owners(name, keys)
        for model in keys.keys() - unused:
            own = _own_override(text, model, models)
            found[model] += [] if own is None else [own]
    return found


def _check_owners(name: str, keys: Mapping[str, str]) -> None:
    """Reject a setting that only some of the models have."""
    field = name.removeprefix("model.")
    if "." in field or (field == name and any(field in kind.model_fields for kind in GROUPS.values())):
        return
    owners = [model for model, key in keys.items() if field in model_class(key).Config.model_fields]
    if owners and (lacking := [model for model in keys if model not in owners]):
        raise ValueError(
            f"{name}: {', '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no such setting; set it for one "
            f"model, as in --set {' --set '.join(f'{owner}.{field}=...' for owner in owners)}"
        )


def _choose_metric(plans: Mapping[str, Plan], metric: str | None) -> str:
    """Return the metric to test.

    It is ``metric``, or the validation metric that the models share, else nDCG.

    Raises:
        ValueError: the settings do not compute it.
    """
    computed = {}
    for model, plan in plans.items():
        names = metric_names(validate_metrics(plan), plan.evaluation.ks)
        errors = dict.fromkeys([*rating_metrics.DEFAULT_ERRORS, *named_errors(plan)])
        ranking = split_list_metrics(validate_metrics(plan))[0]
        sampled = metric_names(ranking, plan.evaluation.ks) if plan.evaluation.sampled else []
        names += [f"sampled_{name}" for name in sampled]
        computed[model] = [*names, *(errors if hasattr(model_class(plan.task.model), "predicts_ratings") else [])]
    if metric is None:
        validation = {canonical_name(plan.metric) for plan in plans.values()}
        protocol = PROTOCOLS.get(str(next(iter(plans.values())).evaluation.protocol))
        if protocol is not None and protocol.headline is not None:
            validation = {protocol.headline}
        every = [name for name in next(iter(computed.values())) if all(name in found for found in computed.values())]
        preferred = [*(validation if len(validation) == 1 else []), "ndcg@10"]
        by_default = [name for name in every if name.startswith("ndcg@")] or every
        return next((name for name in preferred if name in every), by_default[0] if by_default else "ndcg@10")
    metric = canonical_name(metric)
    for model, names in computed.items():
        if metric not in names:
            raise ValueError(_explain_missing_metric(metric, model, names, plans[model]))
    return metric


def _explain_missing_metric(metric: str, model: str, names: Sequence[str], plan: Plan) -> str:
    """Say that a metric is unknown, or how the settings compute it."""
    is_error = metric in rating_metrics.__all__
    if metric.startswith("sampled_") and plan.evaluation.sampled is None:
        return f"metric: '{metric}' is not computed for {model}; add it with --set evaluation.sampled=99"
    try:
        is_known = is_error or metric_names([metric]) == [metric]
    except ValueError:
        is_known = False
    if not is_known:
        return f"metric: unknown '{metric}'{suggest(metric, names)}"
    if is_error and not hasattr(model_class(plan.task.model), "predicts_ratings"):
        return f"metric: '{metric}' needs a model that predicts ratings, {model} does not"
    key, _, k = metric.partition("@")
    settings = plan.evaluation
    changes = [f"'evaluation.ks={sorted({*settings.ks, int(k)})}'"] if k else []
    if key not in settings.metrics:
        changes.append(f"'evaluation.metrics=[{','.join([*settings.metrics, key])}]'")
    return f"metric: '{metric}' is not computed for {model}, only {', '.join(names)}; add it with " + " and ".join(
        f"--set {change}" for change in changes
    )


def _own_override(text: str, model: str, models: Sequence[str]) -> str | None:
    """Return an override as ``model`` reads it.

    ``None`` if the override applies to another model.
    """
    group, dot, rest = text.partition(".")
    if dot and group in models:
        return f"model.{rest}" if group == model else None
    return text


def _read_history(folder: Path) -> list[dict[str, float]]:
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def ensure_run(plan: Plan, log: Log, read_test: bool = False) -> Path:
    """Return the folder of the finished run of a plan.

    If there is none, it is trained now, in its own process.

    Args:
        read_test: whether a new run is evaluated on the test part, too.
    """
    data = load_data(replace(plan, text=TextSettings()))  # its hash does not depend on encoded text
    found = find_reusable_run(plan)
    if found is not None and read_json(found / METRICS)["data_hash"] == data.header.get("hash"):
        log(f"{plan.task.model}: {found}, trained before with these settings")
        return found
    name = f"{Path(plan.task.data.partition('?')[0]).stem}-{plan.task.model}-{plan.fingerprint()[:10]}"
    folder = runs_folder() / name
    folder = create_run(plan, None if is_finished(folder) else folder)
    log(f"{plan.task.model}: {folder}")
    command = [
        sys.executable,
        "-m",
        "segue",
        "train",
        "--resume",
        str(folder),
        "--json",
        *(["--test"] if read_test else []),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode == 130:
        raise Interrupted
    if done.returncode:
        raise ValueError(f"training {plan.task.model} failed with status {done.returncode}; see {folder}")
    assert json.loads(done.stdout)["run"] == folder.name
    assert (folder / SETTINGS).exists()
    return folder
