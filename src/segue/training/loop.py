"""Train a network: one loop for all models, losses and optimizers.

Every random stream of a step follows from the seed, the epoch and the batch, so a checkpoint needs no generator state
and a resumed run is bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal, cast

import torch

from segue.core.config import Settings
from segue.core.examples.fields import Examples
from segue.core.examples.stream import ExampleStream
from segue.core.memory_check import check_memory, size_settings
from segue.core.model import Model, Validate
from segue.core.model_arrays import explain_divergence
from segue.core.network import Network
from segue.core.run import Interrupted, Run
from segue.core.types import DataSchema, Dataset
from segue.training.callbacks import Callback, EarlyStopping, History, PlateauSchedule, ProgressBar, TrainingState
from segue.training.checkpoint import Checkpointer, Position
from segue.training.configured_loss import build_loss
from segue.training.ema import WeightEMA
from segue.training.flops import count_flops
from segue.training.gradients import GradientBuffer
from segue.training.optim import LAZY, build_optimizer, learning_rate
from segue.training.settings import Training
from segue.training.settings_checks import ignored_loss_settings, is_sampled

__all__ = ["fit", "seed_devices"]

Hook = Literal["on_train_start", "on_step_end", "on_validation_end", "on_epoch_end", "on_train_end"]


def seed_devices(seed: int) -> None:
    """Seed the processor and the accelerators of this machine.

    ``torch.manual_seed`` does the same, but for each kind of accelerator that is absent it formats the call stack,
    0.3 to 1.5 ms in all, which is much of a training step of a small model.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


def fit(
    model_class: type[Model],
    config: Settings,
    training: Training,
    data: Dataset | Examples | ExampleStream,
    run: Run,
    validate: Validate | None,
    callbacks: Iterable[Callback] = (),
) -> Network:
    """Build and train a network; see :func:`segue.training.train.train`."""
    network = cast(type[Network], model_class)
    if network.builtin_loss and (errors := ignored_loss_settings(training, network.builtin_loss)):
        raise ValueError("\n".join(errors))
    _check_size(network, config, network.schema_for(config, data))
    with torch.random.fork_rng(), run.interruptible():
        seed_devices(run.derive_seed("init"))
        model = network(config, network.schema_for(config, data))
        model.prepare(data)
        model = model.to(run.device)
        if run.monitor is not None:
            count_flops(model, training, data, run, run.monitor)
        return Trainer(model, training, data, run, validate, callbacks).run_epochs()


def _check_size(network: type[Network], config: Settings, schema: DataSchema) -> None:
    """Check that the weights, their gradients and Adam's two moments fit into memory.

    The weights are counted on the device ``meta``, which allocates nothing. A network that cannot be built there is not
    checked.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            n_weights = sum(weight.numel() for weight in network(config, schema).parameters())
    except (RuntimeError, TypeError, ValueError):
        return
    check_memory(
        f"{network.__name__}: training {n_weights:,} weights", 4 * n_weights, f"reduce {size_settings(config)}"
    )


class Trainer:
    """The training loop and the objects it works on."""

    def __init__(
        self,
        model: Network,
        training: Training,
        data: Dataset | Examples | ExampleStream,
        run: Run,
        validate: Validate | None,
        callbacks: Iterable[Callback] = (),
    ) -> None:
        self.model, self.training, self.data, self.run, self.validate = model, training, data, run, validate
        self.optimizer = build_optimizer(model, training, model.learning_rate_factors())
        self.average = WeightEMA(model, training.ema) if training.ema else None
        self.loss = build_loss(training, data, run.device)
        self.gradients = GradientBuffer(model, is_sampled(training.loss), training.optimizer.lower() in LAZY)
        self.position = Position()
        self.early_stopping = EarlyStopping(str(training.metric), training.patience)
        self.plateau = PlateauSchedule(self.early_stopping, training.lr_step_epochs)
        self.checkpointer = Checkpointer(
            *(run, model, self.optimizer, self.average, self.early_stopping, self.plateau, self.position),
            training.checkpoint_seconds,
        )
        self.callbacks: list[Callback] = [self.early_stopping, self.plateau, History(run), *callbacks]
        self.pending_targets = 0  # targets whose gradients the optimizer has not used yet

    def run_epochs(self) -> Network:
        """Train until the last epoch or a stop.

        Return the network with its best weights, in evaluation mode.
        """
        self.checkpointer.resume()
        at, training = self.position, self.training
        n_batches = self.model.batches(self.data, training.batch_size, self.run.rng("batches/0"))[0]
        with self.run.progress(training.epochs * n_batches, "training", "batches") as advance:
            self.callbacks += [ProgressBar(advance, self.early_stopping, n_batches), self.checkpointer]
            self._notify("on_train_start", self._state(at.epoch))
            while at.epoch < training.epochs and not at.is_stopped:
                self._train_epoch()
                self._end_epoch()
        if self.early_stopping.best_arrays:
            self.model.restore(self.early_stopping.best_arrays)
        elif self.average:
            self.average.copy_to_model()
        self.model.eval().finalize()
        self._notify("on_train_end", self._state(at.epoch))
        return self.model

    def _train_epoch(self) -> None:
        at, accumulation = self.position, self.training.gradient_accumulation
        rng = self.run.rng(f"batches/{at.epoch}")
        n_batches, batches = self.model.batches(self.data, self.training.batch_size, rng)
        self.model.train()
        seconds, start = at.seconds, time.monotonic()
        for index, batch in enumerate(batches):
            if index < at.batch:
                continue
            loss = self._accumulate_gradients(batch, index, at.epoch + index / n_batches)
            if (index + 1) % accumulation and index + 1 < n_batches:
                continue
            self._update_weights(loss, index)
            at.batch, at.seconds = index + 1, seconds + time.monotonic() - start
            self._notify("on_step_end", self._state(at.epoch + 1))
            if self.run.interrupted:
                raise Interrupted(f"stopped in epoch {at.epoch + 1} after {at.batch} of {n_batches} batches")
        at.seconds = seconds + time.monotonic() - start

    def _accumulate_gradients(self, batch: Any, index: int, epoch: float) -> float:
        """Add the gradients of a batch to those of the pending ones; return its loss."""
        at = self.position
        seed_devices(self.run.derive_seed(f"step/{at.epoch}/{index}"))
        if not self.pending_targets:
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr_factor"] * learning_rate(self.training, epoch, self.plateau.n_reductions)
            self.gradients.clear()
        use_bfloat16 = self.training.precision == "bfloat16"
        with torch.autocast(torch.device(self.run.device).type, torch.bfloat16, enabled=use_bfloat16):
            loss, n_targets = self.model.objective(batch, self.loss)
        if not loss.requires_grad:
            raise ValueError(
                f"training.loss: the loss of {type(self.model).__name__} has no gradient, expected a scalar tensor "
                "that is computed from the scores by operations of torch, without detach(), item() or numpy"
            )
        (loss * n_targets if self.training.gradient_accumulation > 1 else loss).backward()
        value = loss.item()
        self.pending_targets += n_targets
        at.loss_sum, at.n_targets = at.loss_sum + value * n_targets, at.n_targets + n_targets
        return value

    def _update_weights(self, loss: float, index: int) -> None:
        """Take an optimizer step with the pending gradients.

        ``loss`` and ``index`` are those of the last batch.
        """
        at = self.position
        scale = 1.0 / self.pending_targets if self.training.gradient_accumulation > 1 else 1.0
        norm = self.gradients.finish(scale, self.training.clip_norm)
        if not (math.isfinite(at.loss_sum) and math.isfinite(norm)):
            rate = self.optimizer.param_groups[0]["lr"]
            inner = getattr(self.model.config, "inner_learning_rate", None)  # gradient steps within the model
            advice = "" if inner is None else f"inner_learning_rate (of the model, {inner:g}) or "
            raise ValueError(
                f"training diverged in epoch {at.epoch + 1}, batch {index + 1}: loss {loss}, gradient norm {norm}, "
                f"learning rate {rate:.3g}; try a lower {advice}learning_rate, a warmup or clip_norm"
            )
        self.gradients.step(self.optimizer)
        self.pending_targets, at.n_updates = 0, at.n_updates + 1
        if self.average:
            self.average.update(at.n_updates)

    def _end_epoch(self) -> None:
        at, training = self.position, self.training
        metrics = {
            "loss": at.loss_sum / at.n_targets,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": at.seconds,
            "targets_per_second": at.n_targets / max(at.seconds, 1e-9),
        }
        state = replace(self._state(at.epoch + 1), metrics=metrics)
        if self.validate and ((at.epoch + 1) % training.validate_every == 0 or at.epoch + 1 == training.epochs):
            start = time.monotonic()
            state = self._run_validation(state, self.validate)
            seconds = {"validation_seconds": time.monotonic() - start}
            state = replace(state, metrics={**state.metrics, **seconds})
        at.epoch, at.batch, at.loss_sum, at.n_targets, at.seconds = at.epoch + 1, 0, 0.0, 0, 0.0
        self._notify("on_epoch_end", state)

    def _run_validation(self, state: TrainingState, validate: Validate) -> TrainingState:
        self.model.eval()
        when, settings = f"epoch {self.position.epoch + 1}", (self.training, self.model.config)
        with (
            self.average.swapped_in() if self.average else nullcontext(),
            explain_divergence(self.model, self._weights, when, *settings),
        ):
            self.model.finalize()
            validation: Mapping[str, float] = validate(self.model)
            named = {f"valid/{name}": value for name, value in validation.items()}
            state = replace(state, metrics={**state.metrics, **named}, validation=validation)
            self._notify("on_validation_end", state)
        return state

    def _weights(self) -> dict[str, Any]:
        return {name: weight.detach().float().cpu().numpy() for name, weight in self.model.named_parameters()}

    def _state(self, epoch: int) -> TrainingState:
        at = self.position
        loss = at.loss_sum / at.n_targets if at.n_targets else math.nan
        return TrainingState(
            self.model, epoch, self.training.epochs, at.batch, at.n_updates, loss, request_stop=self._request_stop
        )

    def _request_stop(self) -> None:
        self.position.is_stopped = True

    def _notify(self, hook: Hook, state: TrainingState) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(state)
