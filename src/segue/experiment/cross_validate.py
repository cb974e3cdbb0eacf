"""Cross-validate models over the same folds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from segue.core.config import parse
from segue.core.messages import arg
from segue.core.model import LOWER_IS_BETTER, is_lower_better
from segue.core.run import Run
from segue.core.types import Dataset, Split
from segue.data.splits import SplitSettings, split
from segue.evaluation.beyond_accuracy.list_metrics import known_list_metrics, value_range
from segue.evaluation.metrics import MetricLike, check_ks, find_metric
from segue.evaluation.ranking import ExcludeSeen
from segue.evaluation.warmth import WarmthGroup
from segue.experiment.arguments import check_device, check_seed, take_data_settings
from segue.experiment.compare import Models, named_models
from segue.experiment.data import load_filtered, validate_inputs
from segue.experiment.evaluate import check_list_inputs, check_metrics, evaluate_model, mean_values
from segue.experiment.inference.argument_checks import FilePath, check_arguments
from segue.experiment.paths import runs_folder
from segue.experiment.plan import Plan
from segue.experiment.protocols.arguments import RankingArguments
from segue.experiment.records.held_out_readings import describe_reading, record_reading
from segue.experiment.train_model import TrainingJob, prepare_models, train_job

__all__ = ["CrossValidationResult", "cross_validate", "cross_validate_plans", "fold_settings"]

STRATEGIES = ("k_fold", "user_k_fold")
"""Split strategies of cross-validation."""

FOLD_SETTINGS = (
    "strategy",
    "seed",
    "history",
    "use_query_time",
    "use_query_context",
    "drop_cold_targets",
    "drop_seen_targets",
)
"""Settings of the split that the caller can choose."""


@dataclass(frozen=True, eq=False, repr=False)
class CrossValidationResult:
    """The metrics of each model in each fold; all models use the same folds."""

    metrics: tuple[str, ...]
    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    """One value per fold, by model and metric."""
    warmth: Mapping[str, Sequence[Sequence[WarmthGroup]]] = field(default_factory=dict)
    """The groups of hot, warm and cold items and users in each fold, by model."""

    @property
    def folds(self) -> int:
        """Number of folds."""
        return len(next(iter(next(iter(self.values.values())).values())))

    @property
    def ranking(self) -> list[str]:
        """Names of the models, best first by the first metric."""
        metric = self.metrics[0]
        sign = 1.0 if is_lower_better(metric) else -1.0
        return sorted(self.values, key=lambda name: sign * float(np.mean(self.values[name][metric])))

    @property
    def table(self) -> pl.DataFrame:
        """One row per model and metric, best model first.

        ``low`` and ``high`` are the 95 % interval of Student's t over folds, within the metric's range. It describes
        how much folds vary; as folds share training data, it is not an exact confidence interval.
        """
        rows = [(name, metric, *self._summarize(name, metric)) for name in self.ranking for metric in self.metrics]
        numbers = ("mean", "low", "high", "std")
        schema = {"model": pl.String, "metric": pl.String, **dict.fromkeys(numbers, pl.Float64)}
        return pl.DataFrame(rows, schema=schema, orient="row")

    @property
    def warmth_table(self) -> pl.DataFrame:
        """The metrics of hot, warm and cold items and users, with intervals over folds.

        There is one row per group, model and metric. A group that occurs in fewer than two folds is left out. The
        definition is that of the first fold: by default the threshold of hot items and users differs between folds.
        """
        found: dict[tuple[str, str, str], list[tuple[str, float]]] = {}
        for name in self.ranking:
            for groups in self.warmth.get(name, ()):
                for group in groups:
                    for metric, values in group.values.items():
                        if metric in self.metrics and not np.isnan(values).all():
                            line = (group.definition, float(np.nanmean(values)))
                            found.setdefault((group.name, name, metric), []).append(line)
        order = list(dict.fromkeys(group for group, _, _ in found))
        rows = [
            (group, lines[0][0], name, metric, *_summarize([mean for _, mean in lines], metric), len(lines))
            for (group, name, metric), lines in sorted(found.items(), key=lambda one: order.index(one[0][0]))
            if len(lines) > 1
        ]
        texts = dict.fromkeys(("group", "definition", "model", "metric"), pl.String)
        numbers = dict.fromkeys(("mean", "low", "high", "std"), pl.Float64)
        return pl.DataFrame(rows, schema={**texts, **numbers, "folds": pl.Int64}, orient="row")

    def _summarize(self, name: str, metric: str) -> tuple[float, float, float, float]:
        return _summarize(self.values[name][metric], metric)

    def __repr__(self) -> str:
        width = max(map(len, self.values))
        lines = [
            f"CrossValidationResult: {self.folds} folds, best first by {self.metrics[0]}, 95 % t intervals over folds"
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


def _summarize(folds: Sequence[float], metric: str) -> tuple[float, float, float, float]:
    """Return the mean, the ends of its interval and the standard deviation over folds."""
    from scipy.stats import t

    values = np.asarray(folds)
    mean, std = float(values.mean()), float(values.std(ddof=1))
    half = float(t.ppf(0.975, len(values) - 1)) * std / len(values) ** 0.5
    bottom, top = _range(metric)
    return mean, max(mean - half, bottom), min(mean + half, top), std


@check_arguments(skip=("models", "folds", "metrics", "ks", "seed"))
def cross_validate(
    models: Models,
    data: Any,
    *,
    folds: int = 5,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    ks: Sequence[int] = (10,),
    valid: float = 0.1,
    exclude_seen: ExcludeSeen = True,
    seed: int = 0,
    device: str = "cpu",
    recipe: FilePath | None = None,
    log: Callable[[str], None] | None = None,
    **settings: Any,
) -> CrossValidationResult:
    """Train and evaluate models on the same random folds of the events.

    Each model reads the test part of every fold once. The models are not kept, so the result is the only record of
    these readings. If you choose settings by it, do not report it.

    Args:
        models: see :func:`segue.compare`; one model is enough.
        data: a dataset, or anything that :func:`segue.load` reads, with filters in ``settings``.
        folds: number of folds; each is the test once, while the others train.
        metrics: see :func:`segue.evaluate`; the first one orders the models. ``["rmse", "mae"]`` rank nothing.
        ks: list lengths for the metrics that are named without one.
        valid: share of all events that is taken from the training part of each fold for validation; 0: none.
        exclude_seen: whether items of a user's history are removed from the ranking.
        seed: seed of the models; the setting ``split.seed`` is that of the folds.
        device: a torch device, such as ``cuda``.
        recipe: see :func:`segue.train`.
        log: receives one line per model and fold, such as ``print``.
        settings: for all models; a model's own settings take precedence. Settings of the split are ``seed`` (as
            ``**{"split.seed": 1}``), ``strategy`` (``"k_fold"`` or ``"user_k_fold"``), ``history``,
            ``use_query_time``, ``drop_cold_targets`` and ``drop_seen_targets``. ``loss``, ``metric`` and
            ``callbacks`` are as in :func:`segue.train`.

    Returns:
        ``result.table`` has mean, interval and standard deviation over folds, ``result.values`` one value per fold;
        ``result.warmth_table`` has the metrics of hot, warm and cold items and users.

    Raises:
        ValueError: no model, fewer than two folds, an unknown model, setting or metric.
    """
    if isinstance(data, Split):
        raise ValueError("cross_validate: got a split, expected the whole dataset, which is split into folds here")
    seed, device, ks = check_seed(seed), check_device(device), check_ks(ks)
    check_metrics(metrics, ks)
    keys = [key for key, entry in named_models(models).values() if isinstance(entry, Mapping)]
    data_settings, settings = take_data_settings(settings, keys, "k_fold")
    entries = named_models(models, settings)
    if not entries:
        raise ValueError("models: got none, expected at least one")
    for name, (_, entry) in entries.items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"models: '{name}' is already trained, expected settings: every fold trains its own model")
    parts = fold_settings(data_settings["split"], folds, valid)
    dataset = load_filtered(data, data_settings)
    jobs = prepare_models(entries, dataset.name, {"exclude_seen": exclude_seen}, recipe, "cross_validate")
    return _cross_validate(jobs, dataset, parts, seed, device, metrics, ks, exclude_seen, log)


def cross_validate_plans(
    plans: Mapping[str, Plan],
    data: Dataset,
    *,
    folds: int = 5,
    metrics: Sequence[MetricLike] | MetricLike | None = None,
    ks: Sequence[int] = (10,),
    valid: float = 0.1,
    exclude_seen: ExcludeSeen = True,
    split_settings: Mapping[str, Any] = MappingProxyType({}),
    log: Callable[[str], None] | None = None,
    command: str = "cross_validate_plans",
) -> CrossValidationResult:
    """Cross-validate resolved plans on loaded data.

    Each reading of the test part of a fold is recorded in the folder of the runs.

    Args:
        split_settings: settings of the folds, see :func:`fold_settings`; without a seed, that of the first plan's
            split is used.
        command: what reads the test parts, for the record.

    Raises:
        ValueError: no plan, fewer than two folds, or models without a metric in common.
    """
    if not plans:
        raise ValueError("models: got none, expected at least one")
    check_metrics(metrics, check_ks(ks))
    first = next(iter(plans.values()))
    parts = fold_settings({"seed": first.split.seed, **split_settings}, folds, valid)
    jobs = {name: TrainingJob(plan, plan.training, plan.metric) for name, plan in plans.items()}
    return _cross_validate(
        jobs, data, parts, first.run.seed, first.run.device, metrics, ks, exclude_seen, log, record_as=command
    )


def fold_settings(given: Mapping[str, Any], folds: int, valid: float) -> SplitSettings:
    """Return the settings of the first of ``folds`` splits.

    Args:
        given: the settings of the split that the caller chose.
        valid: share of validation.

    Raises:
        ValueError: fewer than two folds, or a setting that k-fold splits do not use.
    """
    if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or folds < 2:
        raise ValueError(f"folds: got {folds!r}, expected at least 2")
    strategy = given.get("strategy", "k_fold")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: got {strategy!r}, expected {' or '.join(STRATEGIES)}")
    if unused := [name for name in given if name not in FOLD_SETTINGS]:
        hint = f"; use {', '.join(arg(name) for name in ('folds', 'valid'))}" if {*unused} & {"folds", "valid"} else ""
        raise ValueError(
            f"{', '.join(unused)}: not used by cross-validation, expected {', '.join(FOLD_SETTINGS)}{hint}"
        )
    if "history" in given and strategy != "user_k_fold":
        raise ValueError("history: only used by strategy user_k_fold")
    return parse(SplitSettings, {**given, "strategy": strategy, "folds": int(folds), "valid": float(valid)}, "split")


def _cross_validate(
    jobs: Mapping[str, TrainingJob],
    data: Dataset,
    settings: SplitSettings,
    seed: int,
    device: str,
    metrics: Sequence[MetricLike] | MetricLike | None,
    ks: Sequence[int],
    exclude_seen: ExcludeSeen,
    log: Callable[[str], None] | None,
    record_as: str | None = None,
) -> CrossValidationResult:
    """Train and evaluate the models on each fold.

    With ``record_as``, each reading of a test part is recorded as read by that command.
    """
    for job in jobs.values():
        validate_inputs(job.plan, settings.use_query_time, settings.use_query_context)
    values: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    warmth: dict[str, list[Sequence[WarmthGroup]]] = {name: [] for name in jobs}
    for fold in range(settings.folds):
        parts = split(data, settings.model_copy(update={"fold": fold}))
        if fold == 0:
            check_list_inputs(metrics, ks, parts.test, parts.train)
        for name, job in jobs.items():
            model = train_job(job, parts, Run(seed, device=device))
            result = evaluate_model(
                model,
                parts,
                RankingArguments(None, exclude_seen, "all", None, metrics, tuple(ks)),
                command="segue.cross_validate",
            )
            if record_as is not None:
                record_reading(runs_folder(), describe_reading(name, parts, mean_values(result), record_as))
            values[name].append({metric: found.mean for metric, found in result.estimates.items()})
            warmth[name].append(result.warmth)
            if log is not None:
                shown = ", ".join(f"{metric} {mean:.4f}" for metric, mean in values[name][-1].items())
                log(f"fold {fold + 1} of {settings.folds}, {name}: {shown}")
    first = next(iter(values.values()))[0]
    common = tuple(metric for metric in first if all(metric in found for rows in values.values() for found in rows))
    if not common:
        raise ValueError("metrics: the models have no metric in common; name one such as metrics=['ndcg@10']")
    return CrossValidationResult(
        common,
        {name: {metric: tuple(row[metric] for row in rows) for metric in common} for name, rows in values.items()},
        warmth,
    )


def _range(metric: str) -> tuple[float, float]:
    """Return the range of a metric; that of a user's own metric is not known."""
    if metric in LOWER_IS_BETTER:
        return 0.0, math.inf
    key = re.split("[:@]", metric)[0]
    if key in known_list_metrics():
        return value_range(key)
    return (0.0, 1.0) if find_metric(metric.partition("@")[0]) is not None else (-math.inf, math.inf)
