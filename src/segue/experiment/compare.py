"""Compare models in memory on one split, over one or several seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.bundle import TrainedModel
from segue.core.config import suggest
from segue.core.model import LOWER_IS_BETTER
from segue.core.types import Dataset, Split
from segue.data import load
from segue.data.splits import split
from segue.evaluation import significance
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.evaluate import EvaluationResult, estimate_values
from segue.evaluation.metrics import MetricLike
from segue.evaluation.significance import PairedTest
from segue.experiment.evaluate import evaluate
from segue.experiment.train_model import train_model

__all__ = ["ComparisonResult", "Models", "compare", "compare_values", "named_models"]

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
    """The paired tests by metric; Holm's correction is over the pairs of one metric."""
    seconds: Mapping[str, float]
    """Mean training time per seed by model, in seconds."""
    models: Mapping[str, TrainedModel]
    """The trained models, those of the first seed."""

    @property
    def ranking(self) -> list[str]:
        """Names of the models, best first by the first metric."""
        metric = self.metrics[0]
        sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
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
        """One row per metric and pair: the difference, its interval and p-values."""
        rows = [
            (metric, t.first, t.second, t.difference, t.low, t.high, t.p, t.p_t, t.p_holm, t.significant)
            for metric, tests in self.paired_tests.items()
            for t in tests
        ]
        numbers = ("difference", "low", "high", "p", "p_t", "p_holm")
        schema: dict[str, Any] = {"metric": pl.String, "first": pl.String, "second": pl.String}
        schema |= {**dict.fromkeys(numbers, pl.Float64), "significant": pl.Boolean}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def __repr__(self) -> str:
        width = max(map(len, self.estimates))
        lines = [f"ComparisonResult: {len(self.estimates)} models, best first by {self.metrics[0]}, 95 % intervals"]
        for name in self.ranking:
            found = "  ".join(f"{metric} {self.estimates[name][metric]}" for metric in self.metrics)
            lines.append(f"  {name:<{width}}  {found}")
        for test in self.paired_tests[self.metrics[0]]:
            significance = "significant" if test.significant else "not significant"
            lines.append(
                f"  {test.first} - {test.second}: {test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}], "
                f"p (Holm) {test.p_holm:.4f}, {significance}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"{self.table._repr_html_()}<p>Paired tests</p>{self.tests._repr_html_()}"


def compare(
    models: Models,
    data: Any,
    *,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    ks: Sequence[int] = (10,),
    seeds: Sequence[int] = (0,),
    baseline: str | None = None,
    exclude_seen: bool = True,
    device: str = "cpu",
    recipe: str | Path | None = None,
    log: Callable[[str], None] | None = None,
    **settings: Any,
) -> ComparisonResult:
    """Train models on one split, evaluate them, and test their differences.

    Args:
        models: keys such as ``["sasrec", "ease"]``, or settings by key such as ``{"sasrec": {"embedding_dim": 64}}``. A
            key with a label, such as ``"sasrec@large"``, is the same model once more. Trained models are evaluated as
            they are.
        data: a split; or a dataset or anything that :func:`segue.load` reads, split by leave-one-out.
        metrics: see :func:`segue.evaluate`; the first one orders the models.
        ks: list lengths for the metrics that are named without one.
        seeds: each model is trained with each seed, and its values per query are averaged.
        baseline: test every other model against this one; ``None``: test every pair.
        exclude_seen: whether items of a user's history are removed from the ranking.
        device: a torch device, such as ``cuda``.
        recipe: see :func:`segue.train`.
        log: receives one line per trained model, such as ``print``.
        settings: for all models that are trained; a model's own settings take precedence.

    Returns:
        ``result.table`` has the means and intervals, ``result.tests`` the paired randomization tests with Holm's
        correction.

    Raises:
        ValueError: fewer than two models, an unknown model, setting or metric.
    """
    entries = named_models(models, settings)
    if len(entries) < 2:
        raise ValueError(f"compare: got {', '.join(entries) or 'no model'}, expected at least 2 models")
    if not seeds:
        raise ValueError("seeds: got none, expected at least one")
    if baseline is not None and baseline not in entries:
        raise ValueError(f"baseline: unknown '{baseline}'{suggest(baseline, entries)}")
    parts = _split_data(data)
    results: dict[str, list[EvaluationResult]] = {name: [] for name in entries}
    trained: dict[str, TrainedModel] = {}
    seconds: dict[str, list[float]] = {}
    for name, (key, entry) in entries.items():
        is_trained = isinstance(entry, TrainedModel)
        for seed in seeds[:1] if is_trained else seeds:
            started = time.perf_counter()
            model = entry if is_trained else train_model(key, parts, entry, seed=seed, device=device, recipe=recipe)
            if not is_trained:
                seconds.setdefault(name, []).append(time.perf_counter() - started)
            trained.setdefault(name, model)
            results[name].append(evaluate(model, parts, metrics=metrics, ks=ks, exclude_seen=exclude_seen))
            if log is not None:
                metric, found = next(iter(results[name][-1].estimates.items()))
                log(f"{name}, seed {seed}: {metric} {found}")
    return _combine(results, trained, {name: float(np.mean(times)) for name, times in seconds.items()}, baseline)


def _combine(
    results: Mapping[str, Sequence[EvaluationResult]],
    trained: Mapping[str, TrainedModel],
    seconds: Mapping[str, float],
    baseline: str | None,
) -> ComparisonResult:
    """Average the results of each model over its seeds, and test the models in pairs."""
    names = _common_metrics(results)
    values: Values = {
        name: {metric: np.mean([result.values[metric] for result in found], axis=0) for metric in names}
        for name, found in results.items()
    }
    seed_means = {
        name: {metric: tuple(result[metric].mean for result in found) for metric in names}
        for name, found in results.items()
    }
    estimates = {name: estimate_values(columns, 0) for name, columns in values.items()}
    tests = {metric: compare_values(values, metric, baseline) for metric in names}
    return ComparisonResult(tuple(names), values, estimates, seed_means, tests, seconds, trained)


def named_models(models: Models, settings: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return key, and settings or trained model, of every entry by its name.

    Args:
        models: see :data:`Models`; settings may name the key as ``model``.
        settings: shared by all models that are trained; an entry's own settings take precedence.

    Raises:
        ValueError: a name twice, or an entry that is neither settings nor a trained model.
    """
    if isinstance(models, str | TrainedModel):
        models = [models]
    if not isinstance(models, Mapping):
        listed: list[tuple[str, Any]] = [
            (one.key, one) if isinstance(one, TrainedModel) else (one, {}) for one in models
        ]
        names = [name for name, _ in listed]
        if duplicates := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"models: {', '.join(duplicates)} listed twice; give them names, such as 'ease@small'")
        models = dict(listed)
    entries: dict[str, tuple[str, Any]] = {}
    for name, entry in models.items():
        if isinstance(entry, TrainedModel):
            entries[name] = (entry.key, entry)
        elif entry is None or isinstance(entry, Mapping):
            own = {**settings, **(entry or {})}
            entries[name] = (str(own.pop("model", name.partition("@")[0])), own)
        else:
            raise ValueError(
                f"models: '{name}': got {type(entry).__name__}, expected a mapping of settings or a trained model"
            )
    return entries


def compare_values(values: Values, metric: str, baseline: str | None = None) -> tuple[PairedTest, ...]:
    """Test all pairs of models by one metric, or all against ``baseline``.

    A lower error counts as better.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    return significance.compare_all({name: sign * columns[metric] for name, columns in values.items()}, baseline)


def _split_data(data: Any) -> Split:
    """Return a split; other data is loaded and split by leave-one-out."""
    if isinstance(data, Split):
        return data
    return split(data if isinstance(data, Dataset) else load(data))


def _common_metrics(results: Mapping[str, Sequence[EvaluationResult]]) -> list[str]:
    """Return the metrics that all models have.

    Raises:
        ValueError: there is none.
    """
    first = next(iter(results.values()))[0]
    common = [name for name in first.estimates if all(name in found[0] for found in results.values())]
    if not common:
        raise ValueError("metrics: the models have no metric in common; name one such as metrics=['ndcg@10']")
    return common
