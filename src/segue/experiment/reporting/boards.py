"""Collect what a report says about runs of one protocol.

Shapes: N queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.model import is_lower_better
from segue.core.types import HeldOut, Split
from segue.data.splits import split
from segue.evaluation import rating_metrics
from segue.evaluation.beyond_accuracy.training_data import TrainingData
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.simple_baselines import RANKING_BASELINES, RATING_MEANS, rating_mean_errors
from segue.experiment.compare import compare_values
from segue.experiment.data import load_run_data
from segue.experiment.evaluate import group_labels, user_labels
from segue.experiment.evaluate_run import evaluate_plan
from segue.experiment.paths import runs_folder
from segue.experiment.quality import baseline_keys, train_baseline
from segue.experiment.records.held_out_readings import describe_reading, record_reading
from segue.experiment.records.recommended_lists import compare_lists
from segue.experiment.reporting.run_files import RunFiles, SeededRuns, average_by_model, group_by_protocol
from segue.experiment.reporting.users import USERS_RULE, describe_users
from segue.reports.html.board import Board, GroupResult, ModelDocuments
from segue.reports.html.layout import UsersBlock
from segue.reports.quantities import format_amount

__all__ = ["collect_boards", "short_name"]

Log = Callable[[str], None]
Values = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""``(N,)`` values per query by model and metric."""

POPULARITY = ("head items", "middle items", "tail items")
WARMTH = ("hot users", "warm users", "cold users", "hot items", "warm items", "cold items")


@dataclass(frozen=True, eq=False)
class _Baselines:
    """Simple baselines with their values per query."""

    records: dict[str, dict[str, Any]]
    values: dict[str, Mapping[str, NDArray[np.float64]]]


def collect_boards(runs: Sequence[RunFiles], metric: str | None, users: int, log: Log) -> list[Board]:
    """Collect one board per protocol, in the order of the runs.

    Args:
        metric: orders the models; ``None``: the validation metric that they share.
        users: number of users whose lists are shown.

    Raises:
        ValueError: a model does not have this metric.
    """
    groups = group_by_protocol(runs)
    every = {name for run in runs for name in run.record["intervals"]}
    if metric is not None and metric not in every:
        raise ValueError(f"metric: '{metric}' was not computed by any of the runs{suggest(metric, every)}")
    return [_collect_board(average_by_model(group), metric, users, log) for group in groups]


def _collect_board(models: Sequence[SeededRuns], metric: str | None, users: int, log: Log) -> Board:
    first = models[0].runs[0]
    chosen = _choose_metric(models, metric)
    names = [model.name for model in models]
    values: dict[str, Mapping[str, NDArray[np.float64]]] = {
        model.name: {name: model.values[name].to_numpy() for name in model.record["intervals"]} for model in models
    }
    notes = []
    parts: Split | None = None
    held_out: HeldOut | None = None
    try:
        parts = split(load_run_data(first.folder), first.plan.split)
        held_out = _check_queries(parts, first)
    except ValueError as error:
        parts = held_out = None
        notes.append(
            f"Other simple baselines, lengths of histories and users are left out, because the data is not available: "
            f"{error}"
        )
    baselines = _recorded_baselines(models)
    if parts is not None and held_out is not None and first.plan.evaluation.baseline is not None:
        log(f"{first.record['data']}: measuring the simple baselines")
        baselines = _measure_baselines(parts, held_out, models)
    kept = {name: record for name, record in baselines.records.items() if name not in names}
    records = {model.name: {**model.record, "model": model.name} for model in models}
    strongest = _strongest(
        {**kept, **{model.name: records[model.name] for model in models if _is_simple(model)}}, chosen
    )
    known = {**baselines.values, **values}
    against = {name: known[name] for name in [*names, strongest] if name is not None and name in known}
    has_tests = strongest is not None and strongest in known and len(against) > 1
    data = first.record["data"]
    panels: UsersBlock | None = None
    if parts is not None and held_out is not None and users:
        log(f"{data}: explaining the recommendations of {format_amount(users, 'user')}")
        best = _order(models, chosen)
        panels = describe_users(best, parts, held_out, chosen, users)
    return Board(
        data=short_name(str(data)),
        source=str(data),
        part=str(first.record["part"]),
        metric=chosen,
        models=records,
        baselines=kept,
        strongest=strongest,
        simple_models=frozenset(model.name for model in models if _is_simple(model)),
        tests=[test.record() for test in compare_values(values, chosen)] if len(models) > 1 else [],
        baseline_tests=[test.record() for test in compare_values(against, chosen, strongest)] if has_tests else [],
        groups=_groups(models, chosen, values, parts, held_out),
        histories={model.name: model.runs[0].history for model in models if model.runs[0].history},
        overlaps=_overlaps(models),
        documents={
            model.name: ModelDocuments(model.runs[0].card, model.runs[0].settings) for model in models
        },
        users=panels,
        users_rule=USERS_RULE if panels is not None else "",
        warnings=list(dict.fromkeys(text for model in models for run in model.runs for text in run.record["warnings"])),
        notes=notes,
    )  # fmt: skip


def short_name(data: str) -> str:
    """Return the name of data without its folder and options."""
    name = data.partition("?")[0]
    return Path(name).name or name


def _choose_metric(models: Sequence[SeededRuns], metric: str | None) -> str:
    """Return ``metric`` or a default.

    It is the validation metric that the models share, else nDCG, else the first common metric.
    """
    common = [name for name in models[0].record["intervals"] if all(name in m.record["intervals"] for m in models)]
    if not common:
        named = ", ".join(model.name for model in models)
        raise ValueError(f"metric: {named} have no metric in common; report them separately")
    if metric is not None:
        if lacking := [model.name for model in models if metric not in model.record["intervals"]]:
            raise ValueError(f"metric: '{metric}' was not computed for {', '.join(lacking)}{suggest(metric, common)}")
        return metric
    shared = {model.runs[0].plan.metric for model in models}
    preferred = [*(shared if len(shared) == 1 else []), "ndcg@10"]
    return next((name for name in preferred if name in common), common[0])


def _check_queries(parts: Split, run: RunFiles) -> HeldOut:
    """Return the part that was measured; its queries must be those of the run.

    Raises:
        ValueError: they are not.
    """
    held_out: HeldOut = parts.test if run.record["part"] == "test" else parts.valid
    ids = pl.Series("user", parts.train.users.decode(held_out.queries.users), dtype=pl.String)
    ids = ids.set(pl.Series(~held_out.queries.known), None)
    if not ids.equals(run.values["user"].cast(pl.String), null_equal=True):
        raise ValueError(f"{run.folder.name}: its values are of other queries than those of its split")
    return held_out


def _is_simple(model: SeededRuns) -> bool:
    return model.runs[0].record["model"] in RANKING_BASELINES


def _strongest(records: Mapping[str, Mapping[str, Any]], metric: str) -> str | None:
    """Return the name of the best record; ``None``: none has the metric."""
    sign = 1.0 if is_lower_better(metric) else -1.0
    known = [name for name, record in records.items() if metric in record]
    return min(known, key=lambda name: sign * float(records[name][metric]), default=None)


def _order(models: Sequence[SeededRuns], metric: str) -> list[SeededRuns]:
    sign = 1.0 if is_lower_better(metric) else -1.0
    return sorted(models, key=lambda model: sign * float(model.record[metric]))


def _recorded_baselines(models: Sequence[SeededRuns]) -> _Baselines:
    """Return the baselines that the runs recorded, without values per query."""
    found = [run.record.get("baseline") for model in models for run in model.runs]
    return _Baselines({one["model"]: dict(one) for one in found if one}, {})


def _measure_baselines(parts: Split, held_out: HeldOut, models: Sequence[SeededRuns]) -> _Baselines:
    """Measure the simple baselines on the queries of the runs.

    On the test part, these are only the ones that the runs chose on validation, and their readings are recorded.
    """
    run = models[0].runs[0]
    plan, part = run.plan, run.record["part"]
    recorded = list(_recorded_baselines(models).records)
    settings = plan.evaluation
    keys = list(baseline_keys(settings.baseline or "", parts.train, settings.exclude_seen))
    has_errors = any(name in rating_metrics.__all__ for model in models for name in model.record["intervals"])
    keys += [RATING_MEANS] if has_errors else []
    found = _Baselines({}, {})
    for name in recorded if part == "test" else keys:
        seed = plan.run.seed
        if name == RATING_MEANS:
            errors = rating_mean_errors(parts.train.histories, held_out)
            named = [one for one in run.record["intervals"] if one in rating_metrics.__all__]
            values = {one: getattr(rating_metrics, one)(errors) for one in named or rating_metrics.DEFAULT_ERRORS}
            estimates = estimate_values(values, seed)
        else:
            labels = user_labels(held_out, parts.train)
            model = train_baseline(name, parts.train, seed)
            result = evaluate_plan(model, held_out, plan, TrainingData.of(parts.train), labels)
            values, estimates = dict(result.values), dict(result.estimates)
        found.values[name] = values
        found.records[name] = {
            "model": name,
            **{metric: round(one.mean, 6) for metric, one in estimates.items()},
            "intervals": {metric: [round(one.low, 6), round(one.high, 6)] for metric, one in estimates.items()},
        }
        if part == "test":
            means = {metric: one.mean for metric, one in estimates.items()}
            record_reading(runs_folder(), describe_reading(name, parts, means, "segue report"))
    return found


def _groups(
    models: Sequence[SeededRuns], metric: str, values: Values, parts: Split | None, held_out: HeldOut | None
) -> dict[str, list[GroupResult]]:
    """Return ``metric`` by popularity of the target, history length, and warmth."""
    found = {"popularity": _recorded_groups(models, metric, POPULARITY)}
    if parts is not None and held_out is not None:
        found["length"] = _length_groups(metric, values, group_labels("history_length", held_out, parts.train))
    found["warmth"] = _recorded_groups(models, metric, WARMTH)
    return {name: rows for name, rows in found.items() if rows}


def _recorded_groups(models: Sequence[SeededRuns], metric: str, names: Sequence[str]) -> list[GroupResult]:
    rows = []
    for name in names:
        for model in models:
            group = next((one for one in model.record.get("warmth") or [] if one["group"] == name), None)
            if group is not None and metric in group["metrics"]:
                mean, low, high = group["metrics"][metric]
                one = GroupResult(name, group["definition"], model.name, mean, low, high, group["queries"])
                rows.append(one)
    return rows


def _length_groups(metric: str, values: Values, labels: Sequence[str]) -> list[GroupResult]:
    """Return ``metric`` by length of the history, the shortest first."""
    label_N = np.array(labels)
    names = sorted(set(labels), key=lambda label: float(label.split(" ")[0]))
    rows = []
    for name in names:
        is_member = label_N == name
        for model, columns in values.items():
            own = {metric: columns[metric][is_member]}
            if np.isnan(own[metric]).all():
                continue
            one = estimate_values(own, 0)[metric]
            rows.append(GroupResult(name, "events", model, one.mean, one.low, one.high, int(is_member.sum())))
    return rows


def _overlaps(models: Sequence[SeededRuns]) -> dict[str, Any] | None:
    """Compare the lists of the models, where all have lists of the test part."""
    runs = {model.name: [run.folder for run in model.runs] for model in models}
    return compare_lists(runs) if sum(map(len, runs.values())) > 1 else None
