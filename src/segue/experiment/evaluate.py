"""Evaluate trained models, runs and given recommendation lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.config import apply_overrides, parse, suggest
from segue.core.files import read_json
from segue.core.messages import warn
from segue.core.model import Model, Predictor, Recommender
from segue.core.registry import exported_functions, model_class
from segue.core.run import Run
from segue.core.types import Dataset, HeldOut, Split
from segue.core.vocab import id_text
from segue.data.dataframes import is_table, to_frame
from segue.data.splits import split
from segue.evaluation import evaluate as evaluation
from segue.evaluation import metrics as ranking_metrics
from segue.evaluation import rating_metrics
from segue.evaluation.evaluate import DEFAULT_METRICS, EvaluationResult
from segue.evaluation.metrics import MetricLike, check_ks, resolve_metrics
from segue.evaluation.recommendation_files import SUFFIXES, read_recommendations
from segue.experiment.arguments import check_seed
from segue.experiment.data import load_data, load_run_data
from segue.experiment.paths import SETTINGS, bundle_folder, find_run
from segue.experiment.plan import Plan, make_plan, read_plan
from segue.experiment.run_folder import METRICS
from segue.experiment.settings import EvaluationSettings
from segue.training.train import Training, train

__all__ = [
    "GroupBy",
    "check_metrics",
    "evaluate",
    "evaluate_baseline",
    "evaluate_plan",
    "evaluate_run",
    "evaluate_saved",
    "interval_values",
    "mean_values",
    "split_metrics",
    "validate_metrics",
]

GroupBy: TypeAlias = "str | Sequence[str] | Mapping[Any, Any] | Callable[[HeldOut], Sequence[str]] | Any"
"""A user feature or ``history_length``, one label per query, or a function that returns these."""

LARGE_SHARE = 0.1
"""Share of queries of users other than those of training above which the evaluation warns."""

MAX_GROUPS = 10
"""Maximum number of distinct numbers that each form a group; more are grouped by quartiles."""


def evaluate(
    model: Any,
    data: Split | HeldOut | None = None,
    *,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    ks: Sequence[int] = (5, 10),
    by: GroupBy | None = None,
    exclude_seen: bool = True,
    seed: int = 0,
) -> EvaluationResult:
    """Evaluate a model, or recommendation lists from elsewhere, on held-out queries.

    Targets are ranked among the whole catalog; tied scores count at their expected rank.

    Args:
        model: a trained model; a run such as ``"latest"`` or a saved folder; or recommendation lists: a table (pandas,
            Polars, ...) or a file (Parquet, CSV, ...) with ``user_id``, ``item_id`` and ``rank`` or ``score``.
        data: a split, whose test part is used; or held-out queries such as ``split.valid``; ``None``: the split of the
            run.
        metrics: names such as ``"ndcg@10"`` or ``"rmse"``, and functions ``(ranks, k)`` that return one value per
            query, see :mod:`segue.evaluation.metrics`; ``None``: the default metrics, and errors of predicted ratings
            where the model predicts them.
        ks: list lengths for the metrics that are named without one.
        by: also evaluate per group: a user feature such as ``"age"``, ``"history_length"``, labels by user id (a dict,
            or a table with ``user_id`` and one column of labels), a list of one label per query, or a function of the
            held-out queries that returns one of these. Many different numbers are grouped by quartiles.
        exclude_seen: whether items of a user's history are removed from the ranking; given lists stay as they are.
        seed: seed of the bootstrap intervals.

    Returns:
        ``result["ndcg@10"]`` has ``mean``, ``low`` and ``high`` of the 95 % interval; ``result.table`` lists them all;
        ``result.values`` holds the values per query.

    Raises:
        ValueError: an unknown metric, data of another catalog, or no query with a true item.
    """
    ks, seed = check_ks(ks), check_seed(seed)
    ranking, errors = check_metrics(metrics, ks)
    lists, trained, run_split = _open_source(model)
    data = run_split if data is None else data
    held_out, train_data = _select_held_out(data)
    if lists is None:
        _check_ids(trained, held_out, train_data)
    groups = None if by is None else _group_labels(by, held_out, train_data)
    if lists is not None:
        if train_data is None:
            raise ValueError("evaluate: recommendation lists need a split, which has the ids; got queries")
        if errors:
            raise ValueError(f"metrics: {_need(errors)} predicted ratings, got recommendation lists")
        found = read_recommendations(lists, held_out.queries, train_data.users, train_data.items)
        return evaluation.evaluate_lists(found, held_out, ks, ranking, seed, groups)
    recommender = trained.model if isinstance(trained, TrainedModel) else trained
    if errors and not (isinstance(recommender, Predictor) and recommender.predicts_ratings):
        raise ValueError(
            f"metrics: {_need(errors)} a model that predicts ratings, {type(recommender).__name__} does not"
        )
    result = evaluation.evaluate(recommender, held_out, ks, ranking, exclude_seen, seed, groups=groups)
    if metrics is None:
        return result
    names = [metric.name for metric in resolve_metrics(ranking, ks)]
    if missing := [name for name in errors if name not in result]:
        raise ValueError(f"metrics: {_need(missing)} ratings to compare with, the held-out events have none")
    return result.select([*names, *errors])


def _open_source(source: Any) -> tuple[Path | pl.DataFrame | None, Any, Split | None]:
    """Return recommendation lists, or a model and, for a run, its split."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix in SUFFIXES:
            return path, None, None
        path = path.expanduser()
        if (path / "bundle.json").exists():
            return None, bundle.load(path), None
        run = find_run(path)
        return None, bundle.load(bundle_folder(run)), split(load_run_data(run), read_plan(run / SETTINGS).split)
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


def _check_ids(model: TrainedModel | Recommender, held_out: HeldOut, data: Dataset | None) -> None:
    """Check that the items of ``data`` are those of the model.

    Warn if the users are different.

    Raises:
        ValueError: the data has other items, or the same items in another order.
    """
    if data is None:
        return
    n_items = (model.model if isinstance(model, TrainedModel) else model).schema.n_items
    if n_items != data.n_items:
        raise ValueError(
            f"evaluate: the model has {n_items:,} items and the data {data.n_items:,}, expected the data that the "
            "model was trained on"
        )
    if not isinstance(model, TrainedModel):
        return
    if model.items is not data.items and not model.items.ids.equals(data.items.ids):
        raise ValueError(
            f"evaluate: the model and the data have {n_items:,} items each, but other ids or another order, expected "
            "the data that the model was trained on"
        )
    known = held_out.queries.users[held_out.queries.known].astype(np.int64)
    if model.users is data.users or not len(known):
        return
    inside = known[known < len(model.users)]
    same = int((model.users.ids.gather(inside) == data.users.ids.gather(inside)).sum())
    if len(known) - same > LARGE_SHARE * len(known):
        warn(
            f"evaluate: {len(known) - same:,} of {len(known):,} queries are of users other than those that the model "
            "was trained on; a model that learns one vector per user mistakes them for its own"
        )


def check_metrics(
    metrics: Sequence[MetricLike] | MetricLike | None, ks: Sequence[int]
) -> tuple[Sequence[MetricLike], list[str]]:
    """Separate ranking metrics from errors and check their names.

    See :func:`split_metrics`.

    Raises:
        ValueError: an unknown metric, or a function with the name of another metric.
    """
    ranking, errors = split_metrics(metrics)
    names = {metric.name for metric in resolve_metrics(ranking, ks)}
    if taken := sorted(names & exported_functions(rating_metrics).keys()):
        raise ValueError(f"metrics: a function is named '{taken[0]}', which is a metric of Segue; give it another name")
    return ranking, errors


def _need(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'needs' if len(names) == 1 else 'need'}"


def split_metrics(metrics: Sequence[MetricLike] | MetricLike | None) -> tuple[Sequence[MetricLike], list[str]]:
    """Separate ranking metrics from errors of predicted ratings, such as ``rmse``."""
    if metrics is None:
        return DEFAULT_METRICS, []
    is_single = isinstance(metrics, str) or callable(metrics) or (isinstance(metrics, tuple) and callable(metrics[0]))
    every: list[Any] = [metrics] if is_single else list(metrics)  # type: ignore[arg-type]
    if not every:
        raise ValueError("metrics: got none, expected names such as 'ndcg@10', or functions")
    errors = exported_functions(rating_metrics)
    return [one for one in every if one not in errors], [one for one in every if one in errors]


def _group_labels(by: Any, held_out: HeldOut, data: Dataset | None) -> list[str]:
    """Return the label of each query's group."""
    if callable(by):
        by = by(held_out)
    if isinstance(by, Mapping) or (is_table(by) and len(getattr(by, "shape", (0, 0))) == 2):
        return _labels_by_user(by, held_out, data)
    if not isinstance(by, str):
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


def validate_metrics(plan: Plan) -> list[str]:
    """Return the names of the plan's ranking metrics.

    Errors of predicted ratings are computed wherever possible, whether named or not.

    Raises:
        ValueError: unknown names, one line each.
    """
    known, errors = ranking_metrics.known_metrics(), exported_functions(rating_metrics)
    if unknown := [name for name in plan.evaluation.metrics if name.partition("@")[0] not in known | errors]:
        raise ValueError(
            "\n".join(f"evaluation.metrics: unknown '{name}'{suggest(name, known | errors)}" for name in unknown)
        )
    return [name for name in plan.evaluation.metrics if name not in errors]


def evaluate_plan(model: Model, held_out: HeldOut, plan: Plan, groups: Sequence[str] | None = None) -> EvaluationResult:
    """Evaluate a model as the plan's evaluation settings say."""
    settings = plan.evaluation
    return evaluation.evaluate(
        model,
        held_out,
        ks=settings.ks,
        metrics=validate_metrics(plan),
        exclude_seen=settings.exclude_seen,
        seed=plan.run.seed,
        sampled=settings.sampled,
        groups=groups,
    )


def evaluate_baseline(plan: Plan, parts: Split) -> dict[str, Any] | None:
    """Train the plan's baseline with default settings, and evaluate it.

    Returns ``None`` if there is no baseline or nothing is ranked.
    """
    key = plan.evaluation.baseline
    if key is None or key == plan.task.model or not validate_metrics(plan):
        return None
    validate = None
    model = train(key, model_class(key).Config(), Training(), parts.train, Run(plan.run.seed), validate)
    result = evaluate_plan(model, parts.test, plan)
    return {"model": key, **mean_values(result), "intervals": interval_values(result)}


def mean_values(result: EvaluationResult) -> dict[str, float]:
    """Return the mean of each metric, rounded for the record."""
    return {name: round(estimate.mean, 6) for name, estimate in result.estimates.items()}


def interval_values(result: EvaluationResult) -> dict[str, list[float]]:
    """Return the ends of each metric's 95 % interval, rounded for the record."""
    return {name: [round(e.low, 6), round(e.high, 6)] for name, e in result.estimates.items()}


@dataclass(frozen=True)
class RunEvaluation:
    """The result of :func:`evaluate_run`, and the record that is printed."""

    record: dict[str, Any]
    result: EvaluationResult


def evaluate_run(
    run: Path, part: str = "test", overrides: Iterable[str] = (), by: GroupBy | None = None
) -> RunEvaluation:
    """Evaluate the model of a run on the run's own split; the run stays unchanged.

    Args:
        part: ``test`` or ``valid``.
        overrides: of evaluation settings, such as ``ks=[1,20]``.
        by: group of each query, see :func:`segue.evaluate`.
    """
    if part not in ("test", "valid"):
        raise ValueError(f"part: got '{part}', expected test or valid")
    plan = read_plan(run / SETTINGS)
    changed = apply_overrides({"evaluation": EvaluationSettings}, overrides)["evaluation"]
    settings = parse(EvaluationSettings, {**plan.evaluation.model_dump(), **changed}, "evaluation")
    plan = replace(plan, evaluation=settings)
    validate_metrics(plan)
    trained = bundle.load(bundle_folder(run))
    parts = split(load_run_data(run), plan.split)
    return _evaluate_part(run.name, trained, parts, part, plan, by, read_json(run / METRICS)["warnings"])


def evaluate_saved(
    folder: Path, data: str, part: str = "test", overrides: Iterable[str] = (), by: GroupBy | None = None
) -> RunEvaluation:
    """Evaluate a saved model on a split of the data it was trained on.

    Args:
        data: the data that the model was trained on.
        overrides: of split and evaluation settings, such as ``split.strategy=random``.

    Raises:
        ValueError: the data has other items.
    """
    if part not in ("test", "valid"):
        raise ValueError(f"part: got '{part}', expected test or valid")
    trained = bundle.load(folder)
    plan = make_plan({"model": trained.key, "data": data}, overrides, "none")
    parts = split(load_data(plan), plan.split)
    if not parts.train.items.ids.equals(trained.items.ids):
        raise ValueError(f"{folder}: the items of {data} are not those that the model was trained on")
    return _evaluate_part(folder.resolve().name, trained, parts, part, plan, by, [])


def _evaluate_part(
    name: str, trained: TrainedModel, parts: Split, part: str, plan: Plan, by: GroupBy | None, warnings: list[str]
) -> RunEvaluation:
    held_out = parts.test if part == "test" else parts.valid
    groups = None if by is None else _group_labels(by, held_out, parts.train)
    result = evaluate_plan(trained.model, held_out, plan, groups)
    record = {
        "run": name,
        "model": trained.key,
        "data": plan.task.data,
        "part": part,
        **mean_values(result),
        "intervals": interval_values(result),
        "protocol": dict(result.metadata),
        "warnings": warnings,
    }
    if groups is not None:
        record["groups"] = {
            group: {
                "queries": result.group_sizes[group],
                **{name: [round(e.mean, 6), round(e.low, 6), round(e.high, 6)] for name, e in estimates.items()},
            }
            for group, estimates in result.group_estimates.items()
        }
    return RunEvaluation(record, result)
