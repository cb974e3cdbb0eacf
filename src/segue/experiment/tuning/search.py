"""Search for the best model within a time: baselines, cheap models, networks.

Networks with a recipe for the data come before those without. If there are several, the first part of the time is a
race: each trains for the same time. The one that is then best on validation continues from its checkpoint. What is left
is spent on other settings of the best model. Nothing here reads the test part.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from segue.core.config import search_space
from segue.core.model import Solver
from segue.core.registry import model_class
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.simple_baselines import RANKING_BASELINES, ranking_baselines, skipped_baselines
from segue.experiment.plan import Plan
from segue.experiment.tuning.pilot import dense_seconds, epoch_seconds, sample_seconds
from segue.experiment.tuning.recipe import changed_settings, describe_values
from segue.experiment.tuning.space import apply_values, find_space, read_values
from segue.experiment.tuning.study import open_study
from segue.experiment.tuning.trial import Trial, TrialParts, train_trial
from segue.experiment.tuning.validation import Clock, Report

__all__ = ["Attempt", "ModelSearch"]

CHEAP_SHARE = 0.15
"""Share of the time after the baselines for models without a training loop."""

RACE_SHARE = 0.4
"""Share of the time left for networks that all of them train for, before the best one continues."""

SCHEDULE_SHARE = 0.85
"""Share of its time to which the learning-rate schedule of a network is shortened, as validation takes time, too."""

EPOCHS_OF_RACE = 1.1
"""Epochs that a network has to complete in the race."""

CLOSE = 0.8
"""Share of the best value in the race from which a network may continue when those before it have finished."""

TRIALS = 12
"""Maximum number of trials of a cheap model, and of other settings of the best network."""

BRIEF = 0.05
"""Share of the time that a simple baseline may take to be measured even if the time is over."""

MARGIN = 0.03
"""Share of the time that is kept free, for what estimates do not foresee."""

CLOSED_FORM = ("item_knn", "user_knn", "svd", "slim", "cease", "content")
"""Models that are trained in one step, so that their training cannot be interrupted."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Attempt:
    """Something that was tried."""

    model: str
    """Key of the model."""
    kind: Literal["baseline", "model"]
    plan: Plan
    estimate: Estimate | None
    """The validation metric with its interval; ``None``: not measured."""
    seconds: float
    state: str
    """``complete``, ``stopped`` (the time was over), ``pruned`` or ``failed``."""
    note: str = ""
    checkpoint: Path | None = None
    """Folder with the checkpoint of a network, from which the model is built without training it again."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that differ from the defaults."""
        values = changed_settings(self.plan.model) | changed_settings(self.plan.training)
        return {name: value for name, value in values.items() if name != "metric"}

    def record(self) -> dict[str, Any]:
        """Return the attempt as JSON holds it."""
        found = self.estimate
        interval = None if found is None else [round(one, 6) for one in (found.mean, found.low, found.high)]
        about = {"seconds": round(self.seconds, 3), "state": self.state, "note": self.note}
        return {"model": self.model, "kind": self.kind, "settings": self.settings, "valid": interval, **about}


@dataclass(eq=False)
class _Racer:
    """A network in the race."""

    plan: Plan
    folder: Path
    epoch: float
    """Estimated seconds per epoch."""
    seconds: float = 0.0
    trial: Trial | None = None
    estimate: Estimate | None = None

    @property
    def value(self) -> float:
        return -1.0 if self.estimate is None else self.estimate.mean


@dataclass(eq=False)
class ModelSearch:
    """Tries models on one split until the time is over.

    Args:
        parts: the training and the validation part.
        plans: settings to start from by model, in the order in which they are tried; likewise ``baselines``.
        deadline: time in ``clock`` at which everything ends, with ``total`` seconds in all.
        folder: of checkpoints while the search runs.
    """

    parts: TrialParts
    metric: str
    plans: Mapping[str, Plan]
    baselines: Mapping[str, Plan]
    exclude_seen: Any
    seed: int
    total: float
    deadline: float
    folder: Path
    clock: Clock
    log: Log
    overhead: float = 0.0
    """Seconds that the final run needs to load and split the data."""
    attempts: list[Attempt] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def run(self) -> Attempt:
        """Try everything that the time allows; return the best attempt on validation."""
        self._measure_baselines()
        solvers = [key for key in self.plans if issubclass(model_class(key), Solver)]
        cheap_end = self.clock() + CHEAP_SHARE * (self.deadline - self.clock())
        for position, key in enumerate(solvers):
            share = (cheap_end - self.clock()) / (len(solvers) - position)
            self._try_solver(key, min(self.clock() + share, self._end()))
        networks = [key for key in self.plans if key not in solvers]
        tuned = [key for key in networks if self.plans[key].task.recipe is not None]
        self._race(tuned)
        self._race([key for key in networks if key not in tuned])
        self._use_rest()
        return self.best

    @property
    def best(self) -> Attempt:
        """The best attempt on validation.

        Of equal ones it is the first, so that a baseline precedes a model.
        """
        measured = [one for one in self.attempts if one.estimate is not None and one.state in ("complete", "stopped")]
        return max(measured, key=lambda one: one.estimate.mean if one.estimate else -1.0)

    @property
    def strongest_baseline(self) -> Attempt:
        """The best simple baseline on validation."""
        found = [one for one in self.attempts if one.kind == "baseline" and one.estimate is not None]
        return max(found, key=lambda one: one.estimate.mean if one.estimate else -1.0)

    def _end(self) -> float:
        """Return when trials have to end, so that the final run has its time.

        It evaluates the model, and trains and evaluates the strongest baseline twice; it trains the best attempt again
        unless there is a checkpoint.
        """
        best = self.best
        again = 0.0 if best.checkpoint is not None else best.seconds
        return self.deadline - MARGIN * self.total - self.overhead - 2.0 * self.strongest_baseline.seconds - again

    def _add(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        found, settings = attempt.estimate, describe_values({f".{k}": v for k, v in attempt.settings.items()})
        value = attempt.note if found is None else f"{self.metric} {found}"
        self.log(f"{attempt.model}: {value}, {attempt.seconds:.1f} s{f', {settings}' if settings else ''}")

    def _skip(self, key: str, reason: str) -> None:
        self.skipped[key] = reason
        self.log(f"{key}: skipped: {reason}")

    def _measure_baselines(self) -> None:
        """Measure the simple baselines on validation.

        The first one is always measured, and the others even after the time if those before were brief; EASE is not.
        """
        usable = ranking_baselines(self.parts.train, self.exclude_seen)
        reasons = skipped_baselines(self.parts.train, self.exclude_seen)
        for name in RANKING_BASELINES:
            if name not in usable:
                self.skipped[name] = reasons.get(name, "the data has too many items or pairs of events")
                continue
            left = self.deadline - self.clock()
            expected = dense_seconds(self.parts.train.n_items, self.clock) if name == "ease" else 0.0
            is_brief = name != "ease" and all(one.seconds <= BRIEF * self.total for one in self.attempts)
            is_long = 3.0 * expected > CHEAP_SHARE * self.total  # it is trained thrice
            if self.attempts and (is_long or (left <= 0.0 and not is_brief)):
                self._skip(name, _too_long(expected, left))
                continue
            plan = self.baselines[name]
            found = train_trial(plan, self.parts, clock=self.clock)
            self._add(Attempt(name, "baseline", plan, found.estimate, found.seconds, found.state, found.error or ""))

    def _try_solver(self, key: str, end: float) -> None:
        """Run trials of a model without a training loop, until ``end``."""
        plan, left = self.plans[key], end - self.clock()
        if key == "ease":
            known = [one.seconds for one in self.attempts if one.model == key]
            if not known:
                self._skip(key, self.skipped.get(key, "it was not measured as a baseline"))
                return
            expected = known[0]
        else:
            try:
                expected = (
                    sample_seconds(plan, self.parts.train, self.clock) if key in CLOSED_FORM and left > 0 else 0.0
                )
            except ValueError as error:  # the data lacks something that the model needs
                self._skip(key, str(error).splitlines()[0])
                return
        if left <= expected:
            self._skip(key, _too_long(expected, left))
            return
        self._run_study(plan, None, end, expected)

    def _run_study(self, plan: Plan, first: Trial | None, end: float, expected: float, seed: int = 0) -> None:
        """Run trials around the settings of ``plan`` until ``end``.

        Args:
            first: the outcome of the settings of ``plan``, if it is known.
            expected: seconds of a trial.
            seed: added to that of the search.
        """
        key, is_solver = plan.task.model, issubclass(model_class(plan.task.model), Solver)
        if not search_space(model_class(key).Config):
            self._add_trial(plan, train_trial(plan, self.parts, deadline=end, clock=self.clock), None)
            return
        space, _ = find_space(plan)
        study = open_study(None, key, False, self.seed + seed, space, read_values(plan, space))

        def objective(values: Mapping[str, Any] | None, report: Report) -> Trial:
            if values is None and first is not None:
                return first
            own = apply_values(plan, values or {})
            folder = None if is_solver else self.folder / f"{key}-{len(study.trials)}"
            found = train_trial(own, self.parts, folder=folder, deadline=end, report=report, clock=self.clock)
            self._add_trial(own, found, folder)
            return replace(found, state="pruned") if found.state == "failed" and values is None else found

        while len(study.trials) < TRIALS:
            again = expected if is_solver else 0.0  # the final run has no checkpoint
            if self.clock() + expected > min(end, self._end() - again):
                break
            started = self.clock()
            if not study.run_trial(objective, TRIALS):
                break
            expected = max(expected, self.clock() - started)

    def _add_trial(self, plan: Plan, found: Trial, folder: Path | None) -> None:
        """Record a trial; of a network that is not the best, the checkpoint is deleted."""
        state, note = ("stopped" if found.state == "paused" else found.state), found.error or ""
        usable = found.estimate is not None and (folder is None or bool(found.epochs))
        if state == "stopped":
            note = f"the time was over after {found.epochs} epochs" if found.epochs else "the time was over"
            if usable and folder is not None:  # the model is the best of these epochs, without training any further
                training = plan.training.model_copy(update={"epochs": found.epochs})
                plan = replace(plan, training=training)
            elif folder is None:
                usable = False  # a solver that was interrupted has no model
        before = self.best if self.attempts else None
        attempt = Attempt(
            *(plan.task.model, "model", plan, found.estimate if usable else None, found.seconds, state, note),
            checkpoint=folder if usable else None,
        )
        self._add(attempt)
        if folder is not None and self.best is not attempt:
            shutil.rmtree(folder, ignore_errors=True)
        elif before is not None and before.checkpoint is not None and self.best is attempt:
            shutil.rmtree(before.checkpoint, ignore_errors=True)

    def _race(self, keys: list[str]) -> None:
        """Train networks for the same time, then continue with the best one.

        A single one has all the time.
        """
        racers = self._find_racers(keys)
        left = max(self._end() - self.clock(), 0.0)
        share = left if len(racers) == 1 else RACE_SHARE * left / max(len(racers), 1)
        for racer in racers:
            winner = left - share * (len(racers) - 1)  # the time of this network if it is the best
            racer.plan = _fit_schedule(racer.plan, racer.epoch, SCHEDULE_SHARE * winner)
            self._advance(racer, min(self.clock() + share, self._end()), can_pause=len(racers) > 1)
        paused = [racer for racer in racers if racer.trial is not None and racer.trial.state == "paused"]
        for racer in sorted(paused, key=lambda one: -one.value):
            is_close = racer.value >= CLOSE * max(one.value for one in racers)
            if is_close and self._end() - self.clock() > racer.epoch:
                self._advance(racer, self._end(), can_pause=False)
        for racer in sorted(racers, key=lambda one: -one.value):
            if racer.trial is not None:
                total = replace(racer.trial, estimate=racer.estimate, seconds=racer.seconds)
                self._add_trial(racer.plan, total, racer.folder)

    def _find_racers(self, keys: list[str]) -> list[_Racer]:
        """Return the networks that can complete an epoch in their share of the time.

        Others are skipped, the most expensive ones first.
        """
        racers: list[_Racer] = []
        for position, key in enumerate(keys):
            left = self._end() - self.clock()
            if left <= MARGIN * self.total:
                self._skip(key, _too_long(0.0, left))
                continue
            pilot_end = self.clock() + left / (4 * len(keys) - position)
            try:
                epoch = epoch_seconds(self.plans[key], self.parts.train, self.clock, pilot_end)
            except ValueError as error:
                self._skip(key, str(error).splitlines()[0])
                continue
            left = self._end() - self.clock()
            if 2.0 * epoch > left:
                self._skip(key, f"an epoch takes about {epoch:.0f} s, and {max(left, 0.0):.0f} s are left")
                continue
            racers.append(_Racer(self.plans[key], self.folder / f"race-{key}", epoch))
        left = max(self._end() - self.clock(), 0.0)
        while len(racers) > 1:
            longest, share = max(racers, key=lambda one: one.epoch), RACE_SHARE * left / len(racers)
            if EPOCHS_OF_RACE * longest.epoch <= share:
                break
            reason = f"an epoch takes about {longest.epoch:.0f} s, and cheaper networks are compared for {share:.0f} s"
            self._skip(longest.plan.task.model, reason)
            racers.remove(longest)
        return racers

    def _use_rest(self) -> None:
        """Try other settings of the best model that declares some."""
        measured = [one for one in self.attempts if one.kind == "model" and one.estimate and one.state == "complete"]
        for best in sorted(measured, key=lambda one: -one.estimate.mean if one.estimate else 0.0):
            if search_space(model_class(best.model).Config):
                known = Trial("complete", best.estimate, best.seconds)
                self._run_study(best.plan, known, self._end(), best.seconds, seed=1)
                return

    def _advance(self, racer: _Racer, end: float, can_pause: bool) -> None:
        """Train a network until ``end``."""
        found = train_trial(
            racer.plan, self.parts, folder=racer.folder, deadline=end, can_pause=can_pause, clock=self.clock
        )
        racer.seconds += found.seconds
        racer.trial = found
        if found.estimate is not None and found.estimate.mean >= racer.value:
            racer.estimate = found.estimate
        value = found.error or ("no epoch finished" if racer.estimate is None else f"{self.metric} {racer.estimate}")
        self.log(f"{racer.plan.task.model}: {found.state} after {racer.seconds:.1f} s: {value}")


def _fit_schedule(plan: Plan, epoch: float, seconds: float) -> Plan:
    """Shorten a learning-rate schedule to the epochs for which there is time."""
    possible = max(int(seconds / max(epoch, 1e-9)), 1)
    if plan.training.schedule == "constant" or plan.training.epochs <= possible:
        return plan
    training = plan.training.model_copy(update={"epochs": possible, "warmup": min(plan.training.warmup, possible / 4)})
    return replace(plan, training=training)


def _too_long(expected: float, left: float) -> str:
    if expected <= 0.0 or left <= 0.0:
        return "the time was over"
    return f"its training takes about {expected:.0f} s, and {left:.0f} s are left for it"
