"""Evaluate models in memory, and recommendation lists from elsewhere.

A reading of a test part is recorded on the model, and in the folder that the model was opened from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.config import parse, suggest
from segue.core.messages import QualityWarning, warn
from segue.core.model import Predictor, Recommender
from segue.core.registry import exported_functions
from segue.core.types import Dataset, HeldOut, Split
from segue.core.vocab import id_text
from segue.data.dataframes import is_table, to_frame
from segue.data.splits import split
from segue.evaluation import evaluate as evaluation
from segue.evaluation import metrics as ranking_metrics
from segue.evaluation import rating_metrics
from segue.evaluation.beyond_accuracy.list_metrics import (
    check_list_metrics,
    metric_names,
    resolve_list_metrics,
    split_list_metrics,
)
from segue.evaluation.beyond_accuracy.training_data import TrainingData
from segue.evaluation.evaluate import DEFAULT_METRICS, EvaluationResult
from segue.evaluation.metrics import MetricLike
from segue.evaluation.ranking import ExcludeSeen
from segue.evaluation.recommendation_files import SUFFIXES, read_recommendations
from segue.evaluation.warmth import ItemSelection, Warmth, WarmthThresholds
from segue.experiment.arguments import check_seed
from segue.experiment.data import load_run_data
from segue.experiment.inference.argument_checks import check_arguments, describe_value, is_sequence
from segue.experiment.inference.code_mapping import map_held_out
from segue.experiment.inference.query_inputs import describe_missing_inputs
from segue.experiment.inference.training_data import find_training_data
from segue.experiment.paths import bundle_folder, find_run
from segue.experiment.protocols.arguments import RankingArguments, check_split, resolve_arguments
from segue.experiment.quality import cold_item_note, explain_result, is_rating_model, rating_note, warn_if_trained_on
from segue.experiment.records.held_out_readings import read_readings, record_model_reading
from segue.experiment.run_folder import read_run_plan
from segue.experiment.settings import EvaluationSettings, ProtocolName

__all__ = [
    "GroupBy",
    "check_list_inputs",
    "check_metrics",
    "evaluate",
    "evaluate_model",
    "group_labels",
    "interval_values",
    "map_to_model",
    "mean_values",
    "ordered_names",
    "split_metrics",
    "user_labels",
]

GroupBy: TypeAlias = "str | Sequence[str] | Mapping[Any, Any] | Callable[[HeldOut], Sequence[str]] | Any"
"""A user feature or ``history_length``, one label per query, or a function that returns these."""

MAX_GROUPS = 10
"""Maximum number of distinct numbers that each form a group; more are grouped by quartiles."""


@check_arguments(skip=("data", "metrics", "ks", "by", "seed"))
def evaluate(
    model: Any,
    data: Split | HeldOut | None = None,
    *,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    ks: Sequence[int] | None = None,
    by: GroupBy | None = None,
    protocol: ProtocolName | None = None,
    exclude_seen: ExcludeSeen | None = None,
    items: ItemSelection | None = None,
    thresholds: Mapping[str, int] | None = None,
    seed: int = 0,
) -> EvaluationResult:
    """Evaluate a model, or recommendation lists from elsewhere, on held-out queries.

    Targets are ranked among the whole catalog; tied scores count at their expected rank.

    Args:
        model: a trained model; a run such as ``"latest"`` or a saved folder; or recommendation lists: a table (pandas,
            Polars, ...) or a file (Parquet, CSV, ...) with ``user_id``, ``item_id`` and ``rank`` or ``score``.
        data: a split, whose test part is used; or held-out queries such as ``split.valid``; ``None``: the split of the
            run. A reading of a test part is recorded in ``model.test_readings``, which :func:`segue.save` stores, and
            on disk if the model was opened from a run or a saved folder.
        metrics: names such as ``"ndcg@10"`` or ``"rmse"``, and functions ``(ranks, k)`` that return one value per
            query, see :mod:`segue.evaluation.metrics`; also names beyond accuracy, such as ``"novelty@10"``,
            ``"coverage@10"`` or ``"diversity:genres@10"``; ``None``: the default metrics, and errors of predicted
            ratings where the model predicts them.
        ks: list lengths for the metrics that are named without one; by default 5 and 10.
        by: also evaluate per group: a user feature such as ``"age"``, ``"history_length"``, labels by user id (a dict,
            or a table with ``user_id`` and one column of labels), a list of one label per query, or a function of the
            held-out queries that returns one of these. Many different numbers are grouped by quartiles.
        protocol: name of an evaluation protocol, such as ``"ncf"``, which sets ``exclude_seen``, ``items`` and, unless
            they are given, the metrics. A split that was made in another way is an error.
        exclude_seen: whether items of a user's history are removed from the ranking, by default all; a number: only
            those of so many newest events. Given lists stay as they are.
        items: which items are ranked: ``"all"``, the default; ``"warm"``, those with training events; or ``"cold"``,
            those without. Other targets are left out.
        thresholds: numbers of events from which items and users are warm or hot, such as ``{"hot_items": 100}``; the
            names are ``warm_items``, ``hot_items``, ``warm_users`` and ``hot_users``.
        seed: seed of the bootstrap intervals.

    Returns:
        ``result["ndcg@10"]`` has ``mean``, ``low`` and ``high`` of the 95 % interval; ``result.table`` lists them all;
        ``result.values`` holds the values per query; ``result.warmth_table`` lists the metrics of hot, warm and cold
        items and users.

    Raises:
        ValueError: an unknown metric, data of another catalog, or no query with a true item.
    """
    requested = resolve_arguments(protocol, exclude_seen, items, metrics, ks, (5, 10))
    return evaluate_model(model, data, requested, by=by, thresholds=thresholds, seed=seed, command="segue.evaluate")


def evaluate_model(
    model: Any,
    data: Split | HeldOut | None,
    requested: RankingArguments,
    *,
    command: str,
    by: GroupBy | None = None,
    thresholds: Mapping[str, int] | None = None,
    seed: int = 0,
) -> EvaluationResult:
    """Evaluate as :func:`evaluate`; record readings of a test part by ``command``."""
    metrics, ks, items = requested.metrics, requested.ks, requested.items
    seed, limits = check_seed(seed), check_thresholds(thresholds)
    ranking, errors = check_metrics(metrics, ks)
    lists, trained, run_split = _open_source(model)
    data = run_split if data is None else data
    check_split(requested.protocol, data)
    held_out, train_data = _select_held_out(data)
    groups = None if by is None else group_labels(by, held_out, train_data)
    if lists is not None:
        return _evaluate_lists(lists, held_out, train_data, requested, groups, limits, seed)
    mapped, rows, messages = map_to_model(trained, held_out)
    if messages:
        warn("evaluate: " + "; ".join(messages))
    groups = None if groups is None else [groups[row] for row in rows]
    recommender = trained.model if isinstance(trained, TrainedModel) else trained
    if errors and not (isinstance(recommender, Predictor) and recommender.predicts_ratings):
        raise ValueError(
            f"metrics: {_need(errors)} a model that predicts ratings, {type(recommender).__name__} does not"
        )
    training = find_training_data(trained, train_data)
    result = evaluation.evaluate(
        recommender,
        mapped,
        ks,
        ranking,
        requested.exclude_seen,
        seed,
        sampled=requested.sampled,
        groups=groups,
        warmth=Warmth(None if training is None else training.item_events, limits),
        items=items,
        errors=errors,
        training=training,
        labels=user_labels(held_out, train_data, rows),
    )
    if requested.protocol is not None:
        result = replace(result, metadata={"protocol": requested.protocol, **result.metadata})
    notes = [*explain_result(result, "test" if data is run_split else None), *cold_item_note(recommender, items)]
    if ranking and is_rating_model(recommender):
        notes.append(rating_note(trained.key if isinstance(trained, TrainedModel) else type(recommender).__name__))
    for note in notes:
        warn(f"evaluate: {note}", category=QualityWarning)
    if isinstance(trained, TrainedModel):
        if isinstance(data, Split) or held_out.test_id is not None:
            record_model_reading(trained, data if isinstance(data, Split) else held_out, mean_values(result), command)
        if data is not run_split:
            warn_if_trained_on(trained, mapped)
    if metrics is None:
        return result
    if missing := [name for name in errors if name not in result]:
        raise ValueError(f"metrics: {_need(missing)} ratings to compare with, the held-out events have none")
    names = ordered_names(metrics, ks)
    return result.select([*names, *(f"sampled_{name}" for name in names if f"sampled_{name}" in result)])


def _evaluate_lists(
    lists: Path | pl.DataFrame,
    held_out: HeldOut,
    train_data: Dataset | None,
    requested: RankingArguments,
    groups: Sequence[str] | None,
    limits: WarmthThresholds,
    seed: int,
) -> EvaluationResult:
    """Evaluate recommendation lists, which are ranked already.

    Raises:
        ValueError: a metric or an argument that needs a model, or queries without the ids of their users.
    """
    ranking, errors = check_metrics(requested.metrics, requested.ks)
    if train_data is None:
        raise ValueError("evaluate: recommendation lists need a split, which has the ids; got queries")
    if errors:
        raise ValueError(f"metrics: {_need(errors)} predicted ratings, got recommendation lists")
    if requested.protocol is not None:
        raise ValueError(f"protocol: got '{requested.protocol}' for recommendation lists, which are ranked already")
    if requested.items != "all":
        raise ValueError(
            f"items: got '{requested.items}' for recommendation lists, which are ranked already; expected 'all'"
        )
    return evaluation.evaluate_lists(
        read_recommendations(lists, held_out.queries, train_data.users, train_data.items),
        held_out,
        requested.ks,
        ranking,
        seed,
        groups,
        Warmth.of(train_data.histories, train_data.n_items, limits),
        training=TrainingData.of(train_data),
        labels=user_labels(held_out, train_data),
    )


def _open_source(source: Any) -> tuple[Path | pl.DataFrame | None, Any, Split | None]:
    """Return recommendation lists, or a model and, for a run, its split."""
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.suffix in SUFFIXES:
            return path, None, None
        if (path / "bundle.json").exists():
            return None, bundle.load(path), None
        run = find_run(path)
        trained = replace(bundle.load(bundle_folder(run)), folder=run, test_readings=read_readings(run))
        return None, trained, split(load_run_data(run), read_run_plan(run).split)
    if is_table(source):
        return to_frame(source)[1], None, None
    if isinstance(source, TrainedModel | Recommender):
        return None, source, None
    raise ValueError(
        f"evaluate: got {type(source).__name__}, expected a trained model, a run, a saved folder, or a table of "
        "recommendations with user_id and item_id"
    )


def _select_held_out(data: Any) -> tuple[HeldOut, Dataset | None]:
    if isinstance(data, Split):
        return data.test, data.train
    if isinstance(data, HeldOut):
        return data, None
    got = "nothing" if data is None else type(data).__name__
    raise ValueError(f"evaluate: got {got} to evaluate on, expected a split, or its part such as split.valid")


def map_to_model(model: TrainedModel | Recommender, held_out: HeldOut) -> tuple[HeldOut, list[int], list[str]]:
    """Return held-out queries in the codes of the model.

    Queries of which the model knows no target are left out. The row in ``held_out`` of each query, and messages about
    ids that the model does not know and inputs that the queries lack, are returned as well.

    Raises:
        ValueError: the data has none of the items of the model; or it has other items, and the ids are not known.
    """
    mapped, rows, messages = held_out, np.arange(len(held_out)), list[str]()
    if isinstance(model, TrainedModel):
        mapped, rows, messages = map_held_out(model, held_out)
    recommender = model.model if isinstance(model, TrainedModel) else model
    schema, key = recommender.schema, model.key if isinstance(model, TrainedModel) else type(model).__name__
    n_items = held_out.items and len(mapped.items or ())
    last = max(mapped.targets.items.max(initial=-1), mapped.queries.history.items.max(initial=-1))
    if (n_items is not None and n_items != schema.n_items) or last >= schema.n_items:
        raise ValueError(
            f"evaluate: the model has {schema.n_items:,} items and the data {max(n_items or 0, int(last) + 1):,}, "
            "expected the data that the model was trained on"
        )
    messages = [*messages, *describe_missing_inputs(recommender, key, mapped.queries)]
    return mapped, rows.tolist(), messages


def check_thresholds(thresholds: Mapping[str, int] | None) -> WarmthThresholds:
    """Return the thresholds of hot, warm and cold items and users.

    Raises:
        ValueError: an unknown name, or a value that is not a number of events.
    """
    names = [field.name for field in fields(WarmthThresholds)]
    for name in thresholds or {}:
        if name not in names:
            raise ValueError(f"thresholds: unknown '{name}'{suggest(name, names)}")
    return parse(EvaluationSettings, dict(thresholds or {}), "thresholds").thresholds


def check_metrics(
    metrics: Sequence[MetricLike] | MetricLike | None, ks: Sequence[int]
) -> tuple[Sequence[MetricLike], list[str]]:
    """Separate ranking metrics from errors and check their names.

    See :func:`split_metrics`.

    Raises:
        ValueError: an unknown metric, or a function with the name of another metric.
    """
    ranking, errors = split_metrics(metrics)
    names = {*metric_names(ranking, ks)}
    if taken := sorted(names & exported_functions(rating_metrics).keys()):
        raise ValueError(f"metrics: a function is named '{taken[0]}', which is a metric of Segue; give it another name")
    return ranking, errors


def check_list_inputs(
    metrics: Sequence[MetricLike] | MetricLike | None, ks: Sequence[int], held_out: HeldOut, train_data: Dataset
) -> None:
    """Check that a split has what metrics beyond accuracy need, before training.

    Raises:
        ValueError: one line per metric that cannot be computed.
    """
    listed = resolve_list_metrics(split_list_metrics(split_metrics(metrics)[0])[1], ks)
    check_list_metrics(listed, TrainingData.of(train_data), user_labels(held_out, train_data))


def _need(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'needs' if len(names) == 1 else 'need'}"


def split_metrics(metrics: Sequence[MetricLike] | MetricLike | None) -> tuple[Sequence[MetricLike], list[str]]:
    """Separate ranking metrics from errors of predicted ratings, such as ``rmse``."""
    if metrics is None:
        return DEFAULT_METRICS, []
    every, errors = _listed(metrics), exported_functions(rating_metrics)
    return [one for one in every if one not in errors], [one for one in every if one in errors]


def ordered_names(metrics: Sequence[MetricLike] | MetricLike | None, ks: Sequence[int]) -> list[str]:
    """Return the names of metrics at their cutoffs, in the order that is given."""
    if metrics is None:
        return metric_names(DEFAULT_METRICS, ks)
    errors = exported_functions(rating_metrics)
    columns = [[one] if one in errors else metric_names([one], ks) for one in _listed(metrics)]
    return list(dict.fromkeys(name for column in zip_longest(*columns) for name in column if name is not None))


def _listed(metrics: Sequence[MetricLike] | MetricLike) -> list[Any]:
    """Return the metrics of a list, or the only one."""
    is_single = (
        isinstance(metrics, str)
        or callable(metrics)
        or (isinstance(metrics, tuple) and callable(next(iter(metrics), None)))
    )
    if not is_single and not is_sequence(metrics):
        raise ValueError(f"metrics: got {describe_value(metrics)}, expected names such as 'ndcg@10', or functions")
    every: list[Any] = [metrics] if is_single else list(metrics)  # type: ignore[arg-type]
    for one in every:
        if not (isinstance(one, str | tuple | ranking_metrics.RankingMetric) or callable(one)):
            raise ValueError(f"metrics: got {describe_value(one)} in the list, expected a name or a function")
    if not every:
        raise ValueError("metrics: got none, expected names such as 'ndcg@10', or functions")
    return every


def user_labels(
    held_out: HeldOut, data: Dataset | None, rows: Sequence[int] | None = None
) -> Callable[[str], Sequence[str]]:
    """Return a function from a user feature to the label of each query.

    Args:
        rows: the queries that are evaluated; ``None``: all of them.
    """

    def label(by: str) -> Sequence[str]:
        found = group_labels(by, held_out, data)
        return found if rows is None else [found[row] for row in rows]

    return label


def group_labels(by: Any, held_out: HeldOut, data: Dataset | None) -> list[str]:
    """Return the label of each query's group."""
    if callable(by):
        by = by(held_out)
    if isinstance(by, Mapping) or (is_table(by) and len(getattr(by, "shape", (0, 0))) == 2):
        return _labels_by_user(by, held_out, data)
    if not isinstance(by, str):
        if not is_sequence(by):
            raise ValueError(
                f"by: got {describe_value(by)}, expected a user feature, 'history_length', labels, or a function"
            )
        labels = [str(label) for label in by]
        if len(labels) != len(held_out):
            raise ValueError(
                f"by: got {len(labels):,} labels for {len(held_out):,} queries, expected one per query, or labels by "
                "user id as a dict or a table with user_id"
            )
        return labels
    if by == "history_length":
        return _bin_labels(pl.Series(held_out.queries.history.lengths))
    features = None if data is None else data.user_features
    names = [] if features is None else [name for name in features.collect_schema().names() if name != "id"]
    if features is None or by not in names:
        hint = " (user features need a split)" if data is None else ""
        raise ValueError(f"by: unknown '{by}'{suggest(by, ['history_length', *names])}{hint}")
    column = features.select(by).collect()[by]
    if column.dtype.is_nested():
        raise ValueError(f"by: '{by}' holds several values per user, expected a feature with one")
    queries = held_out.queries
    values: pl.Series = column.gather(queries.users.astype(np.int64)).set(pl.Series(~queries.known), None)
    return _bin_labels(values)


def _labels_by_user(by: Any, held_out: HeldOut, data: Dataset | None) -> list[str]:
    """Return the label of each query's user.

    Labels come from a mapping or a table with ``user_id`` and one more column.
    """
    if data is None:
        raise ValueError("by: labels by user id need a split, which has the ids; got queries")
    if isinstance(by, Mapping):
        ids, labels = pl.Series(list(by), dtype=pl.Object), pl.Series(list(by.values()), strict=False)
    else:
        frame = to_frame(by)[1]
        others = [name for name in frame.columns if name != "user_id"]
        if "user_id" not in frame.columns or len(others) != 1:
            raise ValueError(
                f"by: got a table with columns {', '.join(frame.columns)}, expected user_id and one column of labels"
            )
        ids, labels = frame["user_id"], frame[others[0]]
    row_of = {id_text(one): row for row, one in enumerate(ids.to_list())}
    if len(row_of) < len(ids):
        raise ValueError(f"by: got {len(ids):,} rows for {len(row_of):,} users, expected one per user")
    queries = held_out.queries
    users = data.users.decode(queries.users)
    rows = [row_of.get(user) if known else None for user, known in zip(users, queries.known, strict=True)]
    if len(queries) and all(row is None for row in rows):
        raise ValueError(
            f"by: none of {len(row_of):,} user ids is that of a query; queries have ids such as '{users[0]}'"
        )
    return _bin_labels(labels.gather(pl.Series(rows, dtype=pl.Int64)))


def _bin_labels(values: pl.Series) -> list[str]:
    """Label each value by itself, or many different numbers by quartile."""
    if not values.dtype.is_numeric() or values.n_unique() <= MAX_GROUPS:
        return ["unknown" if value is None else str(value) for value in values.to_list()]
    numbers: NDArray[np.float64] = values.cast(pl.Float64).fill_null(np.nan).to_numpy()
    known = numbers[~np.isnan(numbers)]
    edges = np.unique(np.quantile(known, [0.25, 0.5, 0.75]))
    quartiles = np.searchsorted(edges, numbers, side="left")
    labels = []
    for quartile in range(len(edges) + 1):
        inside = known[np.searchsorted(edges, known, side="left") == quartile]
        labels.append(f"{inside.min():g} to {inside.max():g}" if len(inside) else "")
    return [
        "unknown" if np.isnan(number) else labels[at] for number, at in zip(numbers, quartiles.tolist(), strict=True)
    ]


def mean_values(result: EvaluationResult) -> dict[str, float]:
    """Return the mean of each metric, rounded for the record."""
    return {name: round(estimate.mean, 6) for name, estimate in result.estimates.items()}


def interval_values(result: EvaluationResult) -> dict[str, list[float]]:
    """Return the ends of each metric's 95 % interval, rounded for the record."""
    return {name: [round(e.low, 6), round(e.high, 6)] for name, e in result.estimates.items()}
