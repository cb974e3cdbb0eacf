"""Metrics beyond accuracy by name: ``novelty@10``, ``diversity:genres@10``, ...

A name is the key of a function, an argument after ``:`` where the function takes one, and a cutoff k.

Shapes: N queries.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

import numpy as np

from segue.core.registry import exported_functions
from segue.evaluation.beyond_accuracy import calibration, diversity, exposure, fairness, popularity
from segue.evaluation.beyond_accuracy.lists import Lists, Values
from segue.evaluation.beyond_accuracy.training_data import TrainingData
from segue.evaluation.metrics import MetricLike, check_ks, parse_metric, resolve_metrics

__all__ = [
    "ListMetric",
    "align_missing",
    "check_list_metrics",
    "known_list_metrics",
    "metric_names",
    "resolve_list_metrics",
    "split_list_metrics",
    "value_range",
]

AGGREGATES = frozenset({"coverage", "gini", "entropy"})
"""Metrics of all lists together: that of a group of queries is computed from the lists of the group."""

UNBOUNDED_ABOVE = frozenset({"novelty", "popularity", "miscalibration", "entropy"})
"""Metrics from 0 that have no fixed upper bound."""


@dataclass(frozen=True)
class ListMetric:
    """A metric beyond accuracy at a cutoff."""

    key: str
    """Name of the function, such as ``diversity``."""
    argument: str | None
    """Such as the item feature ``genres``."""
    k: int

    @property
    def name(self) -> str:
        """Such as ``diversity:genres@10``."""
        return f"{self.key}{'' if self.argument is None else f':{self.argument}'}@{self.k}"

    @property
    def has_groups(self) -> bool:
        """Whether the metric is computed for groups of queries, too.

        The gap is a difference between such groups.
        """
        return self.key != "gap"

    def __call__(self, lists: Lists) -> Values:
        """Compute the ``(N,)`` values of the metric; NaN where a query has none.

        Raises:
            ValueError: the data lacks what the metric needs, or no query has a value.
        """
        function, argument = known_list_metrics()[self.key], self.argument
        if self.key == "gap":
            argument = f"{argument}@{self.k}"
        try:
            values: Values = function(lists.cut(self.k), *([] if argument is None else [argument]))
        except ValueError as error:
            raise ValueError(f"metric {self.name}: {error}") from None
        if np.isnan(values).all():
            raise ValueError(
                f"metric {self.name}: none of {len(lists):,} queries has a value, expected at least one; "
                f"'segue metrics {self.key}' describes when there is none"
            )
        return values

    def select_values(self, lists: Lists, values: Values, rows: Any) -> Values:
        """Return the values for a group of queries, ``rows``."""
        return self(lists.take(rows)) if self.key in AGGREGATES else values[rows]


@cache
def known_list_metrics() -> dict[str, Callable[..., Values]]:
    """Map the keys of all metrics beyond accuracy to their functions."""
    modules = (popularity, diversity, calibration, exposure, fairness)
    return {name: function for module in modules for name, function in exported_functions(module).items()}


def split_list_metrics(metrics: Iterable[Any]) -> tuple[list[Any], list[str]]:
    """Separate ranking metrics from the names of metrics beyond accuracy."""
    ranking: list[Any] = []
    names: list[str] = []
    for metric in metrics:
        is_listed = isinstance(metric, str) and _split_name(metric)[0] in known_list_metrics()
        (names if is_listed else ranking).append(metric)
    return ranking, names


def resolve_list_metrics(names: Iterable[str], ks: Sequence[int] = (10,)) -> list[ListMetric]:
    """Resolve names to metrics at cutoffs, without duplicates.

    Args:
        names: with a cutoff, or without one, which are taken at each of ``ks``.

    Raises:
        ValueError: an argument is missing or not expected, or a cutoff is too small; one line per name.
    """
    found: dict[str, ListMetric] = {}
    errors = []
    for name in names:
        try:
            found |= {metric.name: metric for metric in _resolve(name, check_ks(ks))}
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("\n".join(errors))
    return list(found.values())


def metric_names(metrics: Iterable[MetricLike], ks: Sequence[int] = (10,)) -> list[str]:
    """Return the names of metrics at their cutoffs.

    All at the first of ``ks`` come first, then all at the second.

    Raises:
        ValueError: see :func:`segue.evaluation.metrics.resolve_metrics` and :func:`resolve_list_metrics`; or a function
            has the name of a metric beyond accuracy.
    """
    every = list(metrics)
    ranking, names = split_list_metrics(every)
    resolved = [metric.name for metric in resolve_metrics(ranking, ks)]
    if taken := [name for name in resolved if _split_name(name)[0] in known_list_metrics()]:
        raise ValueError(f"metrics: a function is named '{taken[0]}', which is a metric of Segue; give it another name")
    resolve_list_metrics(names, ks)  # all errors at once
    found = [
        [one.name for one in (resolve_list_metrics([metric], ks) if metric in names else resolve_metrics([metric], ks))]
        for metric in every
    ]
    return list(dict.fromkeys(name for column in zip_longest(*found) for name in column if name is not None))


def check_list_metrics(
    metrics: Iterable[ListMetric],
    training: TrainingData | None,
    labels: Callable[[str], Sequence[str]] | None = None,
) -> None:
    """Check that the data has what the metrics need, before a model is trained.

    Args:
        labels: returns the labels of the users by a user feature; ``None``: user features are not known.

    Raises:
        ValueError: one line per metric that cannot be computed.
    """
    errors = []
    for metric in metrics:
        try:
            if training is None:
                raise ValueError("needs the training events, which are not known; evaluate on a split")
            if metric.key == "exposure":
                exposure.shares_in_group(training, str(metric.argument))
            elif metric.key == "miscalibration":
                _ = training.feature(str(metric.argument)).shares
            elif metric.key == "gap":
                if labels is None:
                    raise ValueError("needs user features; evaluate on a split")
                labels(str(metric.argument).partition(":")[0])
            elif metric.argument is not None:
                training.feature(metric.argument)
        except ValueError as error:
            errors.append(f"metric {metric.name}: {str(error).removeprefix('by: ')}")
    if errors:
        raise ValueError("\n".join(errors))


def align_missing(metric: str, columns: Mapping[str, Values]) -> Mapping[str, Values]:
    """Leave out the queries without a value in any model, for metrics beyond accuracy.

    A list of one model may have no value, for example if it has only items whose feature is not known. Other metrics
    have values for the same queries in all models, and stay as they are.

    Args:
        columns: ``(N,)`` values per query by model.
    """
    if not split_list_metrics([metric])[1]:
        return columns
    is_missing = np.any([np.isnan(column) for column in columns.values()], axis=0)
    return {name: np.where(is_missing, np.nan, column) for name, column in columns.items()}


def value_range(key: str) -> tuple[float, float]:
    """Return the smallest and the largest value that a metric can have, by its key."""
    if key == "popularity_lift":
        return -1.0, np.inf
    # a cosine, and with it a distance, can reach 2 between vectors that point in opposite directions
    is_distance = key in exported_functions(diversity)
    return 0.0, np.inf if key in UNBOUNDED_ABOVE else 2.0 if is_distance else 1.0


def _split_name(name: str) -> tuple[str, str | None, str | None]:
    """Return key, argument and cutoff of a name."""
    head, at, cutoff = name.rpartition("@")
    if not at:
        head = name
    key, colon, argument = head.partition(":")
    return key, argument if colon else None, cutoff if at else None


def _resolve(name: str, ks: Sequence[int]) -> list[ListMetric]:
    key, argument, cutoff = _split_name(name)
    parameters = list(inspect.signature(known_list_metrics()[key]).parameters.values())
    example = EXAMPLES.get(key, key)
    if len(parameters) == 1 and argument is not None:
        raise ValueError(f"metric: got '{name}', but '{key}' takes no '{argument}'; expected '{example}@10'")
    is_required = len(parameters) > 1 and parameters[1].default is inspect.Parameter.empty
    if argument == "" or (argument is None and is_required):
        raise ValueError(f"metric: got '{name}', expected {NEEDS[key]}, as in '{example}@10'")
    smallest = 2 if key == "diversity" else 1
    if cutoff is not None:
        if not cutoff.isdigit() or int(cutoff) < smallest:
            raise ValueError(f"metric: got '{name}', expected a k of at least {smallest} as in '{example}@10'")
        ks = (int(cutoff),)
    elif min(ks) < smallest:
        raise ValueError(f"metric: got '{name}' at k {min(ks)}, expected a k of at least {smallest}")
    if key == "gap":
        feature, _, accuracy = str(argument).partition(":")
        if not feature or not accuracy:
            raise ValueError(f"metric: got '{name}', expected {NEEDS[key]}, as in '{example}@10'")
        parse_metric(f"{accuracy}@{ks[0]}")
    if key == "exposure" and "=" not in str(argument):
        raise ValueError(f"metric: got '{name}', expected {NEEDS[key]}, as in '{example}@10'")
    return [ListMetric(key, argument, k) for k in ks]


EXAMPLES = {
    "diversity": "diversity:genres",
    "unexpectedness": "unexpectedness:genres",
    "serendipity": "serendipity:genres",
    "miscalibration": "miscalibration:genres",
    "exposure": "exposure:genres=Drama",
    "gap": "gap:gender:ndcg",
}
"""Names with an argument."""

NEEDS = {
    "diversity": "an item feature",
    "unexpectedness": "an item feature",
    "serendipity": "an item feature",
    "miscalibration": "an item feature",
    "exposure": "an item feature and one of its values",
    "gap": "a user feature and a ranking metric",
}
"""What the argument is."""
