"""Compare a model with the strongest simple baseline on held-out data.

For rankings the baselines are the most popular items, the recently popular items in data with real times, the items
that followed the last one, the user's most frequent items where seen items are ranked, and EASE. For ratings it is the
mean rating of the item plus the mean deviation of the user. At most :data:`MAX_QUERIES` queries are compared and EASE
is left out for large data, so the comparison costs little.

Shapes: T events, I items, U users, N queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from segue.core.memory_check import REDUCE_ITEMS, check_memory
from segue.core.model import LOWER_IS_BETTER, Recommender
from segue.core.types import Dataset, Events, HeldOut
from segue.evaluation import rating_metrics
from segue.evaluation.evaluate import make_validator
from segue.evaluation.metrics import MetricLike, resolve_metrics
from segue.evaluation.ranking import ExcludeSeen, excludes_all_seen
from segue.evaluation.rating_metrics import PredictionErrors

__all__ = [
    "RANKING_BASELINES",
    "RATING_MEANS",
    "BaselineComparison",
    "compare_with_baselines",
    "ranking_baselines",
    "rating_mean_errors",
    "repeat_share",
    "sample_queries",
    "skipped_baselines",
    "strongest_baseline",
]

MAX_QUERIES = 5_000
"""Maximum number of queries that a model and the baselines are compared on."""

MAX_ITEMS = 5_000
"""Number of items up to which models are compared with EASE, whose time grows with its third power."""

MAX_PAIRS = 2 * 10**9
"""Pairs of events of the same user up to which models are compared with EASE, which counts them."""

RANKING_BASELINES = ("popular", "recent_popular", "transitions", "frequent", "ease")
"""Keys of the simple baselines that rank items."""

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
            f"{self.baseline_value:.4f} of {self.baseline}, the strongest simple baseline"
        )


def skipped_baselines(train: Dataset, exclude_seen: ExcludeSeen = True) -> dict[str, str]:
    """Return the ranking baselines that cannot be used, each with the reason."""
    skipped = {}
    if not train.histories.time_known.any():
        skipped["recent_popular"] = "the data has no real times"
    if excludes_all_seen(exclude_seen):
        skipped["frequent"] = "items of the user's history are excluded from the ranking"
    try:
        matrix = f"the weight matrix of {train.n_items:,} x {train.n_items:,} items"
        check_memory(matrix, train.n_items**2, REDUCE_ITEMS)
    except ValueError as error:
        skipped["ease"] = str(error)
    return skipped


def ranking_baselines(train: Dataset, exclude_seen: ExcludeSeen = True) -> tuple[str, ...]:
    """Return the keys of the simple baselines that models are compared with.

    Those of :func:`skipped_baselines` are left out, and EASE for more than :data:`MAX_ITEMS` items or
    :data:`MAX_PAIRS` pairs of events.
    """
    skipped = skipped_baselines(train, exclude_seen)
    pairs = np.square(train.histories.lengths, dtype=np.float64).sum()
    is_large = train.n_items > MAX_ITEMS or pairs > MAX_PAIRS
    return tuple(key for key in RANKING_BASELINES if key not in skipped and not (key == "ease" and is_large))


def compare_with_baselines(
    model: Recommender,
    train: Dataset,
    held_out: HeldOut,
    metric: MetricLike,
    exclude_seen: ExcludeSeen,
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
    value = make_validator(sample, metric, exclude_seen)(model)[name]
    found = strongest_baseline(train, sample, metric, exclude_seen, baselines, fit)
    assert found is not None
    return BaselineComparison(name, value, *found, len(sample))


def strongest_baseline(
    train: Dataset,
    held_out: HeldOut,
    metric: MetricLike,
    exclude_seen: ExcludeSeen,
    baselines: tuple[str, ...],
    fit: BaselineTrainer,
) -> tuple[str, float] | None:
    """Return the strongest of ``baselines`` by ``metric``, and its value.

    For an error such as ``rmse`` it is :data:`RATING_MEANS`. Returns ``None`` without baselines or without queries.
    """
    sample = sample_queries(held_out)
    if not baselines or not sample.targets.size:
        return None
    if isinstance(metric, str) and metric in LOWER_IS_BETTER:
        errors = rating_mean_errors(train.histories, sample)
        return RATING_MEANS, float(np.nanmean(getattr(rating_metrics, metric)(errors)))
    name = metric if isinstance(metric, str) else resolve_metrics([metric], (10,))[0].name
    validate = make_validator(sample, metric, exclude_seen)
    values = {key: validate(fit(key))[name] for key in baselines}
    strongest = max(values, key=lambda key: values[key])
    return strongest, values[strongest]


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
    return PredictionErrors(rows, targets.items[has_value], predicted - true_values[has_value], len(held_out))


def repeat_share(events: Events) -> float:
    """Return the share of events whose item occurs earlier in the history.

    The first event of each history does not count.
    """
    if not events.size:
        return 0.0
    pairs = events.rows * (1 + int(events.items.max())) + events.items
    n_first = int(np.count_nonzero(events.lengths))
    return (events.size - len(np.unique(pairs))) / max(events.size - n_first, 1)
