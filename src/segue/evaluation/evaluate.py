"""How good a model is on questions with known answers: one value per query, then means with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Recommender, Validate
from segue.core.types import Events, HeldOut, Ranks, Recommendations
from segue.evaluation import metrics as registry
from segue.evaluation.intervals import Estimate, estimate
from segue.evaluation.ranking import distinct, rank, rank_lists

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
    """``(N,)`` per metric, one value per query; NaN where a query has no true item."""
    summary: Mapping[str, Estimate]
    """Means over the queries that count, with 95 % intervals."""
    facts: Mapping[str, Any]
    """The protocol and the counts: queries, targets, share of targets in the history, unknown users, ..."""
    top: Recommendations
    """The lists, as long as the largest k."""


def evaluate(
    model: Recommender,
    held_out: HeldOut,
    ks: Sequence[int] = (5, 10),
    metrics: Sequence[Metric] = METRICS,
    repeats: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Rank the whole catalogue for every query and measure.

    Args:
        repeats: whether items of the history stay in the ranking.
        seed: of the bootstrap; the same seed gives the same intervals.

    Raises:
        ValueError: no query has a true item, a k below 1, or scores that are not finite.
    """
    _check(ks)
    started = time.perf_counter()
    ranks = rank(model, held_out, max(ks), repeats)
    seconds = time.perf_counter() - started
    facts = {"candidates": "whole catalogue", "items": model.domain.n_items, "repeats": "keep" if repeats else "remove"}
    return _measured(ranks, held_out, ks, metrics, seed, facts | {"seconds": seconds})


def evaluate_lists(
    recommendations: Recommendations,
    held_out: HeldOut,
    ks: Sequence[int] = (5, 10),
    metrics: Sequence[Metric] = METRICS,
    seed: int = 0,
) -> Evaluation:
    """Measure lists that came from elsewhere, list n for query n; see :mod:`segue.evaluation.lists` to read them.

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

    Raises:
        ValueError: an unknown metric, or (when called) no query with a true item.
    """
    wanted, k = registry.named(metric)
    chosen = (wanted, *(other for other in METRICS if other is not wanted))

    def validate(model: Recommender) -> Mapping[str, float]:
        ranks = rank(model, held_out, k=0, repeats=repeats)
        counted = np.diff(ranks.offsets) > 0
        if not counted.any():
            raise ValueError(f"no query of {len(ranks)} has a true item: nothing to validate on")
        return {f"{function.__name__}@{k}": float(function(ranks, k)[counted].mean()) for function in chosen}

    return validate


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
) -> Evaluation:
    values = {f"{function.__name__}@{k}": function(ranks, k) for k in ks for function in metrics}
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
