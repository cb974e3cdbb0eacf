"""The one loop that trains a network.

Every random stream of a step follows from the seed, the epoch and the step, so a checkpoint needs no generator's state
and a training that was stopped goes on bit for bit as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.core.config import Settings
from segue.core.model import LESS_IS_BETTER, Model, Validate
from segue.core.network import Network
from segue.core.run import Interrupted, Progress, Run
from segue.core.types import Dataset
from segue.training.configured_loss import loss_of, samples
from segue.training.ema import Average
from segue.training.gradients import Gradients
from segue.training.optim import learning_rate, optimizer
from segue.training.settings_checks import overlooked
from segue.training.train import Training

__all__ = ["fit"]


@dataclass
class _Position:
    """Where training is; with the arrays of model, average, best model and optimiser, this is the checkpoint."""

    epoch: int = 0
    step: int = 0
    updates: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    since_best: int = 0
    steps_down: int = 0
    loss_sum: float = 0.0
    targets: int = 0
    seconds: float = 0.0


def fit(
    kind: type[Model], config: Settings, training: Training, data: Dataset, run: Run, validate: Validate | None
) -> Network:
    """See :func:`segue.training.train.train`."""
    network = cast(type[Network], kind)
    if network.own_loss and (faults := overlooked(training, network.own_loss)):
        raise ValueError("\n".join(faults))
    with torch.random.fork_rng(), run.interruptible():
        torch.manual_seed(run.seed_of("init"))
        model = network(config, network.domain_of(config, data))
        model.prepare(data)
        return _Fit(model.to(run.device), training, data, run, validate).go()


class _Fit:
    def __init__(self, model: Network, training: Training, data: Dataset, run: Run, validate: Validate | None) -> None:
        self.model, self.training, self.data, self.run, self.validate = model, training, data, run, validate
        self.optimizer = optimizer(model, training)
        self.average = Average(model, training.ema) if training.ema else None
        self.loss = loss_of(training, data, run.device)
        self.gradients = Gradients(model, rows=samples(training.loss))
        self.at = _Position()
        self.best: Mapping[str, NDArray[Any]] = {}
        self.waiting = 0  # targets whose gradients the optimiser has not taken yet

    def go(self) -> Network:
        self._resume()
        batches = self.model.batches(self.data, self.training.batch_size, self.run.rng("batches/0"))[0]
        with self.run.progress(self.training.epochs * batches, "training", "batches") as progress:
            progress(self.at.epoch * batches + self.at.step)
            while self.at.epoch < self.training.epochs and self.at.since_best < self.training.patience:
                self._epoch(progress)
        if self.best:
            self.model.restore(self.best)
        elif self.average:
            self.average.take()
        self.model.eval().settle()
        return self.model

    def _epoch(self, progress: Progress) -> None:
        at, name = self.at, f"batches/{self.at.epoch}"
        count, batches = self.model.batches(self.data, self.training.batch_size, self.run.rng(name))
        self.model.train()
        began = saved = time.monotonic()
        for index, batch in enumerate(batches):
            if index < at.step:
                continue
            loss = self._learn(batch, index, at.epoch + index / count)
            progress(1, self._note(loss))
            if (index + 1) % self.training.accumulate and index + 1 < count:
                continue
            self._step(loss, index)
            at.step = index + 1
            if self.run.interrupted or time.monotonic() - saved > self.training.checkpoint_seconds:
                saved = time.monotonic()
                at.seconds, began = at.seconds + saved - began, saved
                self._checkpoint()
            if self.run.interrupted:
                raise Interrupted(f"stopped in epoch {at.epoch + 1} after {at.step} of {count} batches")
        at.seconds += time.monotonic() - began
        self._end_epoch()

    def _learn(self, batch: Any, index: int, epoch: float) -> float:
        """Add the gradient of a batch to those that wait for the optimiser; its loss."""
        torch.manual_seed(self.run.seed_of(f"step/{self.at.epoch}/{index}"))
        if not self.waiting:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.training, epoch, self.at.steps_down)
            self.gradients.clear()
        half = self.training.precision == "bfloat16"
        with torch.autocast(torch.device(self.run.device).type, torch.bfloat16, enabled=half):
            loss, targets = self.model.objective(batch, self.loss)
        (loss * targets if self.training.accumulate > 1 else loss).backward()
        value = loss.item()
        self.waiting += targets
        self.at.loss_sum, self.at.targets = self.at.loss_sum + value * targets, self.at.targets + targets
        return value

    def _step(self, loss: float, index: int) -> None:
        """One step of the optimiser with the gradients that wait for it; ``loss`` and ``index`` are of their last."""
        share = 1.0 / self.waiting if self.training.accumulate > 1 else 1.0
        norm = self.gradients.finish(share, self.training.clip_norm)
        if not (math.isfinite(self.at.loss_sum) and math.isfinite(norm)):
            rate = self.optimizer.param_groups[0]["lr"]
            raise ValueError(
                f"training diverged in epoch {self.at.epoch + 1}, batch {index + 1}: loss {loss}, gradient norm "
                f"{norm}, learning rate {rate:.3g}; try a lower learning_rate, a warmup or clip_norm"
            )
        self.optimizer.step()
        self.waiting, self.at.updates = 0, self.at.updates + 1
        if self.average:
            self.average.update(self.at.updates)

    def _end_epoch(self) -> None:
        at, training = self.at, self.training
        found = {
            "loss": at.loss_sum / at.targets,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": at.seconds,
            "targets_per_second": at.targets / max(at.seconds, 1e-9),
        }
        if self.validate and ((at.epoch + 1) % training.validate_every == 0 or at.epoch + 1 == training.epochs):
            self.model.eval()
            began = time.monotonic()
            with self.average.in_place() if self.average else nullcontext():
                self.model.settle()
                metrics = self.validate(self.model)
                self._judge(metrics)
            found |= {f"valid/{name}": value for name, value in metrics.items()}
            found["validation_seconds"] = time.monotonic() - began
        self.run.log(at.epoch + 1, found)
        at.epoch, at.step, at.loss_sum, at.targets, at.seconds = at.epoch + 1, 0, 0.0, 0, 0.0
        self._checkpoint()

    def _judge(self, metrics: Mapping[str, float]) -> None:
        at = self.at
        chooser = str(self.training.metric)
        if chooser not in metrics:
            raise ValueError(f"training.metric: '{chooser}', validation gives {', '.join(metrics)}")
        value = -metrics[chooser] if chooser in LESS_IS_BETTER else metrics[chooser]
        at.since_best += 1
        if value > at.best:
            at.best, at.best_epoch, at.since_best = value, at.epoch, 0
            self.best = {name: array.copy() for name, array in self.model.arrays().items()}
        elif self.training.schedule == "plateau" and at.since_best % self.training.step_epochs == 0:
            at.steps_down += 1

    def _note(self, loss: float) -> str:
        best = f" {self.training.metric} {abs(self.at.best):.4f}" if self.at.best_epoch >= 0 else ""
        return f"epoch {self.at.epoch + 1} loss {loss:.3f}{best}"

    def _checkpoint(self) -> None:
        arrays = {f"model/{name}": array for name, array in self.model.arrays().items()}
        arrays |= {f"best/{name}": array for name, array in self.best.items()}
        if self.average:
            arrays |= {f"average/{name}": array for name, array in self.average.arrays().items()}
        numbers: dict[str, Any] = {}
        for index, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    arrays[f"optimizer/{index}/{name}"] = value.cpu().numpy()
                else:
                    numbers[f"{index}/{name}"] = value
        position = asdict(self.at) | {"best": None if math.isinf(self.at.best) else self.at.best}
        self.run.checkpoint({"position": position, "optimizer": numbers}, arrays)

    def _resume(self) -> None:
        found = self.run.resume()
        if found is None:
            return
        facts, arrays = found
        best = facts["position"]["best"]
        self.at = _Position(**facts["position"] | {"best": -math.inf if best is None else best})
        self.model.restore(_under(arrays, "model/"))
        self.best = _under(arrays, "best/")
        if self.average:
            self.average.restore(_under(arrays, "average/"))
        state: dict[int, dict[str, Any]] = {}
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in _under(arrays, "optimizer/").items()}
        for name, value in {**tensors, **facts.get("optimizer", {})}.items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})


def _under(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
