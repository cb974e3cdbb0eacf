"""Train one trial, and measure it on validation.

A trial reads the training and the validation part alone; the test part is not passed to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from segue.core.examples.fields import Examples
from segue.core.examples.stream import ExampleStream
from segue.core.model import Model, Solver
from segue.core.registry import model_class
from segue.core.run import Interrupted, Run
from segue.core.types import Dataset, HeldOut
from segue.evaluation.bootstrap import Estimate
from segue.experiment.arguments import device_of_model
from segue.experiment.tuning.space import TunedPlan
from segue.experiment.tuning.validation import Clock, ExampleRecorder, Recorder, Report, ValidationRecorder
from segue.training.train import train

if TYPE_CHECKING:
    from segue.experiment.tuning.callbacks import TrialCallback

__all__ = ["ExampleTrialParts", "TimedRun", "Trial", "TrialParts", "train_trial"]


@dataclass(frozen=True)
class TrialParts:
    """What the trials of a model read: two parts of an interaction log."""

    train: Dataset
    valid: HeldOut

    def recorder(self, plan: Any, clock: Clock) -> Recorder:
        """Return what computes the validation metric of a plan for logs."""
        return ValidationRecorder(self.valid, plan.metric, plan.evaluation.exclude_seen, clock=clock)


@dataclass(frozen=True, eq=False)
class ExampleTrialParts:
    """The same for labeled examples."""

    train: Examples | ExampleStream
    labels_T: NDArray[Any]
    """Labels of the validation rows."""
    predict: Callable[[Model], NDArray[Any]]
    """Returns the logits of the validation rows, ``(T,)``."""

    def recorder(self, plan: Any, clock: Clock) -> Recorder:
        """Return what computes the validation metric of a plan for examples."""
        return ExampleRecorder(self.labels_T, self.predict, plan.metric)


@dataclass(frozen=True)
class Trial:
    """The outcome of one trial."""

    state: Literal["complete", "stopped", "pruned", "paused", "failed"]
    """``stopped``: it ended early because the time was over; ``paused``: it can be continued from its checkpoint."""
    estimate: Estimate | None
    """The best validation metric with its 95 % interval over users; ``None``: it was never validated."""
    seconds: float
    epochs: int | None = None
    """Epochs that a network has completed."""
    best_epoch: int | None = None
    error: str | None = None
    model: Model | None = None


class TimedRun(Run):
    """A run that is interrupted when its time is over.

    For models that train themselves: they read ``interrupted`` after each iteration.
    """

    def __init__(self, seed: int, folder: Path | None, device: str, progress: bool, clock: Clock, deadline: float):
        self._is_interrupted = False
        self._clock, self._deadline = clock, deadline
        super().__init__(seed, folder, device, (), progress)

    @property
    def interrupted(self) -> bool:
        """Whether the user asked to stop, or the time is over."""
        return self._is_interrupted or self.is_over

    @interrupted.setter
    def interrupted(self, value: bool) -> None:
        """Store that the user asked to stop."""
        self._is_interrupted = value

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self._clock() >= self._deadline


def train_trial(
    plan: TunedPlan,
    parts: TrialParts | ExampleTrialParts,
    *,
    folder: Path | None = None,
    deadline: float = math.inf,
    can_pause: bool = False,
    report: Report | None = None,
    progress: bool = False,
    clock: Clock = time.monotonic,
) -> Trial:
    """Train the model of ``plan`` and measure it on validation.

    A network that runs out of time ends after its last full epoch; within its first epoch it is interrupted.

    Args:
        folder: where the checkpoint is written, from which the same call continues; ``None``: nowhere.
        deadline: time in ``clock`` at which training ends.
        can_pause: interrupt a network at the deadline, so that the same call continues it.
        report: receives the metric of each validation of a network, and decides whether it is pruned.

    Raises:
        Interrupted: the user asked to stop.
    """
    started, key = clock(), plan.task.model
    recorder = parts.recorder(plan, clock)
    device, is_solver = device_of_model(key, plan.run.device)[0], issubclass(model_class(key), Solver)
    run: Run
    own: TrialCallback | None = None
    if is_solver:
        run = TimedRun(plan.run.seed, folder, device, progress, clock, deadline)
    else:
        run = Run(plan.run.seed, folder, device, (), progress)
        from segue.experiment.tuning.callbacks import TrialCallback  # needs torch

        own = TrialCallback(run, recorder, clock, deadline, can_pause, report)
    state: Literal["complete", "stopped", "pruned", "paused", "failed"] = "complete"
    error, model = None, None
    is_resumed = folder is not None and (folder / "checkpoint").exists()
    try:
        model = train(key, plan.model, plan.training, parts.train, run, recorder, () if own is None else (own,))
        if is_solver or is_resumed or recorder.is_empty:
            recorder.clear()  # values of other states of the model
            recorder(model)
    except Interrupted:
        is_over = own.is_over if own is not None else isinstance(run, TimedRun) and run.is_over
        if not is_over:
            raise
        state = "paused"
    except ValueError as problem:
        state, error = "failed", str(problem)
    if state == "complete" and own is not None and (own.is_pruned or own.is_over):
        state = "pruned" if own.is_pruned else "stopped"
    estimate = recorder.estimate(plan.run.seed)
    seconds = clock() - started
    if own is None:
        return Trial(state, estimate, seconds, error=error, model=model)
    return Trial(state, estimate, seconds, own.epochs, own.best_epoch or None, error, model)
