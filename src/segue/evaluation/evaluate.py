"""How good a model is on questions with known answers: one value per query, then means with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.model import LESS_IS_BETTER, Predictor, Recommender, Validate
from segue.core.registry import functions
from segue.core.types import Events, HeldOut, Ranks, Recommendations
from segue.evaluation import metrics as registry
from segue.evaluation import rating_metrics
from segue.evaluation.bootstrap import Estimate, estimate
from segue.evaluation.ranking import distinct, rank, rank_lists
from segue.evaluation.sampled import rank_sampled

__all__ = ["METRICS", "Evaluation", "evaluate", "evaluate_lists", "validator"]

Metric = Callable[[Ranks, int], NDArray[np.float64]]

METRICS: tuple[Metric, ...] = (
    registry.recall,
    registry.precision,
    registry.hit_rate,
    registry.mrr,
    registry.ndcg,
)
"""What is reported unless asked otherwise."""

BLOCK_TICKS = 4_000_000


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out, by names such as ``ndcg@10``."""

    values: Mapping[str, NDArray[np.float64]]
    """``(N,)`` per metric, one value per query; NaN where a query has no true item, or for errors no true value."""
    summary: Mapping[str, Estimate]
    """Means over the queries that count, with 95 % intervals."""
    facts: Mapping[str, Any]
    """The protocol and the counts: queries, targets, share of targets in the history, unknown users, ..."""
    top: Recommendations
    """The lists, as long as the largest k; none where nothing was ranked."""


def evaluate(
    model: Recommender,
    held_out: HeldOut,
    ks: Sequence[int] = (5, 10),
    metrics: Sequence[Metric] = METRICS,
    repeats: bool = False,
    seed: int = 0,
    sampled: int | None = None,
) -> Evaluation:
    """Rank the whole catalogue for every query and measure; the errors of predicted values too, where both exist.

    Args:
        metrics: of the ranking; without any, nothing is ranked, and a model that predicts values is measured by errors.
        repeats: whether items of the history stay in the ranking.
        seed: of the bootstrap; the same seed gives the same intervals.
        sampled: measure each target among so many drawn items too; these metrics are called ``sampled_...``.

    Raises:
        ValueError: no query has a true item, a k below 1, scores that are not finite, or nothing to measure.
    """
    started = time.perf_counter()
    parts = []
    if metrics:
        _check(ks)
        ranks = rank(model, held_out, max(ks), repeats)
        kept = "keep" if repeats else "remove"
        facts = {"candidates": "whole catalogue", "items": model.domain.n_items, "repeats": kept}
        parts.append(_measured(ranks, held_out, ks, metrics, seed, facts))
        if sampled is not None:
            among = rank_sampled(model, held_out, sampled, seed)
            told = {"sampled_candidates": sampled}
            parts.append(_measured(among, held_out, ks, metrics, seed, told, "sampled_"))
    if isinstance(model, Predictor) and model.predicts and (not metrics or _valued(held_out)):
        parts.append(_errors(model, held_out, seed))
    if not parts:
        raise ValueError(
            f"metrics: none of a ranking, and {type(model).__name__} predicts no values: nothing to measure"
        )
    measured = _joined(parts)
    return replace(measured, facts={**measured.facts, "seconds": time.perf_counter() - started})


def evaluate_lists(
    recommendations: Recommendations,
    held_out: HeldOut,
    ks: Sequence[int] = (5, 10),
    metrics: Sequence[Metric] = METRICS,
    seed: int = 0,
) -> Evaluation:
    """Measure lists that came from elsewhere, list n for query n; see :mod:`segue.evaluation.recommendation_files` to read them.

    Raises:
        ValueError: as :func:`evaluate`, another number of lists, an item twice in a list, or a k above their length.
    """
    _check(ks)
    width = recommendations.items.shape[1]
    if max(ks) > width:
        raise ValueError(f"k: got {max(ks)}, but the longest list has {width} places")
    ranks = rank_lists(recommendations, held_out.targets)
    return _measured(ranks, held_out, ks, metrics, seed, {"candidates": "lists from elsewhere"})


def validator(held_out: HeldOut, metric: str = "ndcg@10", repeats: bool = False) -> Validate:
    """A function for the training loop: the mean of ``metric``, and of the usual metrics at its k, of a model.

    For an error such as ``rmse`` the model predicts the values, and nothing is ranked.

    Raises:
        ValueError: an unknown metric, or (when called) no query with a true item, or a model that cannot be asked.
    """
    if metric in LESS_IS_BETTER:
        return lambda model: _mean_errors(model, held_out)
    wanted, k = registry.named(metric)
    chosen = (wanted, *(other for other in METRICS if other is not wanted))

    def validate(model: Recommender) -> Mapping[str, float]:
        ranks = rank(model, held_out, k=0, repeats=repeats)
        counted = np.diff(ranks.offsets) > 0
        if not counted.any():
            raise ValueError(f"no query of {len(ranks)} has a true item: nothing to validate on")
        return {f"{function.__name__}@{k}": float(function(ranks, k)[counted].mean()) for function in chosen}

    return validate


def _mean_errors(model: Recommender, held_out: HeldOut) -> Mapping[str, float]:
    if not (isinstance(model, Predictor) and model.predicts):
        raise ValueError(f"{type(model).__name__} predicts no values, so that no error can choose its best state")
    found = rating_metrics.errors(model, held_out)
    return {name: float(np.nanmean(function(found))) for name, function in functions(rating_metrics).items()}


def _valued(held_out: HeldOut) -> bool:
    values = held_out.targets.values
    return values is not None and bool(np.isfinite(values).any())


def _errors(model: Predictor, held_out: HeldOut, seed: int) -> Evaluation:
    found = rating_metrics.errors(model, held_out)
    values = {name: function(found) for name, function in functions(rating_metrics).items()}
    intervals = estimate(np.column_stack(list(values.values())), seed)
    facts = {
        "queries": len(held_out),
        "predicted_values": len(found.errors),
        "unknown_users": int((~held_out.queries.known).sum()),
        "time_told": held_out.queries.times is not None,
        "seed": seed,
    }
    nothing = Recommendations.joined([], 1)
    return Evaluation(values, dict(zip(values, intervals, strict=True)), facts, nothing)


def _joined(parts: Sequence[Evaluation]) -> Evaluation:
    """What was measured in several ways, the first one's lists."""
    first, *others = parts
    for part in others:
        values, summary = {**first.values, **part.values}, {**first.summary, **part.summary}
        first = Evaluation(values, summary, {**part.facts, **first.facts}, first.top)
    return first


def _check(ks: Sequence[int]) -> None:
    if not ks or min(ks) < 1:
        raise ValueError(f"ks: got {tuple(ks)}, expected numbers of at least 1")


def _measured(
    ranks: Ranks,
    held_out: HeldOut,
    ks: Sequence[int],
    metrics: Sequence[Metric],
    seed: int,
    facts: Mapping[str, Any],
    called: str = "",
) -> Evaluation:
    values = {f"{called}{function.__name__}@{k}": function(ranks, k) for k in ks for function in metrics}
    intervals = estimate(np.column_stack(list(values.values())), seed)
    counts = _counts(ranks, held_out)
    return Evaluation(values, dict(zip(values, intervals, strict=True)), {**facts, **counts, "seed": seed}, ranks.top)


def _counts(ranks: Ranks, held_out: HeldOut) -> dict[str, Any]:
    queries, targets = held_out.queries, distinct(held_out.targets)
    return {
        "queries": len(ranks),
        "queries_without_target": int((np.diff(ranks.offsets) == 0).sum()),
        "targets": targets.size,
        "targets_listed_twice": held_out.targets.size - targets.size,
        "share_of_targets_in_history": _in_history(queries.history, targets) / max(targets.size, 1),
        "unknown_users": int((~queries.known).sum()),
        "empty_histories": int((queries.history.lengths == 0).sum()),
        "time_told": queries.times is not None,
    }


def _in_history(history: Events, targets: Events) -> int:
    """Targets that stand in their query's history, by ticking off a table of queries and items, block by block."""
    width = 1 + max(int(history.items.max(initial=0)), int(targets.items.max(initial=0)))
    step = max(1, BLOCK_TICKS // width)
    found = 0
    for start in range(0, len(targets), step):
        before, truth = history.block(start, start + step), targets.block(start, start + step)
        ticked = np.zeros((len(before), width), np.bool_)
        ticked[before.rows, before.items] = True
        found += int(ticked[truth.rows, truth.items].sum())
    return found
