"""Compare a model with the strongest non-personalized baseline on held-out data.

For rankings the baselines are the most popular items and, in data with real times, the recently popular items. For
ratings it is the mean rating of the item plus the mean deviation of the user. At most :data:`MAX_QUERIES` queries are
compared, so the comparison costs little.

Shapes: T events, I items, U users, N queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from segue.core.model import LOWER_IS_BETTER, Recommender
from segue.core.types import Dataset, Events, HeldOut
from segue.evaluation.evaluate import make_validator
from segue.evaluation.metrics import MetricLike, resolve_metrics
from segue.evaluation.rating_metrics import PredictionErrors, mae, rmse

__all__ = [
    "RATING_MEANS",
    "BaselineComparison",
    "compare_with_baselines",
    "ranking_baselines",
    "rating_mean_errors",
    "repeat_share",
    "sample_queries",
]

MAX_QUERIES = 5_000
"""Maximum number of queries that a model and the baselines are compared on."""

RATING_MEANS = "item_and_user_means"
"""Name of the baseline of rating prediction."""

DAMPING = 5.0
"""Ratings of the global mean added to the mean of each item and each user."""

BaselineTrainer = Callable[[str], Recommender]
"""Trains the model with a given key on the training part."""


@dataclass(frozen=True)
class BaselineComparison:
    """The value of a model and of the strongest baseline by one metric."""

    metric: str
    value: float
    """Mean of the metric over the queries."""
    baseline: str
    """Key of the baseline."""
    baseline_value: float
    queries: int

    @property
    def is_below(self) -> bool:
        """Whether the model is worse than the baseline."""
        if self.metric in LOWER_IS_BETTER:
            return self.value > self.baseline_value
        return self.value < self.baseline_value

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.value:.4f} on {self.queries:,} validation queries, against "
            f"{self.baseline_value:.4f} of {self.baseline}, the strongest non-personalized baseline"
        )


def ranking_baselines(train: Dataset) -> tuple[str, ...]:
    """Return the keys of the simple baselines that rank items.

    Recent popularity is among them where the times of the events are real.
    """
    return ("popular", "recent_popular") if train.histories.time_known.any() else ("popular",)


def compare_with_baselines(
    model: Recommender,
    train: Dataset,
    held_out: HeldOut,
    metric: MetricLike,
    exclude_seen: bool,
    baselines: tuple[str, ...],
    fit: BaselineTrainer,
) -> BaselineComparison | None:
    """Compare ``model`` with the strongest of ``baselines`` by ``metric``.

    An error such as ``rmse`` is compared with that of :data:`RATING_MEANS`. Returns ``None`` without baselines or
    without queries.
    """
    sample = sample_queries(held_out)
    if not baselines or not sample.targets.size:
        return None
    name = metric if isinstance(metric, str) else resolve_metrics([metric], (10,))[0].name
    validate = make_validator(sample, metric, exclude_seen)
    value = validate(model)[name]
    if name in LOWER_IS_BETTER:
        errors = rating_mean_errors(train.histories, sample)
        mean = float(np.nanmean((rmse if name == "rmse" else mae)(errors)))
        return BaselineComparison(name, value, RATING_MEANS, mean, len(sample))
    values = {key: validate(fit(key))[name] for key in baselines}
    strongest = max(values, key=lambda key: values[key])
    return BaselineComparison(name, value, strongest, values[strongest], len(sample))


def sample_queries(held_out: HeldOut, count: int = MAX_QUERIES) -> HeldOut:
    """Take at most ``count`` queries, evenly spaced."""
    if len(held_out) <= count:
        return held_out
    rows = np.linspace(0, len(held_out) - 1, count).astype(np.int64)
    return replace(held_out, queries=held_out.queries.take(rows), targets=held_out.targets.take(rows))


def rating_mean_errors(train: Events, held_out: HeldOut) -> PredictionErrors:
    """Predict each rating by the damped means of its item and its user.

    The prediction is the global mean, plus the mean deviation of the item from it, plus the mean deviation of the user
    from both. An unknown user or item has no deviation.
    """
    true_values = held_out.targets.values
    assert train.values is not None
    assert true_values is not None
    is_rated = np.isfinite(train.values)
    items, users, values = train.items[is_rated], train.rows[is_rated], train.values[is_rated].astype(np.float64)
    targets = held_out.targets
    n_items = 1 + max(int(items.max(initial=0)), int(targets.items.max(initial=0)))
    n_users = 1 + max(len(train), int(held_out.queries.users.max(initial=0)))
    mean = float(values.mean())
    item_I = np.bincount(items, values - mean, n_items) / (np.bincount(items, minlength=n_items) + DAMPING)
    residuals = values - mean - item_I[items]
    user_U = np.bincount(users, residuals, n_users) / (np.bincount(users, minlength=n_users) + DAMPING)
    has_value = np.isfinite(true_values)
    rows = targets.rows[has_value]
    known = held_out.queries.known[rows]
    own = np.where(known, user_U[np.where(known, held_out.queries.users[rows], 0)], 0.0)
    predicted = mean + item_I[targets.items[has_value]] + own
    return PredictionErrors(rows, predicted - true_values[has_value], len(held_out))


def repeat_share(events: Events) -> float:
    """Return the share of events whose item occurs earlier in the history.

    The first event of each history does not count.
    """
    if not events.size:
        return 0.0
    pairs = events.rows * (1 + int(events.items.max())) + events.items
    n_first = int(np.count_nonzero(events.lengths))
    return (events.size - len(np.unique(pairs))) / max(events.size - n_first, 1)
