"""Run the trials of one model within a budget, and write the best as a recipe."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segue.core.files import write_json
from segue.core.model import Solver, is_lower_better
from segue.core.registry import model_class
from segue.experiment.inference.argument_checks import describe_value
from segue.experiment.tuning.recipe import describe_values, write_recipe
from segue.experiment.tuning.result import ModelTuning
from segue.experiment.tuning.space import TunedPlan, apply_values, find_space, read_values
from segue.experiment.tuning.study import StoredTrial, Study, open_study, storage_address
from segue.experiment.tuning.trial import Trial
from segue.experiment.tuning.validation import Clock, Report
from segue.version import __version__

__all__ = ["Budget", "TrainPlan", "check_trials", "tune_settings"]

Log = Callable[[str], None]

TrainPlan = Callable[[Any, float, Report], Trial]
"""Trains the model of a plan until a time of the clock at most; reports each validation of a network."""


@dataclass(frozen=True)
class Budget:
    """What each model may use."""

    trials: int
    seconds: float | None = None
    """Time of all trials of a model; ``None``: no limit."""


def check_trials(trials: Any) -> int:
    """Return the number of trials.

    Raises:
        ValueError: it is not a whole number of at least 1.
    """
    if isinstance(trials, bool) or not isinstance(trials, int | np.integer) or trials < 1:
        raise ValueError(f"trials: got {describe_value(trials)}, expected a whole number of at least 1")
    return int(trials)


def tune_settings(
    name: str,
    plan: TunedPlan,
    data: str,
    identity: Sequence[Any],
    train: TrainPlan,
    budget: Budget,
    *,
    folder: Path,
    storage: str | None = None,
    fixed: Collection[str] = (),
    log: Log,
    clock: Clock = time.monotonic,
) -> ModelTuning:
    """Run trials around the settings of ``plan``, and write the best as a recipe.

    A study in the same database continues.

    Args:
        data: name of the data.
        identity: what makes trials comparable beside metric and space, as JSON holds it: settings and hashes of data.
        folder: of all studies; the study gets a folder in it, named after data, model and settings.
        storage: address of the database; ``None``: a file in the folder of the study.
        fixed: settings such as ``model.dropout`` that are not searched.

    Raises:
        ValueError: nothing can be searched, or the settings of ``plan`` cannot be trained in the time.
        Interrupted: the user asked to stop.
    """
    space, notes = find_space(plan, fixed)
    every = [*identity, plan.metric, {key: str(one) for key, one in space.items()}]
    digest = hashlib.sha256(json.dumps(every, sort_keys=True).encode()).hexdigest()[:10]
    title = f"{Path(data.partition('?')[0]).stem}-{plan.task.model}-{digest}"
    folder = folder / title
    start, lower = read_values(plan, space), is_lower_better(plan.metric)
    study = open_study(storage_address(storage, folder), title, lower, plan.run.seed, space, start)
    for note in notes:
        log(f"{name}: {note}")
    log(f"{name}: searching {'; '.join(f'{key} {one}' for key, one in space.items())}")
    _run_trials(name, study, plan, train, budget, log, clock)
    trials = tuple(study.trials)
    if not any(one.mean is not None and one.state in ("complete", "stopped") for one in trials):
        limit = "" if budget.seconds is None else f" within {budget.seconds:g} s"
        running = f"; {study.n_running} trials of other workers are running" if study.n_running else ""
        raise ValueError(f"tune: no trial of '{name}' was validated{limit}{running}; allow more time")
    tuned = ModelTuning(name, plan.metric, plan, space, trials, study.importances(), folder / "recipe.toml")
    write_recipe(tuned.recipe, tuned.plan, _comments(tuned, data))
    write_json(folder / "trials.json", {"data": data, "metric": plan.metric, **tuned.record()})
    return tuned


def _run_trials(
    name: str, study: Study, plan: TunedPlan, train: TrainPlan, budget: Budget, log: Log, clock: Clock
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
            return train(apply_values(plan, values or {}), deadline, report)

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
        start = getattr(tuned.start.task, "recipe", None) or "defaults"
        texts.append(f"The settings that tuning started from ({start}): {first.mean:.4f}.")
    return texts
