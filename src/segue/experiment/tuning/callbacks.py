"""Callbacks that end a training when its time is over, or when it is pruned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from segue.core.run import Run
from segue.core.types import Dataset
from segue.experiment.tuning.validation import Clock, Recorder, Report
from segue.training.callbacks import Callback, TrainingState

__all__ = ["BatchTimer", "TrialCallback"]

STEPS = 6
"""Steps of a network that are timed, after the first ones."""

WARM_UP = 2
"""First steps, which also compile and allocate."""


@dataclass
class TrialCallback(Callback):
    """Ends the training of a network when it is pruned or its time is over.

    Where ``can_pause`` holds, it is interrupted and can continue from its checkpoint; else it ends with the best epoch.
    """

    run: Run
    recorder: Recorder
    clock: Clock
    deadline: float
    can_pause: bool
    report: Report | None
    epochs: int = 0
    best_epoch: int = 0
    is_pruned: bool = False
    is_over: bool = False
    longest: float = 0.0
    started: float = math.nan

    def on_train_start(self, state: TrainingState) -> None:
        """Start the time of the epoch."""
        self.started, self.epochs = self.clock(), state.epoch

    def on_step_end(self, state: TrainingState) -> None:
        """Interrupt the training if the time is over."""
        if self.clock() >= self.deadline:
            self.is_over = self.run.interrupted = True

    def on_validation_end(self, state: TrainingState) -> None:
        """Report the metric, and stop if the trial is pruned."""
        if self.recorder.is_best:
            self.best_epoch = state.epoch
        if self.report is not None and self.report(state.epoch, self.recorder.last):
            self.is_pruned = True
            state.request_stop()

    def on_epoch_end(self, state: TrainingState) -> None:
        """Stop if the next epoch would end too late."""
        self.epochs = state.epoch
        now = self.clock()
        self.longest, self.started = max(self.longest, now - self.started), now
        if state.epoch < state.n_epochs and now + self.longest > self.deadline:
            self.is_over = True
            if self.can_pause:
                self.run.interrupted = True
            else:
                state.request_stop()


@dataclass
class BatchTimer(Callback):
    """Interrupts a training after a few steps."""

    run: Run
    data: Dataset
    batch_size: int
    clock: Clock
    deadline: float
    started: float = 0.0
    seconds: float | None = None
    """Estimated time of an epoch."""

    def on_train_start(self, state: TrainingState) -> None:
        """Start the time."""
        self.started = self.clock()

    def on_step_end(self, state: TrainingState) -> None:
        """Estimate the time of an epoch, and stop."""
        now = self.clock()
        if state.n_updates <= WARM_UP and now < self.deadline:
            self.seconds, self.started = None, now
            return
        n_timed = max(state.n_updates - WARM_UP, 1)
        n_batches = state.model.batches(self.data, self.batch_size, self.run.rng("batches/0"))[0]
        self.seconds = (now - self.started) / n_timed * n_batches
        if n_timed >= STEPS or now >= self.deadline:
            self.run.interrupted = True
