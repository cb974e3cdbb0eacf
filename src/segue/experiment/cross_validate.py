"""Cross-validate models over the same folds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.core.model import LOWER_IS_BETTER
from segue.core.run import Run
from segue.core.types import Dataset, Split
from segue.data import load
from segue.data.splits import SplitSettings, split
from segue.evaluation.evaluate import make_validator
from segue.evaluation.metrics import MetricLike
from segue.experiment.compare import Models, named_models
from segue.experiment.data import validate_inputs
from segue.experiment.evaluate import evaluate
from segue.experiment.plan import Plan, make_plan
from segue.training.train import train

__all__ = ["CrossValidationResult", "cross_validate", "cross_validate_plans"]


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidationResult:
    """The metrics of each model in each fold; all models use the same folds."""

    metrics: tuple[str, ...]
    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    """One value per fold, by model and metric."""

    @property
    def folds(self) -> int:
        """Number of folds."""
        return len(next(iter(next(iter(self.values.values())).values())))

    @property
    def ranking(self) -> list[str]:
        """Names of the models, best first by the first metric."""
        metric = self.metrics[0]
        sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
        return sorted(self.values, key=lambda name: sign * float(np.mean(self.values[name][metric])))

    @property
    def table(self) -> pl.DataFrame:
        """One row per model and metric, best model first.

        ``low`` and ``high`` are the 95 % interval of Student's t over folds. It describes how much folds vary; as folds
        share training data, it is not an exact confidence interval.
        """
        rows = [(name, metric, *self._summarize(name, metric)) for name in self.ranking for metric in self.metrics]
        numbers = ("mean", "low", "high", "std")
        schema = {"model": pl.String, "metric": pl.String, **dict.fromkeys(numbers, pl.Float64)}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _summarize(self, name: str, metric: str) -> tuple[float, float, float, float]:
        from scipy.stats import t

        values = np.asarray(self.values[name][metric])
        mean, std = float(values.mean()), float(values.std(ddof=1))
        half = float(t.ppf(0.975, len(values) - 1)) * std / len(values) ** 0.5
        return mean, mean - half, mean + half, std

    def __repr__(self) -> str:
        width = max(map(len, self.values))
        lines = [
            f"CrossValidationResult: {self.folds} folds, best first by {self.metrics[0]}, 95 % intervals over folds"
        ]
        for name in self.ranking:
            cells = []
            for metric in self.metrics:
                mean, low, high, _ = self._summarize(name, metric)
                cells.append(f"{metric} {mean:.4f} [{low:.4f}, {high:.4f}]")
            lines.append(f"  {name:<{width}}  {'  '.join(cells)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return f"<p>{self.folds} folds</p>{self.table._repr_html_()}"


def cross_validate(
    models: Models,
    data: Any,
    *,
    folds: int = 5,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    ks: Sequence[int] = (10,),
    valid: float = 0.1,
    exclude_seen: bool = True,
    seed: int = 0,
    device: str = "cpu",
    recipe: str | Path | None = None,
    log: Callable[[str], None] | None = None,
    **settings: Any,
) -> CrossValidationResult:
    """Train and evaluate models on the same random folds of the events.

    Args:
        models: see :func:`segue.compare`; one model is enough.
        data: a dataset, or anything that :func:`segue.load` reads.
        folds: number of folds; each is the test once, while the others train.
        metrics: see :func:`segue.evaluate`; the first one orders the models. ``["rmse", "mae"]`` rank nothing.
        ks: list lengths for the metrics that are named without one.
        valid: share of all events that is taken from the training part of each fold for validation; 0: none.
        exclude_seen: whether items of a user's history are removed from the ranking.
        seed: seed of the models; the setting ``split.seed`` is that of the folds.
        device: a torch device, such as ``cuda``.
        recipe: see :func:`segue.train`.
        log: receives one line per model and fold, such as ``print``.
        settings: for all models; a model's own settings take precedence.

    Returns:
        ``result.table`` has mean, interval and standard deviation over folds, ``result.values`` one value per fold.

    Raises:
        ValueError: no model, fewer than two folds, an unknown model, setting or metric.
    """
    if isinstance(data, Split):
        raise ValueError("cross_validate: got a split, expected the whole dataset, which is split into folds here")
    dataset = data if isinstance(data, Dataset) else load(data)
    plans = {}
    for name, (key, entry) in named_models(models, settings).items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"models: '{name}' is already trained, expected settings: every fold trains its own model")
        overrides = [f"{setting}={json.dumps(value)}" for setting, value in entry.items()]
        overrides += [f"run.seed={seed}", f"run.device={device}"]
        plans[name] = make_plan({"model": key, "data": dataset.name}, overrides, recipe)
    return cross_validate_plans(
        plans, dataset, folds=folds, metrics=metrics, ks=ks, valid=valid, exclude_seen=exclude_seen, log=log
    )


def cross_validate_plans(
    plans: Mapping[str, Plan],
    data: Dataset,
    *,
    folds: int = 5,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    ks: Sequence[int] = (10,),
    valid: float = 0.1,
    exclude_seen: bool = True,
    log: Callable[[str], None] | None = None,
) -> CrossValidationResult:
    """Cross-validate resolved plans on loaded data.

    The folds are drawn with the seed of the first plan's split.

    Raises:
        ValueError: no plan, fewer than two folds, or models without a metric in common.
    """
    if not plans:
        raise ValueError("models: got none, expected at least one")
    if folds < 2:
        raise ValueError(f"folds: got {folds}, expected at least 2")
    seed = next(iter(plans.values())).split.seed
    values: dict[str, list[dict[str, float]]] = {name: [] for name in plans}
    for fold in range(folds):
        parts = split(data, SplitSettings(strategy="k_fold", folds=folds, fold=fold, valid=valid, seed=seed))
        for name, plan in plans.items():
            validate_inputs(plan, has_query_times=False)
            validate = make_validator(parts.valid, plan.metric, exclude_seen) if len(parts.valid) else None
            run = Run(plan.run.seed, device=plan.run.device)
            model = train(plan.task.model, plan.model, plan.training, parts.train, run, validate)
            result = evaluate(model, parts, metrics=metrics, ks=ks, exclude_seen=exclude_seen)
            values[name].append({metric: found.mean for metric, found in result.estimates.items()})
            if log is not None:
                shown = ", ".join(f"{metric} {mean:.4f}" for metric, mean in values[name][-1].items())
                log(f"fold {fold + 1} of {folds}, {name}: {shown}")
    first = next(iter(values.values()))[0]
    common = tuple(metric for metric in first if all(metric in found for rows in values.values() for found in rows))
    if not common:
        raise ValueError("metrics: the models have no metric in common; name one such as metrics=['ndcg@10']")
    return CrossValidationResult(
        common,
        {name: {metric: tuple(row[metric] for row in rows) for metric in common} for name, rows in values.items()},
    )
