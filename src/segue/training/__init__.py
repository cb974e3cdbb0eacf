"""The training loop for networks.

Also optimizers, learning-rate schedules, losses, callbacks and checkpoints.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.training.callbacks import Callback, TrainingState

__all__ = ["Callback", "TrainingState"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported on first use, as it needs torch
        return getattr(import_module("segue.training.callbacks"), name)
    raise AttributeError(f"module 'segue.training' has no attribute '{name}'")
