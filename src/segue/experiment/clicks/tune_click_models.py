"""Tune click-through models on validation, each with the same budget."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from segue.core.messages import arg
from segue.data.examples.splits import ExampleSplit
from segue.data.raw_log import Log, no_log
from segue.experiment.arguments import as_assignments
from segue.experiment.clicks.click_plan import ClickPlan, changed_values, given_settings, read_click_plan
from segue.experiment.clicks.compare_click_plans import (
    ComparedModels,
    compare_on_split,
    make_compared_plans,
    own_click_overrides,
    read_click_split,
)
from segue.experiment.clicks.train_click_model import VALIDATION_HINT, make_click_validator, prepare_rows
from segue.experiment.paths import runs_folder
from segue.experiment.tuning.model_study import Budget, tune_settings
from segue.experiment.tuning.result import ModelTuning, TuningResult
from segue.experiment.tuning.space import check_tunable, find_space
from segue.experiment.tuning.trial import ExampleTrialParts, Trial, train_trial
from segue.experiment.tuning.validation import Report

__all__ = ["check_click_plans", "tune_click_plans", "tune_click_runs"]


def tune_click_runs(
    models: Sequence[str],
    task: Mapping[str, Any],
    overrides: Sequence[str],
    budget: Budget,
    *,
    recipe: str | None = None,
    storage: str | None = None,
    folder: Path | None = None,
    read_test: bool = False,
    progress: bool = False,
    log: Log = no_log,
) -> TuningResult:
    """Tune models by their keys, with the same budget for each.

    Args:
        models: keys, or ``KEY@LABEL``.
        task: values of :class:`segue.experiment.clicks.click_plan.ClickTask` but ``model``.
        overrides: settings, which are not searched; those of one model are ``NAME.KEY=VALUE``.
        recipe: file of the settings to start from, for a single model; ``None``: the defaults.
        storage: address of the database of the studies; ``None``: a file per study.
        folder: of the studies; ``None``: ``tune`` in the folder of the runs.
        read_test: train the best settings of each model, and compare them on the test part.

    Raises:
        ValueError: models or settings that cannot be tuned or compared, or a split without validation.
        Interrupted: the user asked to stop; the same call continues.
    """
    if not models or len(set(models)) < len(models):
        raise ValueError(f"models: got {', '.join(models) or 'none'}, expected at least one, each once")
    if recipe is not None and len(models) > 1:
        raise ValueError(f"{arg('recipe')}: got one for {len(models)} models, expected a single model")
    if read_test and len(models) < 2:
        raise ValueError(
            f"{arg('read_test')}: got {models[0]} alone, expected at least 2 models to compare on the test part; train "
            "one with its recipe: segue clicks train --recipe FILE --read-test"
        )
    compared = ComparedModels(tuple(models), {}, {})
    plans = {name: plan for name, (plan,) in make_compared_plans(compared, task, overrides, ()).items()}
    if recipe is not None:
        model_task = {**task, "model": plans[models[0]].task.model}
        plans = {models[0]: read_click_plan(Path(recipe).expanduser(), model_task, overrides)}
    own = own_click_overrides(models, overrides)
    fixed = {name: given_settings(plan.task.model, own[name]) for name, plan in plans.items()}
    check_click_plans(plans, fixed)
    split = read_click_split({name: [plan] for name, plan in plans.items()}, models, log)
    out = runs_folder() / "tune" if folder is None else folder
    tuned = tune_click_plans(plans, fixed, split, budget, folder=out, storage=storage, progress=progress, log=log)
    data, metric = split.train.name, next(iter(plans.values())).metric
    if not read_test:
        return TuningResult(data, metric, tuned)
    best = [text for name, one in tuned.items() for text in _best_settings(name, one)]
    digest = hashlib.sha256("\n".join([split.rows_hash, *overrides, *best]).encode()).hexdigest()[:10]
    where: dict[str, Any] = {"folder": out / f"compare-{digest}", "progress": progress, "log": log}
    comparison = compare_on_split(compared, task, [*overrides, *best], read_test=True, **where)
    return TuningResult(data, metric, tuned, comparison)


def check_click_plans(plans: Mapping[str, ClickPlan], fixed: Mapping[str, Collection[str]]) -> None:
    """Check before anything is read that all models can be tuned by the same metric.

    Raises:
        ValueError: one has nothing to search, or another metric.
    """
    for name, plan in plans.items():
        check_tunable(plan.task.model)
        find_space(plan, fixed[name])
        if plan.run.track:
            raise ValueError("run.track: trials have no trackers; leave it out")
    metrics = {name: plan.metric for name, plan in plans.items()}
    if len(set(metrics.values())) > 1:
        found = ", ".join(f"{name}: {metric}" for name, metric in metrics.items())
        raise ValueError(f"metric: the models have different validation metrics ({found}); set metric=... for all")


def tune_click_plans(
    plans: Mapping[str, ClickPlan],
    fixed: Mapping[str, Collection[str]],
    split: ExampleSplit,
    budget: Budget,
    *,
    folder: Path,
    storage: str | None = None,
    progress: bool = False,
    log: Log = no_log,
) -> dict[str, ModelTuning]:
    """Run trials around the settings of each plan, and write the best as recipes.

    The test part is not read. Columns are encoded once per model, as no setting of the encoding is searched.

    Args:
        plans: by name; see :func:`check_click_plans`.
        fixed: by name, settings such as ``model.dropout`` that are not searched.
        folder: of all studies.
        storage: address of their database; ``None``: a file in the folder of each study.

    Raises:
        ValueError: the split has no validation rows, or the settings of a plan cannot be trained in the time.
        Interrupted: the user asked to stop.
    """
    if not len(split.valid):
        raise ValueError(f"tune: the split has no validation rows to choose by, expected some; {VALIDATION_HINT}")
    found = {}
    for name, plan in plans.items():
        rows = prepare_rows(plan, split.train, split.valid, progress, log)
        assert rows.held_out is not None
        make_click_validator(rows.held_out)  # checks the labels
        parts = ExampleTrialParts(rows.examples, rows.held_out.labels_T, rows.held_out.predict)

        def train(own: ClickPlan, deadline: float, report: Report, parts: ExampleTrialParts = parts) -> Trial:
            return train_trial(own, parts, deadline=deadline, report=report, progress=progress)

        values = plan.values()
        identity = [
            {group: values[group] for group in ("model", "training", "examples")},
            {"seed": plan.run.seed, "memory": plan.memory, "buffer_rows": plan.run.buffer_rows},
            [split.train.rows_hash, split.valid.rows_hash],
        ]
        place: dict[str, Any] = {"folder": folder, "storage": storage, "fixed": fixed[name]}
        found[name] = tune_settings(name, plan, split.train.name, identity, train, budget, **place, log=log)
    return found


def _best_settings(name: str, tuned: ModelTuning) -> list[str]:
    """Return the best settings of a model as overrides."""
    assert isinstance(tuned.plan, ClickPlan)
    values = {
        f"{name}.{group}.{key}": value
        for group, found in changed_values(tuned.plan).items()
        if group in ("model", "training")
        for key, value in found.items()
    }
    return as_assignments(values)
