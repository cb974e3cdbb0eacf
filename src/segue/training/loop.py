"""The one loop that trains a network.

Every random stream of a step follows from the seed, the epoch and the step, so a checkpoint needs no generator's state
and a training that was stopped goes on bit for bit as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.core.config import Settings
from segue.core.model import Model, Validate
from segue.core.network import Loss, Network
from segue.core.registry import functions
from segue.core.run import Interrupted, Progress, Run
from segue.core.types import Dataset
from segue.models.parts import losses
from segue.training.optim import learning_rate, optimizer
from segue.training.train import Training

__all__ = ["fit"]


@dataclass
class _Position:
    """Where training is; with the arrays of model, best model and optimiser, this is the checkpoint."""

    epoch: int = 0
    step: int = 0
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
    with torch.random.fork_rng(), run.interruptible():
        torch.manual_seed(run.seed_of("init"))
        model = cast(Network, kind(config, data.domain))
        model.prepare(data)
        return _Fit(model.to(run.device), training, data, run, validate).go()


class _Fit:
    def __init__(self, model: Network, training: Training, data: Dataset, run: Run, validate: Validate | None) -> None:
        self.model, self.training, self.data, self.run, self.validate = model, training, data, run, validate
        self.optimizer = optimizer(model, training)
        self.loss = _loss(training, data.n_items, run.device)
        self.at = _Position()
        self.best: Mapping[str, NDArray[Any]] = {}

    def go(self) -> Network:
        self._resume()
        batches = self.model.batches(self.data, self.training.batch_size, self.run.rng("batches/0"))[0]
        with self.run.progress(self.training.epochs * batches, "training", "batches") as progress:
            progress(self.at.epoch * batches + self.at.step)
            while self.at.epoch < self.training.epochs and self.at.since_best < self.training.patience:
                self._epoch(progress)
        if self.best:
            self.model.restore(self.best)
        return self.model.eval()

    def _epoch(self, progress: Progress) -> None:
        at, name = self.at, f"batches/{self.at.epoch}"
        count, batches = self.model.batches(self.data, self.training.batch_size, self.run.rng(name))
        self.model.train()
        began = saved = time.monotonic()
        for index, batch in enumerate(batches):
            if index < at.step:
                continue
            loss, targets = self._step(batch, at.epoch + index / count)
            at.step, at.loss_sum, at.targets = index + 1, at.loss_sum + loss * targets, at.targets + targets
            progress(1, self._note(loss))
            if self.run.interrupted or time.monotonic() - saved > self.training.checkpoint_seconds:
                saved = time.monotonic()
                at.seconds, began = at.seconds + saved - began, saved
                self._checkpoint()
            if self.run.interrupted:
                raise Interrupted(f"stopped in epoch {at.epoch + 1} after {at.step} of {count} batches")
        at.seconds += time.monotonic() - began
        self._end_epoch()

    def _step(self, batch: Any, epoch: float) -> tuple[float, int]:
        torch.manual_seed(self.run.seed_of(f"step/{self.at.epoch}/{self.at.step}"))
        rate = learning_rate(self.training, epoch, self.at.steps_down)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss, targets = self.model.objective(batch, self.loss)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip_norm or math.inf)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise ValueError(
                f"training diverged in epoch {self.at.epoch + 1}, batch {self.at.step + 1}: loss {value}, gradient "
                f"norm {norm.item()}, learning rate {rate:.3g}; try a lower learning_rate, a warmup or clip_norm"
            )
        self.optimizer.step()
        return value, targets

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
            metrics = self.validate(self.model)
            found |= {f"valid/{name}": value for name, value in metrics.items()}
            found["validation_seconds"] = time.monotonic() - began
            self._judge(metrics)
        self.run.log(at.epoch + 1, found)
        at.epoch, at.step, at.loss_sum, at.targets, at.seconds = at.epoch + 1, 0, 0.0, 0, 0.0
        self._checkpoint()

    def _judge(self, metrics: Mapping[str, float]) -> None:
        at = self.at
        if self.training.metric not in metrics:
            raise ValueError(f"training.metric: '{self.training.metric}', validation gives {', '.join(metrics)}")
        value = metrics[self.training.metric]
        at.since_best += 1
        if value > at.best:
            at.best, at.best_epoch, at.since_best = value, at.epoch, 0
            self.best = {name: array.copy() for name, array in self.model.arrays().items()}
        elif self.training.schedule == "plateau" and at.since_best % self.training.step_epochs == 0:
            at.steps_down += 1

    def _note(self, loss: float) -> str:
        best = f" {self.training.metric} {self.at.best:.4f}" if self.at.best_epoch >= 0 else ""
        return f"epoch {self.at.epoch + 1} loss {loss:.3f}{best}"

    def _checkpoint(self) -> None:
        arrays = {f"model/{name}": array for name, array in self.model.arrays().items()}
        arrays |= {f"best/{name}": array for name, array in self.best.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer/{index}/{name}": value.cpu().numpy() for name, value in values.items()}
        position = asdict(self.at) | {"best": None if math.isinf(self.at.best) else self.at.best}
        self.run.checkpoint({"position": position}, arrays)

    def _resume(self) -> None:
        found = self.run.resume()
        if found is None:
            return
        facts, arrays = found
        best = facts["position"]["best"]
        self.at = _Position(**facts["position"] | {"best": -math.inf if best is None else best})
        self.model.restore(_under(arrays, "model/"))
        self.best = _under(arrays, "best/")
        state: dict[int, dict[str, Tensor]] = {}
        for name, array in _under(arrays, "optimizer/").items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = torch.from_numpy(np.array(array))
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})


def _under(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _loss(training: Training, n_items: int, device: str) -> Loss:
    """The loss named in the settings, its negatives drawn anew for each batch."""
    loss = functions(losses)[training.loss]
    if training.loss == "cross_entropy":
        return loss

    def sampled(hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor) -> Tensor:
        negatives_K = torch.randint(n_items, (training.negatives,), device=device)
        value: Tensor = loss(hidden_MD, vectors_ID, bias_I, targets_M, negatives_K)
        return value

    return sampled
