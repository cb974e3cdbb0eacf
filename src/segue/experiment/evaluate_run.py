"""Evaluate runs and saved models as their settings say, and audit their test part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.config import apply_overrides, parse, suggest
from segue.core.files import read_json
from segue.core.model import Model
from segue.core.registry import exported_functions, model_class
from segue.core.types import HeldOut, Queries, Split
from segue.core.vocab import Vocab
from segue.data.splits import split
from segue.evaluation import evaluate as evaluation
from segue.evaluation import metrics as ranking_metrics
from segue.evaluation import rating_metrics
from segue.evaluation.beyond_accuracy.list_metrics import known_list_metrics, metric_names, split_list_metrics
from segue.evaluation.beyond_accuracy.training_data import TrainingData
from segue.evaluation.evaluate import EvaluationResult
from segue.evaluation.leakage import check_leakage
from segue.evaluation.warmth import Warmth, WarmthGroup
from segue.experiment.data import load_data, load_run_data
from segue.experiment.evaluate import (
    GroupBy,
    evaluate_model,
    group_labels,
    interval_values,
    map_to_model,
    mean_values,
    user_labels,
)
from segue.experiment.inference.training_data import find_training_data
from segue.experiment.paths import bundle_folder, runs_folder
from segue.experiment.plan import Plan, make_plan, read_none, resolve_overrides
from segue.experiment.protocols.arguments import RankingArguments
from segue.experiment.protocols.presets import PROTOCOLS, check_protocol
from segue.experiment.quality import (
    cold_item_note,
    describe_data_warnings,
    explain_result,
    is_rating_model,
    rating_note,
    warn_if_trained_on,
)
from segue.experiment.records.held_out_readings import (
    describe_reading,
    format_readings,
    list_readings,
    read_readings,
    record_reading,
)
from segue.experiment.run_folder import METRICS, read_run_plan
from segue.experiment.settings import EvaluationSettings
from segue.training.train import check_validation_metric

__all__ = [
    "RunEvaluation",
    "audit_run",
    "audit_saved",
    "check_errors",
    "describe_warmth",
    "evaluate_file",
    "evaluate_plan",
    "evaluate_run",
    "evaluate_saved",
    "named_errors",
    "validate_metrics",
    "values_per_query",
    "warmth_values",
]


def validate_metrics(plan: Plan) -> list[str]:
    """Return the names of the plan's ranking metrics and metrics beyond accuracy.

    Errors of predicted ratings are computed wherever possible, see :func:`named_errors`.

    Raises:
        ValueError: unknown names or wrong cutoffs, one line each, or a validation metric that the model cannot compute.
    """
    known, errors = ranking_metrics.known_metrics(), exported_functions(rating_metrics)
    ranking = [name for name in plan.evaluation.metrics if name not in errors]
    accuracy = [name for name in split_list_metrics(ranking)[0] if not name.startswith("rbp:")]
    if unknown := [name for name in accuracy if ranking_metrics.find_metric(name.partition("@")[0]) is None]:
        every = known | errors | known_list_metrics()
        raise ValueError("\n".join(f"evaluation.metrics: unknown '{name}'{suggest(name, every)}" for name in unknown))
    metric_names(ranking, plan.evaluation.ks)
    check_validation_metric(plan.task.model, model_class(plan.task.model), plan.training.metric)
    return ranking


def named_errors(plan: Plan) -> list[str]:
    """Return the errors of predicted ratings that the plan names."""
    errors = exported_functions(rating_metrics)
    return [name for name in plan.evaluation.metrics if name in errors]


def check_errors(plan: Plan, model: Model, result: EvaluationResult | None = None) -> None:
    """Check that the errors of ratings that the plan names can be computed.

    Raises:
        ValueError: the model predicts no ratings, or the held-out events have none.
    """
    names = named_errors(plan)
    if names and not is_rating_model(model):
        raise ValueError(
            f"metrics: {', '.join(names)}: expected a model that predicts ratings, {plan.task.model} does not"
        )
    if result is not None and (missing := [name for name in names if name not in result]):
        raise ValueError(f"metrics: {', '.join(missing)}: the held-out events have no ratings to compare with")


def _names_metrics(overrides: Iterable[str]) -> bool:
    return any(text.partition("=")[0].strip() in ("metrics", "evaluation.metrics") for text in overrides)


def evaluate_plan(
    model: Model,
    held_out: HeldOut,
    plan: Plan,
    training: TrainingData | None,
    labels: Callable[[str], Sequence[str]],
    groups: Sequence[str] | None = None,
) -> EvaluationResult:
    """Evaluate a model as the plan's evaluation settings say.

    Args:
        training: training events and item features, in the codes of the model; ``None``: unknown.
        labels: see :func:`segue.experiment.evaluate.user_labels`.
    """
    settings = plan.evaluation
    result = evaluation.evaluate(
        model,
        held_out,
        ks=settings.ks,
        metrics=validate_metrics(plan),
        exclude_seen=settings.exclude_seen,
        seed=plan.run.seed,
        sampled=settings.sampled,
        groups=groups,
        warmth=Warmth(None if training is None else training.item_events, settings.thresholds),
        items=settings.items,
        errors=named_errors(plan),
        training=training,
        labels=labels,
    )
    name = settings.protocol
    return result if name is None else replace(result, metadata={"protocol": name, **result.metadata})


def describe_warmth(result: EvaluationResult) -> list[dict[str, Any]]:
    """Return the metrics of hot, warm and cold items and users.

    They have intervals, and are rounded for the record.
    """
    return [_describe_group(group, int(result.metadata["seed"])) for group in result.warmth]


def _describe_group(group: WarmthGroup, seed: int) -> dict[str, Any]:
    return {
        "group": group.name,
        "definition": group.definition,
        "queries": len(group.rows),
        "targets": group.targets,
        "metrics": {
            name: [round(e.mean, 6), round(e.low, 6), round(e.high, 6)] for name, e in group.estimate(seed).items()
        },
    }


def warmth_values(result: EvaluationResult) -> pl.DataFrame:
    """Return the values per query of hot, warm and cold items and users.

    There is one row per group and query, with every metric.
    """
    parts = [
        pl.DataFrame({"query": group.rows, **group.values}).select(pl.lit(group.name).alias("group"), pl.all())
        for group in result.warmth
    ]
    return pl.concat(parts, how="diagonal") if parts else pl.DataFrame({"group": [], "query": []})


def values_per_query(queries: Queries, result: EvaluationResult, users: Vocab) -> pl.DataFrame:
    """Return one row per query: the user's id (null if unknown) and every metric."""
    ids = pl.Series("user", users.decode(queries.users)).set(pl.Series(~queries.known), None)
    return pl.DataFrame({"user": ids, **result.values})


@dataclass(frozen=True)
class RunEvaluation:
    """The result of :func:`evaluate_run`, and the record that is printed."""

    record: dict[str, Any]
    result: EvaluationResult
    values: pl.DataFrame
    """One row per query: the user's id and every metric."""


def evaluate_run(
    run: Path,
    part: str = "test",
    overrides: Iterable[str] = (),
    by: GroupBy | None = None,
    command: str = "evaluate_run",
) -> RunEvaluation:
    """Evaluate the model of a run on the run's own split.

    The run stays unchanged, except that a reading of the test part is recorded in it. The warnings of its training are
    repeated if the same is ranked.

    Args:
        part: ``test`` or ``valid``.
        overrides: of evaluation settings, such as ``ks=[1,20]``.
        by: group of each query, see :func:`segue.evaluate`.
        command: what reads the test part, for the record.
    """
    if part not in ("test", "valid"):
        raise ValueError(f"part: got '{part}', expected test or valid")
    overrides = list(overrides)
    before = read_run_plan(run)
    plan = _change_evaluation(before, overrides)
    validate_metrics(plan)
    trained = bundle.load(bundle_folder(run))
    if _names_metrics(overrides):
        check_errors(plan, trained.model)
    parts = split(load_run_data(run), plan.split)
    is_same = _ranking_settings(plan) == _ranking_settings(before)
    warnings = read_json(run / METRICS)["warnings"] if is_same else describe_data_warnings(plan, parts)
    found = _evaluate_part(run.name, trained, parts, part, plan, by, warnings)
    if _names_metrics(overrides):
        check_errors(plan, trained.model, found.result)
    if part == "test":
        record_reading(run, describe_reading(run.name, parts, mean_values(found.result), command))
    return found


def _change_evaluation(plan: Plan, overrides: Iterable[str]) -> Plan:
    """Return the plan of a run with other evaluation settings.

    Raises:
        ValueError: an unknown setting, or a protocol that contradicts the split of the run or another setting.
    """
    given = apply_overrides({"evaluation": EvaluationSettings}, overrides)["evaluation"]
    given = {key: read_none(EvaluationSettings, key, value) for key, value in given.items()}
    protocol = PROTOCOLS.get(str(given.get("protocol")))
    of_protocol = {} if protocol is None else protocol.values["evaluation"]
    settings = parse(EvaluationSettings, {**plan.evaluation.model_dump(), **of_protocol, **given}, "evaluation")

    def origin(group: str, key: str) -> str:
        return ", the split of the run" if group == "split" else "" if key in given else ", as in the run"

    if errors := check_protocol(settings, plan.split, origin):
        raise ValueError("\n".join(errors))
    return replace(plan, evaluation=settings)


def _ranking_settings(plan: Plan) -> tuple[Any, ...]:
    """Return the evaluation settings on which the warnings of a training depend."""
    settings = plan.evaluation
    return settings.protocol, settings.exclude_seen, settings.items, settings.sampled


def audit_run(run: Path) -> dict[str, Any]:
    """Check the split of a run for leaks, and list the readings of its test part."""
    parts = split(load_run_data(run), read_run_plan(run).split)
    readings = list_readings(parts, run)
    return {
        "run": run.name,
        "leakage": check_leakage(parts),
        "test_readings": readings,
        "readings_of_this_run": sum(line["run"] == run.name for line in readings),
        "text": format_readings(readings),
    }


def audit_saved(folder: Path) -> dict[str, Any]:
    """List the readings of a test part by a saved model, also those before saving."""
    name = str(folder.resolve())
    before = bundle.load(folder).test_readings
    readings = [*before, *(line for line in read_readings(runs_folder()) if line["run"] == name)]
    return {
        "run": name,
        "test_readings": readings,
        "readings_of_this_run": len(readings),
        "text": format_readings(readings, "by this model"),
    }


def evaluate_saved(
    folder: Path,
    data: str,
    part: str = "test",
    overrides: Iterable[str] = (),
    by: GroupBy | None = None,
    command: str = "evaluate_saved",
) -> RunEvaluation:
    """Evaluate a saved model on a split of any data with items of its catalog.

    Users and items are matched by id; the record counts those that the model does not know.

    Args:
        data: the data that the model was trained on, or other data.
        overrides: of split and evaluation settings, such as ``split.strategy=random``.

    Raises:
        ValueError: no item of the data is in the catalog of the model.
    """
    if part not in ("test", "valid"):
        raise ValueError(f"part: got '{part}', expected test or valid")
    trained = bundle.load(folder)
    plan = make_plan({"model": trained.key, "data": data}, overrides, "none")
    check_errors(plan, trained.model)
    parts = split(load_data(plan), plan.split)
    found = _evaluate_part(folder.resolve().name, trained, parts, part, plan, by, [])
    check_errors(plan, trained.model, found.result)
    if part == "test":
        reading = describe_reading(str(folder.resolve()), parts, mean_values(found.result), command)
        record_reading(runs_folder(), reading)
    return found


def evaluate_file(
    path: Path,
    data: str,
    part: str = "test",
    overrides: Iterable[str] = (),
    by: GroupBy | None = None,
    command: str = "evaluate_file",
) -> RunEvaluation:
    """Evaluate recommendation lists in a file on a split of any data.

    Args:
        path: see :mod:`segue.evaluation.recommendation_files`.
        overrides: of split and evaluation settings; those of what is ranked have no effect on given lists.

    Raises:
        ValueError: a setting of what is ranked, or lists that do not fit the data.
    """
    if part not in ("test", "valid"):
        raise ValueError(f"part: got '{part}', expected test or valid")
    overrides = list(overrides)
    given = resolve_overrides(["popular"], overrides)["evaluation"]
    if ranking := [key for key in given if key not in ("ks", "metrics", "warm_items", "hot_items")]:
        raise ValueError(f"evaluation.{ranking[0]}: not used for recommendation lists, which are ranked already")
    plan = make_plan({"model": "popular", "data": data}, overrides, "none")
    parts = split(load_data(plan), plan.split)
    held_out = parts.test if part == "test" else parts.valid
    result = evaluate_model(
        path,
        replace(parts, test=held_out),
        RankingArguments(None, True, "all", None, plan.evaluation.metrics, plan.evaluation.ks),
        by=by,
        thresholds={"warm_items": plan.evaluation.warm_items},
        command=command,
    )
    record: dict[str, Any] = {
        "run": path.name,
        "model": path.name,
        "data": plan.task.data,
        "part": part,
        **mean_values(result),
        "intervals": interval_values(result),
        "protocol": dict(result.metadata),
        "warmth": describe_warmth(result),
        "warnings": [],
        **_describe_groups(result),
    }
    return RunEvaluation(record, result, values_per_query(held_out.queries, result, parts.train.users))


def _describe_groups(result: EvaluationResult) -> dict[str, Any]:
    """Return the metrics of each group of queries, if there are groups."""
    if not result.group_estimates:
        return {}
    groups = {
        group: {
            "queries": result.group_sizes[group],
            **{name: [round(e.mean, 6), round(e.low, 6), round(e.high, 6)] for name, e in estimates.items()},
        }
        for group, estimates in result.group_estimates.items()
    }
    return {"groups": groups}


def _evaluate_part(
    name: str, trained: TrainedModel, parts: Split, part: str, plan: Plan, by: GroupBy | None, warnings: list[str]
) -> RunEvaluation:
    held_out = parts.test if part == "test" else parts.valid
    mapped, rows, messages = map_to_model(trained, held_out)
    warn_if_trained_on(trained, mapped)
    groups = None if by is None else group_labels(by, held_out, parts.train)
    groups = None if groups is None else [groups[row] for row in rows]
    labels = user_labels(held_out, parts.train, rows)
    result = evaluate_plan(trained.model, mapped, plan, find_training_data(trained, parts.train), labels, groups)
    record: dict[str, Any] = {
        "run": name,
        "model": trained.key,
        "data": plan.task.data,
        "part": part,
        **mean_values(result),
        "intervals": interval_values(result),
        "protocol": dict(result.metadata),
        "warmth": describe_warmth(result),
        "warnings": list(
            dict.fromkeys(
                [
                    *warnings,
                    *messages,
                    *explain_result(result, part, plan),
                    *cold_item_note(trained.model, plan.evaluation.items),
                ]
            )
        ),
    }
    if validate_metrics(plan) and is_rating_model(trained.model) and not any("predicts ratings" in w for w in warnings):
        record["warnings"].append(rating_note(trained.key))
    record |= _describe_groups(result)
    queries = held_out.queries.take(np.array(rows, np.int64))
    return RunEvaluation(record, result, values_per_query(queries, result, parts.train.users))
