"""Tune models on validation, each with the same number of trials and time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.core.registry import model_class
from segue.core.types import Split
from segue.data.splits import split
from segue.evaluation.leakage import check_leakage
from segue.evaluation.ranking import ExcludeSeen
from segue.experiment.arguments import check_device, check_seed, take_data_settings
from segue.experiment.compare import Models, compare, named_models
from segue.experiment.compare_runs import compare_runs, make_plans, own_overrides
from segue.experiment.data import load_data, split_data, validate_inputs
from segue.experiment.inference.argument_checks import FilePath, check_arguments, describe_value
from segue.experiment.paths import runs_folder
from segue.experiment.plan import Plan, resolve_overrides
from segue.experiment.quality import check_parts, check_sampled_ranking, count_parts
from segue.experiment.records.training_record import describe_plan, describe_training_data
from segue.experiment.train_model import TrainingJob, prepare_models
from segue.experiment.tuning.model_study import Budget, check_trials, tune_settings
from segue.experiment.tuning.result import ModelTuning, TuningResult
from segue.experiment.tuning.space import check_tunable, find_space
from segue.experiment.tuning.trial import Trial, TrialParts, train_trial
from segue.experiment.tuning.validation import Clock, Report

__all__ = ["check_validation", "parse_duration", "tune", "tune_plan", "tune_runs"]

Log = Callable[[str], None]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(value: Any, name: str = "time") -> float | None:
    """Return a duration in seconds: a number, or a text such as ``90s`` or ``10m``.

    Raises:
        ValueError: it is not a duration above 0.
    """
    if value is None:
        return None
    number: Any = value
    if isinstance(value, str):
        text = value.strip().lower()
        unit = UNITS.get(text[-1:])
        try:
            number = float(text[:-1] if unit else text) * (unit or 1.0)
        except ValueError:
            number = None
    is_number = isinstance(number, int | float | np.number) and not isinstance(number, bool | np.bool_)
    if not is_number or not 0 < number < float("inf"):
        raise ValueError(f"{name}: got {describe_value(value)}, expected a duration such as 90s, 10m or 2h")
    return float(number)


def tune_plan(
    name: str,
    plan: Plan,
    parts: Split,
    budget: Budget,
    *,
    folder: Path,
    storage: str | None = None,
    fixed: Collection[str] = (),
    progress: bool = False,
    log: Log,
    clock: Clock = time.monotonic,
) -> ModelTuning:
    """Run trials around the settings of ``plan``, and write the best as a recipe.

    A study in the same database continues. The test part is not read.

    Args:
        folder: see :func:`segue.experiment.tuning.model_study.tune_settings`; likewise ``storage`` and ``fixed``.

    Raises:
        ValueError: nothing can be searched, or the settings of ``plan`` cannot be trained in the time.
        Interrupted: the user asked to stop.
    """
    data = TrialParts(parts.train, parts.valid)

    def train(own: Plan, deadline: float, report: Report) -> Trial:
        return train_trial(own, data, deadline=deadline, report=report, progress=progress, clock=clock)

    identity = [describe_plan(plan), describe_training_data(parts)]
    place: dict[str, Any] = {"folder": folder, "storage": storage, "fixed": fixed}
    return tune_settings(name, plan, parts.train.name, identity, train, budget, **place, log=log, clock=clock)


def _check_plans(plans: Mapping[str, Plan], budget: Budget) -> str:
    """Check that models can be tuned together; return their validation metric."""
    if isinstance(budget.trials, bool) or budget.trials < 1:
        raise ValueError(f"trials: got {budget.trials}, expected at least 1")
    for plan in plans.values():
        check_tunable(plan.task.model)
        if plan.evaluation.items != "all":
            raise ValueError(f"evaluation.items: got '{plan.evaluation.items}', but tuning ranks all items; remove it")
        if hasattr(plan.training.loss, "function"):
            raise ValueError(f"loss: got a function, expected the name of a loss to tune '{plan.task.model}'")
    metrics = {name: plan.metric for name, plan in plans.items()}
    if len(set(metrics.values())) > 1:
        found = ", ".join(f"{name}: {metric}" for name, metric in metrics.items())
        raise ValueError(f"metric: the models have different validation metrics ({found}); set metric=... for all")
    return next(iter(metrics.values()))


def check_validation(parts: Split, function: str, sampled: int | None = None) -> None:
    """Check that there is a validation part, and that the split does not leak.

    Args:
        function: name for the message.
        sampled: the setting ``evaluation.sampled``.
    """
    check_parts(parts, ("valid",))
    if not len(parts.valid) or not parts.valid.targets.size:
        raise ValueError(f"{function}: the split has no validation part to choose by, expected some queries")
    if faults := check_leakage(parts):
        raise ValueError("\n".join(["the split leaks, nothing was trained:", *faults]))
    check_sampled_ranking(parts, sampled)


def tune_runs(
    models: Sequence[str],
    task: Mapping[str, Any],
    overrides: Sequence[str],
    budget: Budget,
    *,
    recipe: str | None = None,
    storage: str | None = None,
    folder: Path | None = None,
    test: bool = False,
    progress: bool = False,
    log: Log,
) -> TuningResult:
    """Tune models by their keys, with the same budget for each.

    Args:
        models: see :func:`segue.experiment.compare_runs.compare_runs`; likewise ``task`` and ``overrides``. A setting
            in ``overrides`` keeps its value.
        recipe: file of the settings to start from, for a single model; ``"none"``: defaults; ``None``: the recipes
            that come with Segue.
        storage: address of the database of the studies; ``None``: a file per study.
        folder: of the studies; ``None``: ``tune`` in the folder of the runs.
        test: train the best settings of each model as runs, and compare them on the test part.

    Raises:
        ValueError: models or settings that cannot be tuned or compared, or a split without validation.
        Interrupted: the user asked to stop; the same call continues.
    """
    if test and len(models) < 2:
        raise ValueError(
            f"test: got {', '.join(models)}, expected at least 2 models to compare on the test part; train one with "
            "its recipe and read the test part: segue train --recipe FILE --test"
        )
    if recipe not in (None, "none") and len(models) > 1:
        raise ValueError(f"recipe: got one for {len(models)} models, expected a single model")
    recipes = {} if recipe is None else dict.fromkeys(models, recipe)
    plans = make_plans(models, task, overrides, at_least=1, recipes=recipes)
    metric = _check_plans(plans, budget)
    fixed = _fixed_settings(models, overrides)
    for name, plan in plans.items():  # before any is trained
        find_space(plan, fixed[name])
    folder = runs_folder() / "tune" if folder is None else folder
    tuned: dict[str, ModelTuning] = {}
    for name, plan in plans.items():
        parts = split(load_data(plan, log if not tuned else None, progress), plan.split)
        check_validation(parts, "tune", plan.evaluation.sampled)
        if not tuned:
            log(count_parts(parts))
        options: dict[str, Any] = {"folder": folder, "storage": storage, "fixed": fixed[name]}
        tuned[name] = tune_plan(name, plan, parts, budget, **options, progress=progress, log=log)
    comparison = None
    if test:
        found = {name: one.recipe for name, one in tuned.items()}
        comparison = compare_runs(models, task, overrides, None, recipes=found, log=log)
    return TuningResult(str(task["data"]), metric, tuned, comparison)


def _fixed_settings(models: Sequence[str], overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return by model the settings that the user gives, such as ``model.dropout``."""
    found = {}
    for name, own in own_overrides(models, overrides).items():
        given = resolve_overrides([name.partition("@")[0]], own)
        found[name] = [f"{group}.{key}" for group in ("model", "training") for key in given[group]]
    return found


@check_arguments(skip=("models", "trials", "time", "seed"))
def tune(
    models: Models,
    data: Any,
    *,
    trials: int = 20,
    time: float | str | None = None,
    seed: int = 0,
    device: str = "cpu",
    recipe: FilePath | None = None,
    storage: str | None = None,
    folder: FilePath | None = None,
    exclude_seen: ExcludeSeen = True,
    test: bool = False,
    log: Log | None = None,
    **settings: Any,
) -> TuningResult:
    """Choose the settings of models on validation, with the same budget for each.

    The first trial of a model has its recipe or default settings; the others have values from the space that the
    settings of the model declare. The test part is read only with ``test``. The same call continues an interrupted one.

    Args:
        models: see :func:`segue.compare`; one model is enough. A setting that is given is not searched.
        data: a split; or a dataset or anything that :func:`segue.load` reads, split by leave-one-out unless
            ``settings`` say otherwise.
        trials: number of trials of each model.
        time: time of the trials of each model, in seconds or as ``"10m"``; ``None``: no limit.
        seed: seed of the models and of the values that are tried.
        device: a torch device, such as ``cuda``.
        recipe: see :func:`segue.train`.
        storage: database of the trials: ``sqlite:///FILE``, or ``postgresql://...`` for several processes that work on
            the same trials; ``None``: a file in ``folder``.
        folder: where trials and recipes are stored; ``None``: ``tune`` in the folder of the runs.
        exclude_seen: whether items of a user's history are removed from the ranking.
        test: compare the best settings of each model on the test part, see :func:`segue.compare`.
        log: receives one line per trial, such as ``print``.
        settings: for all models, see :func:`segue.compare`; they are not searched. ``metric`` is the validation metric.

    Returns:
        ``result.best`` is the model that is best on validation, with its ``settings`` and the file ``recipe``;
        ``result.table`` has all trials; ``result.comparison`` the comparison on the test part.

    Raises:
        ValueError: an unknown model or setting, a model without a search space, or a split without validation.
    """
    seed, device, log = check_seed(seed), check_device(device), log or (lambda text: None)
    budget = Budget(check_trials(trials), parse_duration(time))
    keys = [key for key, _ in named_models(models).values()]
    data_settings, settings = take_data_settings(settings, keys)
    entries = named_models(models, settings)
    if not entries:
        raise ValueError("models: got none, expected at least one")
    if test and len(entries) < 2:
        raise ValueError(f"test: got {', '.join(entries)}, expected at least 2 models to compare on the test part")
    if trained := [name for name, (_, entry) in entries.items() if not isinstance(entry, Mapping)]:
        raise ValueError(f"models: '{trained[0]}' is already trained, expected the key of a model or settings")
    parts = split_data(data, data_settings)
    jobs = prepare_models(entries, parts.train.name, {"exclude_seen": exclude_seen}, recipe, "tune")
    plans = {name: _plan_of(job, seed, device) for name, job in jobs.items()}
    fixed = {name: _fixed_names(*entries[name]) for name in jobs}
    metric = _check_plans(plans, budget)
    check_validation(parts, "tune")
    queries = parts.valid.queries
    for name, plan in plans.items():
        validate_inputs(plan, queries.times is not None, bool(queries.context))
        find_space(plan, fixed[name])
    out = runs_folder() / "tune" if folder is None else Path(folder).expanduser()
    tuned = {
        name: tune_plan(name, plan, parts, budget, folder=out, storage=storage, fixed=fixed[name], log=log)
        for name, plan in plans.items()
    }
    comparison = None
    if test:
        winners = {name: {"model": plans[name].task.model, **one.settings} for name, one in tuned.items()}
        protocol: dict[str, Any] = {"exclude_seen": exclude_seen, "device": device, "recipe": "none", "log": log}
        comparison = compare(winners, parts, seeds=(seed,), **protocol)
    return TuningResult(parts.train.name, metric, tuned, comparison)


def _plan_of(job: TrainingJob, seed: int, device: str) -> Plan:
    """Return the settings of a model with seed and device.

    Raises:
        ValueError: a metric that is a function, or callbacks.
    """
    if callable(job.metric) or job.callbacks:
        what = "metric: got a function, expected a name" if callable(job.metric) else "callbacks: expected none"
        raise ValueError(f"{what}, in tune")
    return replace(job.plan, run=job.plan.run.model_copy(update={"seed": seed, "device": device}))


def _fixed_names(key: str, given: Mapping[str, Any]) -> list[str]:
    """Return settings by name with their group."""
    own = model_class(key).Config.model_fields
    return [name if "." in name else f"{'model' if name in own else 'training'}.{name}" for name in given]
