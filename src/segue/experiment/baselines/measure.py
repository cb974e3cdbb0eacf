"""Measure what is reachable without learning, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from segue.core.model import is_lower_better
from segue.core.types import Dataset, HeldOut, Split
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.evaluation_result import ranked_queries
from segue.evaluation.metrics import MetricLike
from segue.evaluation.ranking import ExcludeSeen, describe_seen
from segue.evaluation.sampled import check_sampling
from segue.evaluation.simple_baselines import RANKING_BASELINES, RATING_MEANS, repeat_share, skipped_baselines
from segue.evaluation.warmth import ItemSelection
from segue.experiment.arguments import check_seed, take_split_settings
from segue.experiment.baselines.strongest import MeasuredBaseline, measure_baseline
from segue.experiment.data import split_data
from segue.experiment.evaluate import check_metrics, check_thresholds, ordered_names
from segue.experiment.inference.argument_checks import check_arguments
from segue.experiment.protocols.arguments import RankingArguments, add_protocol_split, resolve_arguments
from segue.experiment.quality import check_parts
from segue.experiment.records.held_out_readings import describe_reading
from segue.experiment.settings import ProtocolName

__all__ = ["BaselinesResult", "baselines", "measure_baselines"]

Log = Callable[[str], None]

METRICS = ("ndcg", "hit_rate", "mrr")
"""Ranking metrics that are measured by default."""


@dataclass(frozen=True, eq=False, repr=False)
class BaselinesResult:
    """Metrics of the simple baselines on one part of a split, the strongest first."""

    data: str
    part: Literal["valid", "test"]
    metrics: tuple[str, ...]
    """Names of the metrics; the first one orders the baselines."""
    measured: Mapping[str, MeasuredBaseline]
    """The baselines by name."""
    skipped: Mapping[str, str]
    """The baselines that were left out, with the reason."""
    queries: int
    """Number of queries with a target that is ranked."""
    targets: int
    share_of_targets_in_history: float
    """Share of the targets that are in the history of their query."""
    repeat_share: float
    """Share of the training events, without the first of each user, whose item the user had before."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """The split, the items that are ranked, and the name of the protocol if one was named."""
    test_readings: tuple[Mapping[str, Any], ...] = ()
    """The records of the readings of the test part, one per baseline."""

    @property
    def strongest(self) -> str:
        """Name of the best baseline by the first metric."""
        return self.ranking[0]

    @property
    def ranking(self) -> list[str]:
        """Names of the baselines, best first by the first metric.

        Those without it come last.
        """
        metric = self.metrics[0]
        sign = 1.0 if is_lower_better(metric) else -1.0

        def position(name: str) -> float:
            found = self.measured[name].estimates.get(metric)
            return np.inf if found is None else sign * found.mean

        return sorted(self.measured, key=position)

    @property
    def table(self) -> pl.DataFrame:
        """One row per baseline and metric, the strongest first.

        ``seconds`` is the time of training and evaluation.
        """
        rows = [
            (name, metric, found.mean, found.low, found.high, self.measured[name].seconds)
            for name in self.ranking
            for metric, found in self.measured[name].estimates.items()
        ]
        numbers = dict.fromkeys(("mean", "low", "high", "seconds"), pl.Float64)
        return pl.DataFrame(rows, schema={"model": pl.String, "metric": pl.String, **numbers}, orient="row")

    def describe(self) -> list[str]:
        """Describe the strongest baseline, the protocol, repeats, and what was left out."""
        metric, part = self.metrics[0], "validation" if self.part == "valid" else "test"
        best = self.measured[self.strongest].estimates[metric]
        lines = [
            f"strongest by {metric}: {self.strongest}, {best}",
            self._describe_protocol(),
            f"{self.share_of_targets_in_history:.1%} of {self.targets:,} {part} targets are in the history of their "
            f"query; {self.repeat_share:.1%} of the training events repeat an item of the user",
        ]
        return [*lines, *(f"left out: {name}: {reason}" for name, reason in self.skipped.items())]

    def _describe_protocol(self) -> str:
        """Describe the split and the items that are ranked."""
        protocol = self.protocol
        name = f" {protocol['protocol']}" if "protocol" in protocol else ""
        parts = [f"split {protocol['split']}"]
        if "candidates" in protocol:
            parts.append(f"{protocol['items']:,} items are ranked ({protocol['candidates']})")
            parts.append(f"items of the history are {describe_seen(protocol['exclude_seen'])}")
        if "sampled_candidates" in protocol:
            parts.append(f"sampled_ metrics: among {protocol['sampled_candidates']} sampled items")
        return f"protocol{name}: {'; '.join(parts)}"

    def record(self) -> dict[str, Any]:
        """Return the result as JSON holds it."""

        def numbers(found: Estimate) -> list[float]:
            return [found.mean, found.low, found.high]

        return {
            "data": self.data,
            "part": self.part,
            "protocol": dict(self.protocol),
            "metrics": list(self.metrics),
            "queries": self.queries,
            "targets": self.targets,
            "share_of_targets_in_history": self.share_of_targets_in_history,
            "repeat_share": self.repeat_share,
            "strongest": self.strongest,
            "baselines": {
                name: {
                    "metrics": {metric: numbers(found) for metric, found in self.measured[name].estimates.items()},
                    "seconds": self.measured[name].seconds,
                }
                for name in self.ranking
            },
            "skipped": dict(self.skipped),
        }

    def __repr__(self) -> str:
        part = "validation" if self.part == "valid" else "test"
        width = max(map(len, self.measured))
        lines = [f"BaselinesResult: {self.data}, {self.queries:,} {part} queries, 95 % intervals"]
        for name in self.ranking:
            found = self.measured[name].estimates
            lines.append(f"  {name:<{width}}  {'  '.join(f'{metric} {one}' for metric, one in found.items())}")
        return "\n".join([*lines, *(f"  {line}" for line in self.describe())])

    def _repr_html_(self) -> str:
        return f"{self.table._repr_html_()}<p>{'<br>'.join(self.describe())}</p>"


@check_arguments(skip=("metrics", "ks", "seed"))
def baselines(
    data: Any,
    *,
    test: bool = False,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    ks: Sequence[int] | None = None,
    protocol: ProtocolName | None = None,
    exclude_seen: ExcludeSeen | None = None,
    items: ItemSelection | None = None,
    thresholds: Mapping[str, int] | None = None,
    seed: int = 0,
    log: Log | None = None,
    **settings: Any,
) -> BaselinesResult:
    """Measure what is reachable without learning, in seconds.

    The baselines are the popular and the recently popular items, the items that followed the last one, the user's most
    frequent items (where seen items are ranked), EASE, and for ratings the means of item and user.

    Args:
        data: a split; or a dataset or anything that :func:`segue.load` reads, split by leave-one-out unless
            ``settings`` say otherwise.
        test: measure on the test part instead of validation; ``result.test_readings`` has the records of the readings.
        metrics: see :func:`segue.evaluate`; the first one orders the baselines.
        ks: list lengths for the metrics that are named without one; by default 10.
        protocol: name of an evaluation protocol, which also sets the split, see :func:`segue.evaluate`; likewise
            ``exclude_seen``, ``items`` and ``thresholds``.
        seed: seed of the bootstrap intervals.
        log: receives one line per baseline, such as ``print``.
        settings: filters and settings of the split, such as ``min_user_events=5`` or ``strategy="random"``, where
            ``data`` is loaded or split here.

    Returns:
        ``result.strongest`` is the name of the best baseline; ``result.table`` has means and intervals.

    Raises:
        ValueError: an unknown setting or metric, or a part without queries.
    """
    seed = check_seed(seed)
    requested = resolve_arguments(protocol, exclude_seen, items, metrics, ks, (10,))
    check_metrics(requested.metrics, requested.ks)
    check_thresholds(thresholds)
    data_settings = add_protocol_split(protocol, data, take_split_settings(settings, "baselines"))
    return measure_baselines(
        split_data(data, data_settings),
        "test" if test else "valid",
        requested,
        thresholds=thresholds,
        seed=seed,
        log=log,
        name=str(data) if isinstance(data, str | Path) else None,
    )


def measure_baselines(
    parts: Split,
    part: Literal["valid", "test"],
    requested: RankingArguments,
    *,
    thresholds: Mapping[str, int] | None = None,
    seed: int = 0,
    log: Log | None = None,
    command: str = "segue.baselines",
    name: str | None = None,
) -> BaselinesResult:
    """Measure the simple baselines on a part of a split; see :func:`baselines`.

    Args:
        command: what reads the test part, for the record.
        name: what the data was loaded from; ``None``: the name of the dataset.

    Raises:
        ValueError: the part has no query.
    """
    held_out = parts.valid if part == "valid" else parts.test
    check_parts(parts, (part,))
    if not held_out.targets.size:
        raise ValueError(f"baselines: the {part} part of the split has no query, expected at least one")
    is_default = requested.metrics is None
    requested = replace(requested, metrics=METRICS if requested.metrics is None else requested.metrics)
    ranking, errors = check_metrics(requested.metrics, requested.ks)
    if ranking:
        check_sampling(held_out, parts.train.n_items, requested.sampled)
    skipped = skipped_baselines(parts.train, requested.exclude_seen) if ranking else {}
    names = [name for name in RANKING_BASELINES if ranking and name not in skipped]
    if _has_ratings(parts.train, held_out):
        names += [RATING_MEANS] if errors or is_default else []
    elif errors:
        raise ValueError(f"metrics: {', '.join(errors)}: the data has no ratings to predict")
    measured = {}
    for key in names:
        measured[key] = measure_baseline(key, parts.train, held_out, requested, thresholds=thresholds, seed=seed)
        if log is not None:
            log(str(measured[key]))
    readings = (
        describe_reading(key, parts, {metric: one.mean for metric, one in found.estimates.items()}, command)
        for key, found in measured.items()
    )
    ordered = ordered_names(requested.metrics, requested.ks)
    if requested.headline is not None:  # the protocol orders by it
        ordered = [requested.headline, *(one for one in ordered if one != requested.headline)]
    return BaselinesResult(
        parts.train.name if name is None else name,
        part,
        tuple(ordered),
        measured,
        skipped,
        *_count(held_out, measured),
        float(parts.metadata.get(part, {}).get("targets_in_history", _share_in_history(held_out, parts.train.n_items))),
        repeat_share(parts.train.histories),
        _describe_protocol(parts, requested, measured),
        tuple(readings) if part == "test" else (),
    )


def _count(held_out: HeldOut, measured: Mapping[str, MeasuredBaseline]) -> tuple[int, int]:
    """Return the number of queries and of targets that are ranked."""
    ranked = next((one.metadata for one in measured.values() if one.metadata), None)
    if ranked is None:  # only ratings are predicted
        return len(held_out), held_out.targets.size
    return ranked_queries(ranked), int(ranked["targets"])


def _describe_protocol(
    parts: Split, requested: RankingArguments, measured: Mapping[str, MeasuredBaseline]
) -> dict[str, Any]:
    """Return the name of the protocol, the split, and which items are ranked."""
    names = ("candidates", "items", "exclude_seen", "sampled_candidates", "has_query_times", "has_query_context")
    ranked: Mapping[str, Any] = next((one.metadata for one in measured.values() if one.metadata), {})
    named = {} if requested.protocol is None else {"protocol": requested.protocol}
    found = {name: ranked[name] for name in names if name in ranked}
    return {**named, "split": parts.metadata.get("strategy", "given"), **found}


def _has_ratings(train: Dataset, held_out: HeldOut) -> bool:
    columns = (train.histories.values, held_out.targets.values)
    return all(column is not None and bool(np.isfinite(column).any()) for column in columns)


def _share_in_history(held_out: HeldOut, n_items: int) -> float:
    """Return the share of targets that are in the history of their query."""
    history, targets = held_out.queries.history, held_out.targets
    seen = np.unique(history.rows * n_items + history.items)
    return float(np.isin(targets.rows * n_items + targets.items, seen).mean())
