"""Compare models in memory on one split, over one or several seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.bundle import TrainedModel
from segue.core.config import suggest
from segue.core.messages import QualityWarning, warn
from segue.core.model import is_lower_better, is_query_mean
from segue.core.types import Recommendations, Split
from segue.evaluation import significance
from segue.evaluation.beyond_accuracy.list_metrics import align_missing, split_list_metrics
from segue.evaluation.beyond_accuracy.stability import describe_overlaps
from segue.evaluation.bootstrap import Estimate, estimate_values
from segue.evaluation.evaluate import EvaluationResult
from segue.evaluation.metrics import MetricLike, resolve_metrics
from segue.evaluation.ranking import ExcludeSeen
from segue.evaluation.sampled import check_sampling
from segue.evaluation.significance import Correction, PairedTest, StatTest, paired_tests_table
from segue.evaluation.warmth import ItemSelection, WarmthGroup
from segue.experiment.arguments import check_device, check_seeds, take_data_settings, unused_by_model
from segue.experiment.baselines.strongest import (
    MeasuredBaseline,
    choose_baseline,
    describe_weaker,
    measure_baseline,
)
from segue.experiment.data import split_data
from segue.experiment.evaluate import check_list_inputs, check_metrics, check_thresholds, evaluate_model, split_metrics
from segue.experiment.inference.argument_checks import FilePath, check_arguments, describe_value, is_sequence
from segue.experiment.protocols.arguments import RankingArguments, add_protocol_split, resolve_arguments
from segue.experiment.quality import AUTO
from segue.experiment.settings import ProtocolName
from segue.experiment.train_model import TrainingJob, prepare_models, train_model

__all__ = [
    "ComparisonResult",
    "Models",
    "compare",
    "compare_values",
    "headline_metric",
    "named_models",
]

DEFAULT_METRIC = "ndcg@10"
"""Metric that orders models with different validation metrics."""

Models = Mapping[str, Any] | Sequence[Any]
"""Keys of models, or settings (or trained models) by name; a name is a key, or ``key@label``."""

Values = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""``(N,)`` values per query by model and metric."""


@dataclass(frozen=True, eq=False, repr=False)
class ComparisonResult:
    """Models evaluated on the same queries; the first metric orders them."""

    metrics: tuple[str, ...]
    values: Values
    """``(N,)`` values per query by model and metric, averaged over seeds."""
    estimates: Mapping[str, Mapping[str, Estimate]]
    """Means over queries and seeds with 95 % bootstrap intervals over queries, by model and metric."""
    seed_means: Mapping[str, Mapping[str, tuple[float, ...]]]
    """The mean of each seed, by model and metric."""
    paired_tests: Mapping[str, tuple[PairedTest, ...]]
    """The paired tests by metric; the correction is over the pairs of one metric."""
    seconds: Mapping[str, float]
    """Mean training time per seed by model, in seconds."""
    models: Mapping[str, TrainedModel]
    """The trained models, those of the first seed."""
    warmth: Mapping[str, tuple[WarmthGroup, ...]] = field(default_factory=dict)
    """The values of hot, warm and cold items and users by model, averaged over seeds."""
    lists: Mapping[str, tuple[Recommendations, ...]] = field(default_factory=dict)
    """The lists of each seed by model; empty lists where nothing was ranked."""
    simple_baseline: MeasuredBaseline | None = None
    """The strongest simple baseline, chosen on validation; ``None``: there is no validation part."""
    protocol: str | None = None
    """Name of the evaluation protocol, if one was named."""

    @property
    def ranking(self) -> list[str]:
        """Names of the models, best first by the first metric."""
        metric = self.metrics[0]
        sign = 1.0 if is_lower_better(metric) else -1.0
        return sorted(self.estimates, key=lambda name: sign * self.estimates[name][metric].mean)

    @property
    def table(self) -> pl.DataFrame:
        """One row per model and metric, best model first.

        ``seed_std`` is the standard deviation over seeds, null with one seed; ``seconds`` the training time.
        """
        rows = []
        for name in self.ranking:
            for metric in self.metrics:
                found, seeds = self.estimates[name][metric], self.seed_means[name][metric]
                deviation = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
                rows.append((name, metric, found.mean, found.low, found.high, deviation, self.seconds.get(name)))
        numbers = ("mean", "low", "high", "seed_std", "seconds")
        schema = {"model": pl.String, "metric": pl.String, **dict.fromkeys(numbers, pl.Float64)}
        return pl.DataFrame(rows, schema=schema, orient="row")

    @property
    def tests(self) -> pl.DataFrame:
        """One row per metric and pair: difference, interval, p-values, effect, power."""
        return paired_tests_table(self.paired_tests)

    @property
    def warmth_table(self) -> pl.DataFrame:
        """The metrics of hot, warm and cold items and users, with intervals.

        There is one row per group, model and metric.
        """
        rows = [
            (group.name, group.definition, model, metric, found.mean, found.low, found.high, len(group.rows))
            for groups in zip(*(self.warmth.get(model, ()) for model in self.ranking), strict=True)
            for model, group in zip(self.ranking, groups, strict=True)
            for metric, found in group.estimate().items()
        ]
        texts = dict.fromkeys(("group", "definition", "model", "metric"), pl.String)
        numbers = dict.fromkeys(("mean", "low", "high"), pl.Float64)
        return pl.DataFrame(rows, schema={**texts, **numbers, "queries": pl.Int64}, orient="row")

    def test_group(self, name: str, baseline: str | None = None) -> pl.DataFrame:
        """Test the models in pairs on one group, such as ``cold items``.

        The test and the correction are those of the comparison.

        Args:
            baseline: test every other model against this one; ``None``: test every pair.

        Raises:
            ValueError: no such group, or an unknown baseline.
        """
        found = {
            model: next((one for one in groups if one.name == name), None) for model, groups in self.warmth.items()
        }
        groups = {model: group for model, group in found.items() if group is not None}
        if len(groups) < 2:
            known = {group.name for groups in self.warmth.values() for group in groups}
            raise ValueError(f"group: unknown '{name}'{suggest(name, known)}")
        if baseline is not None and baseline not in groups:
            raise ValueError(f"baseline: unknown '{baseline}'{suggest(baseline, groups)}")
        values = {model: group.values for model, group in groups.items()}
        shared = [metric for metric in self.metrics if all(metric in columns for columns in values.values())]
        one = next(iter(self.paired_tests.values()))[0]
        tested = (baseline, one.stat_test, one.correction)
        shared = [metric for metric in shared if significance.has_test(metric, one.stat_test)]
        return paired_tests_table({metric: compare_values(values, metric, *tested) for metric in shared})

    def overlap_table(self, k: int = 10) -> pl.DataFrame:
        """Compare the lists of models and of seeds, see :func:`describe_overlaps`."""
        return pl.DataFrame(describe_overlaps(self.lists, k))

    def __repr__(self) -> str:
        width = max(map(len, self.estimates))
        protocol = "" if self.protocol is None else f", protocol {self.protocol}"
        head = f"ComparisonResult: {len(self.estimates)} models, best first by {self.metrics[0]}, 95 % intervals"
        lines = [f"{head}{protocol}"]
        for name in self.ranking:
            found = "  ".join(f"{metric} {self.estimates[name][metric]}" for metric in self.metrics)
            lines.append(f"  {name:<{width}}  {found}")
        if self.simple_baseline is not None:
            lines.append(f"  strongest simple baseline: {self.simple_baseline}")
        lines += [f"  {test}" for test in self.paired_tests[self.metrics[0]]]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        baseline = "" if self.simple_baseline is None else f"<p>Strongest simple baseline: {self.simple_baseline}</p>"
        protocol = "" if self.protocol is None else f"<p>Protocol: {self.protocol}</p>"
        return f"{protocol}{self.table._repr_html_()}{baseline}<p>Paired tests</p>{self.tests._repr_html_()}"


@check_arguments(skip=("models", "metrics", "ks", "seeds"))
def compare(
    models: Models,
    data: Any,
    *,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    ks: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    baseline: str | None = None,
    stat_test: StatTest = "randomization",
    correction: Correction = "holm",
    protocol: ProtocolName | None = None,
    exclude_seen: ExcludeSeen | None = None,
    items: ItemSelection | None = None,
    thresholds: Mapping[str, int] | None = None,
    device: str = "cpu",
    recipe: FilePath | None = None,
    log: Callable[[str], None] | None = None,
    **settings: Any,
) -> ComparisonResult:
    """Train models on one split, and test their differences on its test part.

    Each model and seed reads the test part once, which is recorded on the trained model and, if it was opened from a
    run, in the run. To choose settings, use ``segue.evaluate(model, split.valid)`` instead.

    Args:
        models: keys such as ``["sasrec", "ease"]``, or settings by key such as ``{"sasrec": {"embedding_dim": 64}}``. A
            key with a label, such as ``"sasrec@large"``, adds the same model again. Trained models are not retrained.
        data: a split; or a dataset or anything that :func:`segue.load` reads, split by leave-one-out unless
            ``settings`` say otherwise.
        metrics: see :func:`segue.evaluate`; the first one orders the models.
        ks: list lengths for the metrics that are named without one; by default 10.
        seeds: each model is trained with each seed, and its values per query are averaged.
        baseline: test every other model against this one; ``None``: test every pair.
        stat_test: the paired test, see :mod:`segue.evaluation.significance`.
        correction: of the p-values for the number of pairs, likewise.
        protocol: name of an evaluation protocol, which also sets the split, see :func:`segue.evaluate`; likewise
            ``exclude_seen``, ``items`` and ``thresholds``.
        device: a torch device, such as ``cuda``.
        recipe: see :func:`segue.train`.
        log: receives one line per trained model, such as ``print``.
        settings: for all models that are trained; a model's own settings take precedence. Filters and settings of the
            split, such as ``min_user_events=5`` or ``strategy="random"``, apply to ``data`` where it is loaded or split
            here, and so do settings of text, such as ``**{"text.columns": ["plot"]}``. ``loss``, ``metric`` and
            ``callbacks`` are as in :func:`segue.train`. ``**{"evaluation.baseline": "none"}`` leaves out the simple
            baseline.

    Returns:
        ``result.simple_baseline`` is the strongest simple baseline, and a warning names the models below it.
        ``result.table`` has the means and intervals, ``result.tests`` the paired tests;
        ``warmth_table`` and ``test_group`` have them for hot, warm and cold items and users.

    Raises:
        ValueError: fewer than two models, an unknown model, setting or metric.
    """
    seeds, device = check_seeds(seeds), check_device(device)
    requested = resolve_arguments(protocol, exclude_seen, items, metrics, ks, (10,))
    check_metrics(requested.metrics, requested.ks)
    check_thresholds(thresholds)
    if "seed" in settings:
        raise ValueError("seed: compare takes several, as in seeds=(0, 1); the seed of the split is split.seed")
    keys = [key for key, entry in named_models(models).values() if not isinstance(entry, TrainedModel)]
    simple = settings.pop("evaluation.baseline", AUTO)
    data_settings, settings = take_data_settings(settings, keys)
    if settings and not keys:
        raise ValueError(f"compare: {', '.join(settings)}: all models are trained already, expected no settings")
    entries = named_models(models, settings)
    _check_entries(entries, baseline)
    parts = split_data(data, add_protocol_split(protocol, data, data_settings))
    check_list_inputs(requested.metrics, requested.ks, parts.test, parts.train)
    check_sampling(parts.test, parts.train.n_items, requested.sampled)
    jobs = _prepare_untrained(entries, parts.train.name, requested.exclude_seen, recipe)
    training = {"device": device, "recipe": recipe}
    results, trained, times = _train_and_evaluate(entries, parts, seeds, requested, thresholds, training, log)
    _require_same_queries(results)
    headline = (requested.headline or headline_metric(jobs, trained)) if metrics is None else None
    found = _combine(results, trained, times, headline, (baseline, stat_test, correction))
    found = replace(found, protocol=protocol)
    if simple in (None, "none"):
        return found
    return _add_simple_baseline(found, parts, simple, seeds[0], requested, thresholds)


def _train_and_evaluate(
    entries: Mapping[str, tuple[str, Any]],
    parts: Split,
    seeds: Sequence[int],
    requested: RankingArguments,
    thresholds: Mapping[str, int] | None,
    training: Mapping[str, Any],
    log: Callable[[str], None] | None,
) -> tuple[dict[str, list[EvaluationResult]], dict[str, TrainedModel], dict[str, float]]:
    """Return the results of all seeds, the first model, and the mean time, by name."""
    results: dict[str, list[EvaluationResult]] = {name: [] for name in entries}
    trained: dict[str, TrainedModel] = {}
    seconds: dict[str, list[float]] = {}
    for name, (key, entry) in entries.items():
        is_trained = isinstance(entry, TrainedModel)
        for seed in seeds[:1] if is_trained else seeds:
            started, model = time.perf_counter(), entry
            if not is_trained:
                own = {"exclude_seen": requested.exclude_seen, "baseline": "none", **entry}
                model = train_model(key, parts, own, seed=seed, **training)
                seconds.setdefault(name, []).append(time.perf_counter() - started)
            trained.setdefault(name, model)
            results[name].append(
                evaluate_model(model, parts, requested, thresholds=thresholds, command="segue.compare")
            )
            if log is not None:
                metric, estimate = next(iter(results[name][-1].estimates.items()))
                log(f"{name}, seed {seed}: {metric} {estimate}")
    return results, trained, {name: float(np.mean(found)) for name, found in seconds.items()}


def _add_simple_baseline(
    found: ComparisonResult,
    parts: Split,
    simple: str,
    seed: int,
    requested: RankingArguments,
    thresholds: Mapping[str, int] | None,
) -> ComparisonResult:
    """Add the strongest simple baseline, and warn of models below it."""
    metric = found.metrics[0]
    ranking = split_list_metrics(split_metrics(requested.metrics)[0])[0]
    by_name = {one.name: one for one in resolve_metrics(ranking, requested.ks)}
    name = choose_baseline(parts, by_name.get(metric, metric), requested.exclude_seen, simple, seed)
    if name is None:
        return found
    baseline = measure_baseline(name, parts.train, parts.test, requested, thresholds=thresholds, seed=seed)
    means = {name: own[metric].mean for name, own in found.estimates.items()}
    for note in describe_weaker(means, metric, baseline.name, baseline.estimates[metric].mean, "test"):
        warn(f"compare: {note}", category=QualityWarning)
    return replace(found, simple_baseline=baseline)


def _prepare_untrained(
    entries: Mapping[str, tuple[str, Any]], data: str, exclude_seen: ExcludeSeen, recipe: str | Path | None
) -> dict[str, TrainingJob]:
    untrained = {name: pair for name, pair in entries.items() if not isinstance(pair[1], TrainedModel)}
    return prepare_models(untrained, data, {"exclude_seen": exclude_seen}, recipe, "compare")


def _check_entries(entries: Mapping[str, Any], baseline: str | None) -> None:
    """Check that there are models to compare, and the baseline among them."""
    if len(entries) < 2:
        raise ValueError(f"compare: got {', '.join(entries) or 'no model'}, expected at least 2 models")
    if baseline is not None and baseline not in entries:
        raise ValueError(f"baseline: unknown '{baseline}'{suggest(baseline, entries)}")


def _require_same_queries(results: Mapping[str, Sequence[EvaluationResult]]) -> None:
    """Check that every model answered the same number of queries.

    A model that was trained on other data does not know all targets.
    """
    counts = {name: {len(values) for one in found for values in one.values.values()} for name, found in results.items()}
    first, *others = counts
    for other in others:
        if counts[other] != counts[first]:
            listed = [" or ".join(map(str, sorted(counts[name]))) for name in (first, other)]
            raise ValueError(
                f"models: '{first}' and '{other}' were evaluated on {listed[0]} and {listed[1]} queries, expected the "
                "same; compare models that were trained on the same data"
            )


def _combine(
    results: Mapping[str, Sequence[EvaluationResult]],
    trained: Mapping[str, TrainedModel],
    seconds: Mapping[str, float],
    headline: str | None,
    tested: tuple[str | None, StatTest, Correction],
) -> ComparisonResult:
    """Average the results of each model over its seeds, and test the models in pairs.

    The metric ``headline`` comes first where it was computed, else nDCG at any k. ``tested`` is the baseline, the test
    and the correction.
    """
    names = _common_metrics(results)
    if headline is not None:
        first = headline if headline in names else next((name for name in names if name.startswith("ndcg@")), names[0])
        names = [first, *(name for name in names if name != first)]
    values: Values = {
        name: {metric: np.mean([result.values[metric] for result in found], axis=0) for metric in names}
        for name, found in results.items()
    }
    seed_means = {
        name: {metric: tuple(result[metric].mean for result in found) for metric in names}
        for name, found in results.items()
    }
    estimates = {name: estimate_values(columns, 0) for name, columns in values.items()}
    has_test = [metric for metric in names if significance.has_test(metric, tested[1])] or names
    tests = {metric: compare_values(values, metric, *tested) for metric in has_test}
    warmth = {
        name: _average_groups([result.select(names).warmth for result in found]) for name, found in results.items()
    }
    lists = {name: tuple(result.top for result in found) for name, found in results.items()}
    return ComparisonResult(tuple(names), values, estimates, seed_means, tests, seconds, trained, warmth, lists)


def _average_groups(seeds: Sequence[Sequence[WarmthGroup]]) -> tuple[WarmthGroup, ...]:
    """Average the values of hot, warm and cold items and users over the seeds."""
    return tuple(
        replace(
            same[0],
            values={metric: np.mean([group.values[metric] for group in same], axis=0) for metric in same[0].values},
        )
        for same in zip(*seeds, strict=True)
    )


def named_models(models: Models, settings: Mapping[str, Any] = MappingProxyType({})) -> dict[str, tuple[str, Any]]:
    """Return the key, and the settings or trained model, of every entry by name.

    Args:
        models: see :data:`Models`; settings may name the key as ``model``.
        settings: shared by all models that are trained; an entry's own settings take precedence.

    Raises:
        ValueError: a name occurs twice, or an entry is neither settings nor a trained model.
    """
    if isinstance(models, str | TrainedModel):
        models = [models]
    if not isinstance(models, Mapping):
        if not is_sequence(models) or not all(isinstance(one, str | TrainedModel) for one in models):
            raise ValueError(
                f"models: got {describe_value(models)}, expected a list of keys and trained models, or a mapping from "
                "names to settings or trained models"
            )
        listed: list[tuple[str, Any]] = [
            (one.key, one) if isinstance(one, TrainedModel) else (one, {}) for one in models
        ]
        names = [name for name, _ in listed]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"models: {', '.join(duplicates)} listed twice; give them names, such as 'ease@small'")
        models = dict(listed)
    entries: dict[str, tuple[str, Any]] = {}
    for name, entry in models.items():
        if not isinstance(name, str):
            raise ValueError(f"models: got the name {describe_value(name)}, expected text, such as 'ease@small'")
        if isinstance(entry, TrainedModel):
            entries[name] = (entry.key, entry)
        elif entry is None or isinstance(entry, Mapping):
            own = dict(entry or {})
            entries[name] = (str(own.pop("model", str(name).partition("@")[0])), own)
        else:
            raise ValueError(
                f"models: '{name}': got {type(entry).__name__}, expected a mapping of settings or a trained model"
            )
    if not settings:
        return entries
    untrained = {name: key for name, (key, entry) in entries.items() if not isinstance(entry, TrainedModel)}
    unused = {name: unused_by_model(key, settings) for name, key in untrained.items()}
    nowhere = set.intersection(*map(set, unused.values())) if unused else set()
    for name, key in untrained.items():
        shared = {one: value for one, value in settings.items() if one not in unused[name] or one in nowhere}
        entries[name] = (key, {**shared, **entries[name][1]})
    return entries


def headline_metric(jobs: Mapping[str, TrainingJob], models: Mapping[str, TrainedModel]) -> str:
    """Return the metric that orders models by default.

    It is the validation metric that they share, else ``ndcg@10``.
    """
    found = {job.plan.metric for job in jobs.values()}
    found |= {type(trained.model).validation_metric for name, trained in models.items() if name not in jobs}
    return found.pop() if len(found) == 1 else DEFAULT_METRIC


def compare_values(
    values: Values,
    metric: str,
    baseline: str | None = None,
    stat_test: StatTest = "randomization",
    correction: Correction = "holm",
) -> tuple[PairedTest, ...]:
    """Test all pairs of models by one metric, or all against ``baseline``.

    A lower error counts as better. See :func:`align_missing` for queries without a value.
    """
    sign = -1.0 if is_lower_better(metric) else 1.0
    columns = {name: sign * found[metric] for name, found in values.items()}
    significance.check_test_of_metric(metric, stat_test)
    aligned = align_missing(metric, columns)
    tests = significance.compare_all(aligned, baseline, stat_test=stat_test, correction=correction)
    return tests if is_query_mean(metric) else tuple(replace(test, rank_biserial=None) for test in tests)


def _common_metrics(results: Mapping[str, Sequence[EvaluationResult]]) -> list[str]:
    """Return the metrics that all models have.

    Raises:
        ValueError: there is no such metric.
    """
    first = next(iter(results.values()))[0]
    common = [name for name in first.estimates if all(name in found[0] for found in results.values())]
    if not common:
        raise ValueError("metrics: the models have no metric in common; name one such as metrics=['ndcg@10']")
    return common
