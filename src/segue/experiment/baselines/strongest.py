"""Choose the strongest simple baseline on validation, and measure it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from segue.core.model import LOWER_IS_BETTER, is_lower_better
from segue.core.types import Dataset, HeldOut, Split
from segue.evaluation import evaluate as evaluation
from segue.evaluation import rating_metrics
from segue.evaluation.beyond_accuracy.list_metrics import split_list_metrics
from segue.evaluation.beyond_accuracy.training_data import TrainingData
from segue.evaluation.bootstrap import Estimate, estimate_values
from segue.evaluation.metrics import MetricLike, resolve_metrics
from segue.evaluation.ranking import ExcludeSeen
from segue.evaluation.rating_metrics import DEFAULT_ERRORS
from segue.evaluation.simple_baselines import (
    RATING_MEANS,
    rating_mean_errors,
    sample_queries,
    strongest_baseline,
)
from segue.evaluation.warmth import Warmth
from segue.experiment.evaluate import check_thresholds, split_metrics, user_labels
from segue.experiment.evaluate_run import evaluate_plan, named_errors
from segue.experiment.plan import Plan
from segue.experiment.protocols.arguments import RankingArguments
from segue.experiment.quality import baseline_keys, train_baseline

__all__ = ["MeasuredBaseline", "choose_baseline", "describe_baseline", "describe_weaker", "measure_baseline"]

Part = Literal["valid", "test"]


@dataclass(frozen=True, eq=False)
class MeasuredBaseline:
    """Metrics of a simple baseline."""

    name: str
    """Key of the model, or ``item_and_user_means``."""
    estimates: Mapping[str, Estimate]
    """Means over the queries with their 95 % intervals, by metric."""
    seconds: float
    """Time of training and evaluation."""
    metadata: Mapping[str, Any]
    """The protocol and counts of the evaluation; empty for predicted ratings."""

    def __str__(self) -> str:
        return "  ".join([self.name, *(f"{metric} {found}" for metric, found in self.estimates.items())])


def choose_baseline(
    parts: Split, metric: MetricLike, exclude_seen: ExcludeSeen, baseline: str = "auto", seed: int = 0
) -> str | None:
    """Return the name of the strongest simple baseline by ``metric`` on validation.

    A metric among sampled items is replaced by the same one among all items. Returns ``None`` without validation
    queries, or if no baseline has a value.

    Args:
        metric: a name of any metric, or a function.
        baseline: the setting ``evaluation.baseline``.
    """
    keys = baseline_keys(baseline, parts.train, exclude_seen)
    if isinstance(metric, str):
        metric = metric.removeprefix("sampled_")
        if split_list_metrics([metric])[1]:
            return _strongest_by_lists(parts, metric, exclude_seen, keys, seed)
        if "@" not in metric and metric not in LOWER_IS_BETTER:  # such as auc, which has no k
            metric = resolve_metrics([metric])[0]
    found = strongest_baseline(
        parts.train, parts.valid, metric, exclude_seen, keys, lambda key: train_baseline(key, parts.train, seed)
    )
    return None if found is None else found[0]


def _strongest_by_lists(
    parts: Split, metric: str, exclude_seen: ExcludeSeen, keys: Sequence[str], seed: int
) -> str | None:
    """Return the strongest baseline by a metric beyond accuracy.

    Those without a value are left out.
    """
    sample, training = sample_queries(parts.valid), TrainingData.of(parts.train)
    if not sample.targets.size:
        return None
    means: dict[str, float] = {}
    for key in keys:
        model, labels = train_baseline(key, parts.train, seed), user_labels(sample, parts.train)
        requested: dict[str, Any] = {"metrics": [metric], "exclude_seen": exclude_seen}
        with suppress(ValueError):  # no query has a value
            means[key] = evaluation.evaluate(model, sample, training=training, labels=labels, **requested)[metric].mean
    if not means:
        return None
    return (min if is_lower_better(metric) else max)(means, key=lambda key: means[key])


def measure_baseline(
    name: str,
    train: Dataset,
    held_out: HeldOut,
    requested: RankingArguments,
    *,
    thresholds: Mapping[str, int] | None = None,
    seed: int = 0,
) -> MeasuredBaseline:
    """Train a baseline and evaluate it on held-out queries.

    See :func:`segue.evaluate` for the arguments.
    """
    started = time.perf_counter()
    metadata: Mapping[str, Any] = {}
    ranking, errors = split_metrics(requested.metrics)
    items = requested.items
    if name == RATING_MEANS:
        estimates = _rating_estimates(train, held_out, errors, seed)
    else:
        training = TrainingData.of(train)
        result = evaluation.evaluate(
            train_baseline(name, train, seed),
            held_out,
            requested.ks,
            ranking,
            requested.exclude_seen,
            seed,
            warmth=None if items == "all" else Warmth(training.item_events, check_thresholds(thresholds)),
            items=items,
            sampled=requested.sampled,
            training=training,
            labels=user_labels(held_out, train),
        )
        estimates, metadata = dict(result.estimates), result.metadata
    return MeasuredBaseline(name, estimates, time.perf_counter() - started, metadata)


def _rating_estimates(train: Dataset, held_out: HeldOut, named: Sequence[str], seed: int) -> dict[str, Estimate]:
    errors, names = rating_mean_errors(train.histories, held_out), dict.fromkeys([*DEFAULT_ERRORS, *named])
    return estimate_values({name: getattr(rating_metrics, name)(errors) for name in names}, seed)


def describe_baseline(plan: Plan, parts: Split, name: str, part: Part) -> dict[str, Any]:
    """Evaluate a baseline as a plan says, and return the record of its metrics."""
    held_out = parts.test if part == "test" else parts.valid
    if name == RATING_MEANS:
        found = _rating_estimates(parts.train, held_out, named_errors(plan), plan.run.seed)
    else:
        model = train_baseline(name, parts.train, plan.run.seed)
        labels = user_labels(held_out, parts.train)
        found = dict(evaluate_plan(model, held_out, plan, TrainingData.of(parts.train), labels).estimates)
    return {
        "model": name,
        "part": part,
        **{metric: round(one.mean, 6) for metric, one in found.items()},
        "intervals": {metric: [round(one.low, 6), round(one.high, 6)] for metric, one in found.items()},
    }


def describe_weaker(means: Mapping[str, float], metric: str, name: str, value: float, part: str) -> list[str]:
    """Name the models below a baseline.

    No model is below it by a metric beyond accuracy: none of these is good by itself.

    Args:
        means: the mean of ``metric`` by model.
        name: name of the baseline, and ``value`` its mean.
    """
    if split_list_metrics([metric])[1]:
        return []
    sign = -1.0 if is_lower_better(metric) else 1.0
    return [
        f"{model} is below the strongest simple baseline: {metric} {mean:.4f} on the {part} part, against "
        f"{value:.4f} of {name}"
        for model, mean in means.items()
        if sign * mean < sign * value
    ]
