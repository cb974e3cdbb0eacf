"""Evaluate a model on held-out queries.

Every metric has one value per query; means and confidence intervals come after.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Predictor, Recommender, Validate
from segue.core.types import Events, HeldOut, Mask, Ranks, Recommendations
from segue.evaluation import metrics as ranking_metrics
from segue.evaluation import rating_metrics
from segue.evaluation.beyond_accuracy.list_metrics import (
    ListMetric,
    check_list_metrics,
    resolve_list_metrics,
    split_list_metrics,
)
from segue.evaluation.beyond_accuracy.lists import Lists
from segue.evaluation.beyond_accuracy.training_data import TrainingData
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.evaluation_result import EvaluationResult, merge_results
from segue.evaluation.metrics import MetricLike, RankingMetric, resolve_metrics
from segue.evaluation.ranking import (
    ExcludeSeen,
    deduplicate,
    excludes_all_seen,
    rank,
    rank_lists,
    removed_events,
)
from segue.evaluation.rating_metrics import DEFAULT_ERRORS, PredictionErrors, prediction_errors
from segue.evaluation.sampled import rank_sampled
from segue.evaluation.warmth import (
    ItemSelection,
    Warmth,
    group_values,
    select_candidates,
    select_targets,
)

__all__ = ["DEFAULT_METRICS", "EvaluationResult", "evaluate", "evaluate_lists", "make_validator"]

DEFAULT_METRICS: tuple[MetricLike, ...] = (
    ranking_metrics.recall,
    ranking_metrics.precision,
    ranking_metrics.hit_rate,
    ranking_metrics.mrr,
    ranking_metrics.ndcg,
)
"""The ranking metrics that are computed by default."""

BLOCK_CELLS = 32_000_000
"""Cells of the query-item table in memory at once: 32 MB."""


def evaluate(
    model: Recommender,
    held_out: HeldOut,
    ks: Sequence[int] = (5, 10),
    metrics: Sequence[MetricLike] = DEFAULT_METRICS,
    exclude_seen: ExcludeSeen = True,
    seed: int = 0,
    sampled: int | None = None,
    groups: Sequence[str] | None = None,
    warmth: Warmth | None = None,
    items: ItemSelection = "all",
    errors: Sequence[str] = (),
    training: TrainingData | None = None,
    labels: Callable[[str], Sequence[str]] | None = None,
) -> EvaluationResult:
    """Rank the whole catalog for every query and compute metrics.

    The errors ``rmse`` and ``mae`` are computed wherever the model predicts values and targets have them.

    Args:
        ks: cutoffs of the metrics that are named without one.
        metrics: ranking metrics, see :func:`segue.evaluation.metrics.resolve_metrics`, and names of metrics beyond
            accuracy, see :mod:`segue.evaluation.beyond_accuracy.list_metrics`; without any, nothing is ranked.
        exclude_seen: whether items of the history are removed from the ranking, or the number of its newest events
            whose items are.
        seed: seed of the bootstrap and of sampled candidates; the same seed gives the same result.
        sampled: also rank each target among so many sampled items; these metrics are named ``sampled_...``.
        groups: ``(N,)`` label of each query; metrics are computed per label too.
        warmth: training events of each item; metrics are computed for hot, warm and cold items and users too.
        items: which items are ranked: ``all``; ``warm``, those with training events; or ``cold``, those without. Other
            targets are left out.
        errors: further metrics of :mod:`segue.evaluation.rating_metrics`, such as ``rmse_by_user``.
        training: training events and item features, in the codes of the model, which metrics beyond accuracy need.
        labels: returns the ``(N,)`` labels of the users by a user feature, for the gap between groups of users.

    Raises:
        ValueError: no query has a true item, a k below 1, scores that are not finite, nothing to compute, or a metric
            that needs what the data lacks.
    """
    started = time.perf_counter()
    if groups is not None and len(groups) != len(held_out):
        raise ValueError(f"groups: got {len(groups)} labels for {len(held_out)} queries, expected one per query")
    candidates = (warmth or Warmth()).candidates(items)
    held_out, left_out = select_candidates(held_out, candidates, items)
    grouping = _Grouping(held_out, groups, warmth)
    results = []
    if metrics:
        resolved, listed = _resolve(metrics, ks, training, labels)
        ranks = rank(model, held_out, _longest([*resolved, *listed], ks), exclude_seen, candidates)
        metadata = _describe_candidates(model.schema.n_items, candidates, items, left_out)
        metadata |= _describe_removed(held_out, exclude_seen)
        results.append(_summarize_ranks(ranks, grouping, resolved, seed, metadata))
        if listed and training is not None:
            lists = replace(Lists.of(ranks.top, held_out, training), candidates=candidates, labels=labels)
            results[-1] = _add_list_metrics(results[-1], lists, ranks, listed, groups, seed)
        if sampled is not None:
            sampled_ranks = rank_sampled(model, held_out, sampled, seed, candidates, exclude_seen)
            metadata = {"sampled_candidates": sampled}
            results.append(_summarize_ranks(sampled_ranks, grouping, resolved, seed, metadata, "sampled_"))
    if isinstance(model, Predictor) and model.predicts_ratings and (not metrics or _has_values(held_out)):
        names = tuple(dict.fromkeys([*DEFAULT_ERRORS, *errors]))
        results.append(_summarize_errors(prediction_errors(model, held_out), names, grouping, seed))
    if not results:
        raise ValueError(
            f"metrics: got no ranking metric, and {type(model).__name__} predicts no ratings; name one such as 'ndcg'"
        )
    result = merge_results(results)
    return replace(result, metadata={**result.metadata, "seconds": time.perf_counter() - started})


def evaluate_lists(
    recommendations: Recommendations,
    held_out: HeldOut,
    ks: Sequence[int] = (5, 10),
    metrics: Sequence[MetricLike] = DEFAULT_METRICS,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    warmth: Warmth | None = None,
    training: TrainingData | None = None,
    labels: Callable[[str], Sequence[str]] | None = None,
) -> EvaluationResult:
    """Evaluate given recommendation lists, list n for query n.

    :mod:`segue.evaluation.recommendation_files` reads such lists.

    Raises:
        ValueError: as :func:`evaluate`, another number of lists, an item twice in a list, or a k above their length.
    """
    resolved, listed = _resolve(metrics, ks, training, labels)
    longest, width = _longest([*resolved, *listed], ks), recommendations.items.shape[1]
    if longest > width:
        raise ValueError(f"k: got {longest}, expected at most {width}, the length of the longest list")
    ranks = rank_lists(recommendations, held_out.targets)
    grouping = _Grouping(held_out, groups, warmth)
    result = _summarize_ranks(ranks, grouping, resolved, seed, {"candidates": "given lists"})
    if not listed or training is None:
        return result
    lists = replace(Lists.of(recommendations, held_out, training), labels=labels)
    return _add_list_metrics(result, lists, ranks, listed, groups, seed)


def make_validator(held_out: HeldOut, metric: MetricLike = "ndcg@10", exclude_seen: ExcludeSeen = True) -> Validate:
    """Build the function that computes validation metrics of a model during training.

    It returns the mean of ``metric``, and of the default metrics at its k. For an error such as ``rmse`` the model
    predicts the values, and nothing is ranked.

    Args:
        metric: a name such as ``ndcg@10``, or a function of ranks and k, which counts more as better.

    Raises:
        ValueError: an unknown metric, or (when called) no query with a true item, or a model that predicts no ratings.
    """
    if isinstance(metric, str) and metric in rating_metrics.__all__:
        return lambda model: _mean_errors(model, held_out, metric)
    if isinstance(metric, str):
        ranking_metrics.parse_metric(metric)  # a validation metric needs its k
    chosen = resolve_metrics([metric], (10,))[0]
    if isinstance(metric, str):  # the caller looks it up by the name that was given
        chosen = replace(chosen, name=metric)
    return _Validator(held_out, resolve_metrics([chosen, *DEFAULT_METRICS], (chosen.k or 10,)), exclude_seen)


@dataclass(frozen=True, eq=False)
class _Validator:
    """Computes validation metrics of a model.

    Models that learn from validation read ``held_out``.
    """

    held_out: HeldOut
    metrics: Sequence[RankingMetric]
    exclude_seen: ExcludeSeen

    def __call__(self, model: Recommender) -> Mapping[str, float]:
        ranks = rank(model, self.held_out, k=0, exclude_seen=self.exclude_seen)
        has_target = np.diff(ranks.offsets) > 0
        if not has_target.any():
            raise ValueError(f"no validation query has a true item, of {len(ranks)}; expected at least one")
        return {metric.name: float(metric(ranks)[has_target].mean()) for metric in self.metrics}


def _mean_errors(model: Recommender, held_out: HeldOut, metric: str) -> Mapping[str, float]:
    if not (isinstance(model, Predictor) and model.predicts_ratings):
        raise ValueError(
            f"{type(model).__name__} predicts no ratings, so its best state cannot be chosen by an error; choose a "
            "ranking metric such as ndcg@10"
        )
    errors = prediction_errors(model, held_out)
    names = dict.fromkeys([*DEFAULT_ERRORS, metric])
    return {name: float(np.nanmean(getattr(rating_metrics, name)(errors))) for name in names}


def _has_values(held_out: HeldOut) -> bool:
    values = held_out.targets.values
    return values is not None and bool(np.isfinite(values).any())


def _resolve(
    metrics: Sequence[MetricLike],
    ks: Sequence[int],
    training: TrainingData | None,
    labels: Callable[[str], Sequence[str]] | None,
) -> tuple[list[RankingMetric], list[ListMetric]]:
    """Return the ranking metrics and those beyond accuracy, which the data must allow."""
    ranking, names = split_list_metrics(metrics)
    resolved, listed = resolve_metrics(ranking, ks), resolve_list_metrics(names, ks)
    check_list_metrics(listed, training, labels)
    return resolved, listed


def _longest(metrics: Sequence[RankingMetric | ListMetric], ks: Sequence[int]) -> int:
    """Return the largest cutoff; that of ``ks`` where no metric has one."""
    return max((metric.k for metric in metrics if metric.k is not None), default=max(ks))


def _describe_candidates(n_items: int, candidates: Mask | None, items: ItemSelection, left_out: int) -> dict[str, Any]:
    if candidates is None:
        return {"candidates": "whole catalog", "items": n_items}
    return {"candidates": f"{items} items", "items": int(candidates.sum()), "targets_outside_candidates": left_out}


def _describe_removed(held_out: HeldOut, exclude_seen: ExcludeSeen) -> dict[str, Any]:
    """Describe which items of the history are removed.

    The share of the targets among them is added where only a part of the history is removed.
    """
    if not exclude_seen or excludes_all_seen(exclude_seen):
        return {"exclude_seen": exclude_seen}
    targets = deduplicate(held_out.targets)
    count = _count_in_history(removed_events(held_out.queries.history, exclude_seen), targets)
    return {"exclude_seen": exclude_seen, "share_of_targets_removed": count / max(targets.size, 1)}


@dataclass(frozen=True, eq=False)
class _Grouping:
    """Held-out queries, and the groups for which metrics are computed too."""

    held_out: HeldOut
    groups: Sequence[str] | None
    """``(N,)`` labels of the queries."""
    warmth: Warmth | None


def _summarize_ranks(
    ranks: Ranks,
    grouping: _Grouping,
    metrics: Sequence[RankingMetric],
    seed: int,
    metadata: Mapping[str, Any],
    prefix: str = "",
) -> EvaluationResult:
    held_out, groups = grouping.held_out, grouping.groups

    def compute(some: Ranks) -> dict[str, NDArray[np.float64]]:
        return {f"{prefix}{metric.name}": metric(some) for metric in metrics}

    values = compute(ranks)
    targets = deduplicate(held_out.targets)
    distinct = held_out if targets is held_out.targets else replace(held_out, targets=targets)
    warmth = group_values(grouping.warmth, distinct, lambda keep: compute(select_targets(ranks, keep)))
    counts = _count_queries(ranks, held_out, targets)
    has_target, sizes = np.diff(ranks.offsets) > 0, {}
    by_group = {}
    for group, mask in _masks(groups).items():
        sizes[group] = int(np.count_nonzero(mask & has_target))
        part = {name: column[mask] for name, column in values.items()}
        by_group[group] = estimate_values(
            {name: column for name, column in part.items() if not np.isnan(column).all()}, seed
        )
    return EvaluationResult(
        values,
        estimate_values(values, seed),
        {**metadata, **counts, "seed": seed},
        ranks.top,
        by_group,
        sizes,
        warmth,
    )


def _add_list_metrics(
    result: EvaluationResult,
    lists: Lists,
    ranks: Ranks,
    metrics: Sequence[ListMetric],
    groups: Sequence[str] | None,
    seed: int,
) -> EvaluationResult:
    """Add metrics beyond accuracy to the result of a ranking.

    Of hot, warm and cold items and users only the users get them: a list is not that of an item.
    """
    width = max(metric.k for metric in metrics)
    lists = replace(lists, items=lists.items[:, :width], is_used=lists.is_used[:, :width])
    lists = replace(lists, accuracy=lambda name: resolve_metrics([name])[0](ranks))
    values = {metric.name: metric(lists) for metric in metrics}
    grouped = [metric for metric in metrics if metric.has_groups]

    def select(rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        return {one.name: one.select_values(lists, values[one.name], rows) for one in grouped}

    by_group = {}
    for group, mask in _masks(groups).items():
        part = select(np.flatnonzero(mask))
        known = {name: column for name, column in part.items() if not np.isnan(column).all()}
        by_group[group] = estimate_values(known, seed)
    warmth = tuple(
        replace(group, values={**group.values, **select(group.rows)}) if group.name.endswith(" users") else group
        for group in result.warmth
    )
    return replace(
        result,
        values={**result.values, **values},
        estimates={**result.estimates, **estimate_values(values, seed)},
        group_estimates={group: {**found, **by_group[group]} for group, found in result.group_estimates.items()},
        warmth=warmth,
    )


def _summarize_errors(
    errors: PredictionErrors, names: Sequence[str], grouping: _Grouping, seed: int
) -> EvaluationResult:
    held_out, groups = grouping.held_out, grouping.groups
    metrics = {name: getattr(rating_metrics, name) for name in names}
    values = {name: function(errors) for name, function in metrics.items()}
    has_value = np.isfinite(np.asarray(held_out.targets.values))

    def compute(keep: Mask) -> dict[str, NDArray[np.float64]]:
        part = errors.select_targets(keep[has_value])
        return {name: function(part) for name, function in metrics.items()} if len(part.rows) else {}

    warmth = group_values(grouping.warmth, held_out, compute)
    by_group = {}
    for group, mask in _masks(groups).items():
        part = errors.select(mask)
        if len(part.errors):
            by_group[group] = estimate_values({name: function(part) for name, function in metrics.items()}, seed)
    metadata = {
        "queries": len(held_out),
        "predicted_values": len(errors.errors),
        "unknown_users": int((~held_out.queries.known).sum()),
        "has_query_times": held_out.queries.times is not None,
        "has_query_context": bool(held_out.queries.context),
        "seed": seed,
    }
    return EvaluationResult(
        values,
        estimate_values(values, seed),
        metadata,
        Recommendations.concat([], 1),
        by_group,
        _sizes(groups),
        warmth,
    )


def _masks(groups: Sequence[str] | None) -> dict[str, NDArray[np.bool_]]:
    """Return a mask of queries per label, in the order of :func:`_sizes`."""
    labels = np.asarray([] if groups is None else groups, object)
    return {group: np.asarray(labels == group, np.bool_) for group in _sizes(groups)}


def _sizes(groups: Sequence[str] | None) -> dict[str, int]:
    """Count the queries of each label.

    Labels that begin with a number come first, in numeric order, then the others in order of text.
    """
    counts = Counter(() if groups is None else groups)
    return {label: counts[label] for label in sorted(counts, key=_natural_order)}


def _natural_order(label: str) -> tuple[float, str]:
    number = re.match(r"-?\d+(\.\d+)?", label)
    return (float(number[0]) if number else np.inf, label)


def _count_queries(ranks: Ranks, held_out: HeldOut, targets: Events) -> dict[str, Any]:
    queries = held_out.queries
    return {
        "queries": len(ranks),
        "queries_without_target": int((np.diff(ranks.offsets) == 0).sum()),
        "targets": targets.size,
        "duplicate_targets": held_out.targets.size - targets.size,
        "share_of_targets_in_history": _count_in_history(queries.history, targets) / max(targets.size, 1),
        "unknown_users": int((~queries.known).sum()),
        "empty_histories": int((queries.history.lengths == 0).sum()),
        "has_query_times": queries.times is not None,
        "has_query_context": bool(queries.context),
    }


def _count_in_history(history: Events, targets: Events) -> int:
    """Count the targets that are in their query's history.

    A table of queries and items is marked and cleared again, block by block: only the cells of events are touched.
    """
    if history.size == 0:
        return 0
    width = 1 + max(int(history.items.max(initial=0)), int(targets.items.max(initial=0)))
    step = max(1, BLOCK_CELLS // width)
    is_seen = np.zeros(step * width, np.bool_)
    found = 0
    for start in range(0, len(targets), step):
        before, truth = history.rows_between(start, start + step), targets.rows_between(start, start + step)
        cells = before.rows * width + before.items
        is_seen[cells] = True
        found += int(np.count_nonzero(is_seen[truth.rows * width + truth.items]))
        is_seen[cells] = False
    return found
