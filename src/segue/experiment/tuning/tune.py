"""Tune models on validation, each with the same number of trials and time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.core.files import write_json
from segue.core.model import Solver, is_lower_better
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
from segue.experiment.tuning.recipe import describe_values, write_recipe
from segue.experiment.tuning.result import ModelTuning, TuningResult
from segue.experiment.tuning.space import apply_values, check_tunable, find_space, read_values
from segue.experiment.tuning.study import StoredTrial, Study, open_study, storage_address
from segue.experiment.tuning.trial import Trial, TrialParts, train_trial
from segue.experiment.tuning.validation import Clock, Report
from segue.version import __version__

__all__ = ["Budget", "check_validation", "parse_duration", "tune", "tune_plan", "tune_runs"]

Log = Callable[[str], None]

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """What each model may use."""

    trials: int
    seconds: float | None = None
    """Time of all trials of a model; ``None``: no limit."""


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
        folder: of all studies; the study gets a folder in it, named after data, model and settings.
        storage: address of the database; ``None``: a file in the folder of the study.
        fixed: settings such as ``model.dropout`` that are not searched.

    Raises:
        ValueError: nothing can be searched, or the settings of ``plan`` cannot be trained in the time.
        Interrupted: the user asked to stop.
    """
    space, notes = find_space(plan, fixed)
    identity = [describe_plan(plan), describe_training_data(parts), plan.metric, {k: str(v) for k, v in space.items()}]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
    title = f"{Path(parts.train.name.partition('?')[0]).stem}-{plan.task.model}-{digest}"
    folder = folder / title
    start, seed, lower = read_values(plan, space), plan.run.seed, is_lower_better(plan.metric)
    study = open_study(storage_address(storage, folder), title, lower, seed, space, start)
    for note in notes:
        log(f"{name}: {note}")
    log(f"{name}: searching {'; '.join(f'{key} {one}' for key, one in space.items())}")
    _run_trials(name, study, plan, TrialParts(parts.train, parts.valid), budget, progress, log, clock)
    trials = tuple(study.trials)
    if not any(one.mean is not None and one.state in ("complete", "stopped") for one in trials):
        limit = "" if budget.seconds is None else f" within {budget.seconds:g} s"
        running = f"; {study.n_running} trials of other workers are running" if study.n_running else ""
        raise ValueError(f"tune: no trial of '{name}' was validated{limit}{running}; allow more time")
    tuned = ModelTuning(name, plan.metric, plan, space, trials, study.importances(), folder / "recipe.toml")
    write_recipe(tuned.recipe, tuned.plan, _comments(tuned, parts.train.name))
    write_json(folder / "trials.json", {"data": parts.train.name, "metric": plan.metric, **tuned.record()})
    return tuned


def _run_trials(
    name: str,
    study: Study,
    plan: Plan,
    parts: TrialParts,
    budget: Budget,
    progress: bool,
    log: Log,
    clock: Clock,
) -> None:
    """Run trials until the budget is used."""
    is_solver = issubclass(model_class(plan.task.model), Solver)
    before = study.trials
    if before:
        log(f"{name}: continuing after {len(before)} trials")
    while len(done := study.trials) + study.n_running < budget.trials:
        left = None if budget.seconds is None else budget.seconds - sum(one.seconds for one in done)
        expected = max((one.seconds for one in done), default=0.0) if is_solver else 0.0
        if left is not None and left <= expected:
            if len(done) > len(before) or not before:
                log(f"{name}: the time is over after {len(done)} of {budget.trials} trials")
            break
        deadline = float("inf") if left is None else clock() + left

        def objective(values: Mapping[str, Any] | None, report: Report, deadline: float = deadline) -> Trial:
            own = apply_values(plan, values or {})
            return train_trial(own, parts, deadline=deadline, report=report, progress=progress, clock=clock)

        if not study.run_trial(objective, budget.trials):
            break
        log(f"{name}: {_describe_trial(study.trials[-1], plan.metric)}")


def _describe_trial(one: StoredTrial, metric: str) -> str:
    value = one.error if one.mean is None else f"{metric} {one.mean:.4f}"
    state = "" if one.state == "complete" else f"{one.state}, "
    return f"trial {one.number}: {state}{value}, {one.seconds:.1f} s, {describe_values(one.values)}"


def _comments(tuned: ModelTuning, data: str) -> list[str]:
    """Say how the settings of a recipe were found."""
    best, first = tuned.best, tuned.trials[0]
    texts = [
        f"{tuned.start.task.model} on {data}: the best of {len(tuned.trials)} trials on validation, found by Segue "
        f"{__version__}.",
        f"Validation {tuned.metric}: {best.mean:.4f} [{best.low:.4f}, {best.high:.4f}], trial {best.number}.",
    ]
    if best.number and first.mean is not None:
        start = tuned.start.task.recipe or "defaults"
        texts.append(f"The settings that tuning started from ({start}): {first.mean:.4f}.")
    return texts


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
    if isinstance(trials, bool) or not isinstance(trials, int | np.integer) or trials < 1:
        raise ValueError(f"trials: got {describe_value(trials)}, expected a whole number of at least 1")
    budget = Budget(int(trials), parse_duration(time))
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
