"""Save and restore the complete state of a training run.

A checkpoint has the arrays of the model, the optimizer, the averaged and the best weights, and a few numbers. Random
generators are not part of it: every random stream of a step follows from the seed, the epoch and the batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segue.core.network import Network
from segue.core.run import Run
from segue.training.callbacks import Callback, EarlyStopping, PlateauSchedule, TrainingState
from segue.training.ema import WeightEMA

__all__ = ["Checkpointer", "Position"]


@dataclass
class Position:
    """Progress of training."""

    epoch: int = 0
    """Completed epochs."""
    batch: int = 0
    """Batches of the current epoch that the optimizer has used."""
    n_updates: int = 0
    """Optimizer steps."""
    loss_sum: float = 0.0
    """Loss times targets, summed over the current epoch."""
    n_targets: int = 0
    """Targets of the current epoch."""
    seconds: float = 0.0
    """Training time of the current epoch."""
    is_stopped: bool = False
    """Whether a callback requested a stop."""


class Checkpointer(Callback):
    """Write checkpoints.

    There is one after every epoch, at intervals within an epoch, and on interruption.

    Args:
        position: updated in place by the loop.
        interval: seconds between checkpoints within an epoch.
    """

    def __init__(
        self,
        run: Run,
        model: Network,
        optimizer: torch.optim.Optimizer,
        average: WeightEMA | None,
        early_stopping: EarlyStopping,
        plateau: PlateauSchedule,
        position: Position,
        interval: float,
    ) -> None:
        self.run, self.model, self.optimizer, self.average = run, model, optimizer, average
        self.early_stopping, self.plateau, self.position, self.interval = early_stopping, plateau, position, interval
        self._saved = time.monotonic()

    def on_train_start(self, state: TrainingState) -> None:
        """Start the interval."""
        self._saved = time.monotonic()

    def on_step_end(self, state: TrainingState) -> None:
        """Save if the interval is over or the run is interrupted."""
        if self.run.interrupted or time.monotonic() - self._saved > self.interval:
            self.save()

    def on_epoch_end(self, state: TrainingState) -> None:
        """Save a checkpoint."""
        self.save()

    def save(self) -> None:
        """Replace the run's checkpoint."""
        best = self.early_stopping
        arrays = {f"model/{name}": array for name, array in self.model.arrays().items()}
        arrays |= {f"best/{name}": array for name, array in best.best_arrays.items()}
        if self.average:
            arrays |= {f"average/{name}": array for name, array in self.average.arrays().items()}
        numbers: dict[str, Any] = {}
        for index, values in self.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    arrays[f"optimizer/{index}/{name}"] = value.cpu().numpy()
                else:
                    numbers[f"{index}/{name}"] = value
        early_stopping = {
            "best": None if math.isinf(best.best) else best.best,
            "best_epoch": best.best_epoch,
            "n_without_improvement": best.n_without_improvement,
            "n_reductions": self.plateau.n_reductions,
        }
        metadata = {"position": asdict(self.position), "early_stopping": early_stopping, "optimizer": numbers}
        self.run.save_checkpoint(metadata, arrays)
        self._saved = time.monotonic()

    def resume(self) -> None:
        """Restore the run's checkpoint, if it has one.

        It is restored into the objects given at construction.

        Raises:
            ValueError: the checkpoint is damaged, or belongs to another model.
        """
        checkpoint = self.run.resume()
        if checkpoint is None:
            return
        try:
            self._restore(*checkpoint)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.run.folder}/checkpoint: does not fit this training: {error}") from error

    def _restore(self, metadata: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        for name, value in metadata["position"].items():
            setattr(self.position, name, value)
        best, stored = self.early_stopping, metadata["early_stopping"]
        best.best = -math.inf if stored["best"] is None else stored["best"]
        best.best_epoch, best.n_without_improvement = stored["best_epoch"], stored["n_without_improvement"]
        self.plateau.n_reductions = stored["n_reductions"]
        best.best_arrays = _with_prefix(arrays, "best/")
        if best.best_arrays:
            self.model.restore(best.best_arrays)  # a check: they are needed only after training
        self.model.restore(_with_prefix(arrays, "model/"))
        if self.average:
            averages = _with_prefix(arrays, "average/")
            _check_shapes(averages, self.average.arrays())
            self.average.restore(averages)
        state: dict[int, dict[str, Any]] = {}
        tensors = {name: torch.from_numpy(np.array(a)) for name, a in _with_prefix(arrays, "optimizer/").items()}
        for name, value in {**tensors, **metadata.get("optimizer", {})}.items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for index, values in state.items():
            shape = parameters[index].shape
            for key, one in values.items():
                if isinstance(one, Tensor) and not _fits(one.shape, shape):
                    raise ValueError(
                        f"array 'optimizer/{index}/{key}': got shape {tuple(one.shape)}, expected {tuple(shape)}"
                    )
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})


def _check_shapes(arrays: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    for name, array in expected.items():
        if arrays[name].shape != array.shape:
            raise ValueError(f"array '{name}': got shape {arrays[name].shape}, expected {array.shape}")


def _fits(shape: torch.Size, parameter: torch.Size) -> bool:
    """Check that optimizer state has the shape of its parameter, or of a factor of it."""
    return len(shape) in (0, len(parameter)) and all(
        one in (1, size) for one, size in zip(shape, parameter, strict=False)
    )


def _with_prefix(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
