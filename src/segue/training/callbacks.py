"""Callbacks of the training loop: hooks that observe training and may stop it.

The loop runs its own early stopping, learning-rate reductions, history, progress bar and checkpoints as callbacks;
:func:`segue.training.train.train` takes further ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from segue.core.model import LOWER_IS_BETTER
from segue.core.network import Network
from segue.core.run import Progress, Run

__all__ = ["Callback", "EarlyStopping", "History", "PlateauSchedule", "ProgressBar", "TrainingState"]


@dataclass(frozen=True, eq=False)
class TrainingState:
    """State of a training in progress, as seen by callbacks."""

    model: Network
    """The network itself, not a copy; with ``ema`` it has the averaged weights during validation."""
    epoch: int
    """Current epoch, counted from 1; at the start of training the number of epochs already completed."""
    n_epochs: int
    """Maximum number of epochs."""
    batch: int
    """Batches of the current epoch processed so far."""
    n_updates: int
    """Optimizer steps so far, over all epochs."""
    loss: float
    """Mean loss per target of the current epoch so far; NaN before its first batch."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Values logged for the epoch: ``loss``, ``learning_rate``, ``seconds``, ``targets_per_second`` and, after a
    validation, ``valid/NAME`` and ``validation_seconds``; complete in :meth:`Callback.on_epoch_end`."""
    validation: Mapping[str, float] = field(default_factory=dict)
    """Validation metrics by name, such as ``ndcg@10``; empty where the epoch has no validation."""
    request_stop: Callable[[], None] = lambda: None
    """Call it to end training after the current epoch. A resumed run remembers the request."""


class Callback:
    """Base of callbacks: hooks of the training loop that do nothing.

    Override the hooks you need.

    Callbacks run in the order given, after early stopping and history and before the checkpoint of the same moment.
    They must not change the model: a resumed run would differ from an uninterrupted one. A callback's own attributes
    are not part of the checkpoint.
    """

    def on_train_start(self, state: TrainingState) -> None:
        """Run once before the first batch, also when training resumes from a checkpoint."""

    def on_step_end(self, state: TrainingState) -> None:
        """Run after every optimizer step."""

    def on_validation_end(self, state: TrainingState) -> None:
        """Run after every validation, while the model has the weights that were validated."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """Run after every epoch, after its validation."""

    def on_train_end(self, state: TrainingState) -> None:
        """Run once after the last epoch, when the model has its final weights.

        Not after an error or interruption.
        """


@dataclass
class EarlyStopping(Callback):
    """Keep the best validated weights, and stop when there is no improvement.

    Training stops after ``patience`` validations without improvement.

    Args:
        metric: name of the validation metric that selects the best epoch.
    """

    metric: str
    patience: int
    best: float = -math.inf
    """Best value so far, negated for metrics where lower is better."""
    best_epoch: int = 0
    """Epoch of the best value, counted from 1; 0: no validation yet."""
    n_without_improvement: int = 0
    """Validations since the best one."""
    best_arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    """Copy of the model's arrays at the best validation."""

    def on_validation_end(self, state: TrainingState) -> None:
        """Compare the metric with the best so far.

        Raises:
            ValueError: validation does not compute the metric.
        """
        if self.metric not in state.validation:
            raise ValueError(
                f"training.metric: got '{self.metric}', expected one of the validation metrics: "
                f"{', '.join(state.validation)}"
            )
        value = state.validation[self.metric]
        value = -value if self.metric in LOWER_IS_BETTER else value
        self.n_without_improvement += 1
        if value > self.best:
            self.best, self.best_epoch, self.n_without_improvement = value, state.epoch, 0
            self.best_arrays = {name: array.copy() for name, array in state.model.arrays().items()}
        if self.n_without_improvement >= self.patience:
            state.request_stop()


@dataclass
class PlateauSchedule(Callback):
    """Count a learning-rate reduction when validation does not improve.

    There is one after every ``n_validations`` validations without improvement. Runs after ``early_stopping``, whose
    counter it reads.
    """

    early_stopping: EarlyStopping
    n_validations: int
    n_reductions: int = 0

    def on_validation_end(self, state: TrainingState) -> None:
        """Count a reduction where the plateau is long enough."""
        waited = self.early_stopping.n_without_improvement
        if waited and waited % self.n_validations == 0:
            self.n_reductions += 1


@dataclass
class History(Callback):
    """Write the metrics of every epoch to the run's history and its trackers."""

    run: Run

    def on_epoch_end(self, state: TrainingState) -> None:
        """Log the epoch."""
        self.run.log(state.epoch, state.metrics)


@dataclass
class ProgressBar(Callback):
    """Advance a progress bar by batches.

    Show epoch, loss and the best validation metric.
    """

    advance: Progress
    early_stopping: EarlyStopping
    n_batches: int
    """Batches per epoch."""
    n_shown: int = 0

    def on_train_start(self, state: TrainingState) -> None:
        """Skip what was done before training was resumed."""
        self.n_shown = state.epoch * self.n_batches + state.batch
        self.advance(self.n_shown)

    def on_step_end(self, state: TrainingState) -> None:
        """Show the position and the losses."""
        best = self.early_stopping
        note = f" {best.metric} {abs(best.best):.4f}" if best.best_epoch else ""
        position = (state.epoch - 1) * self.n_batches + state.batch
        self.advance(position - self.n_shown, f"epoch {state.epoch} loss {state.loss:.3f}{note}")
        self.n_shown = position
