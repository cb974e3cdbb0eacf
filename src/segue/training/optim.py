"""Optimisers and learning-rate schedules.

A schedule is a pure function of how far training is, in epochs; only ``plateau`` also looks at validation, through the
number of steps it has taken.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from segue.core.config import suggest

if TYPE_CHECKING:
    from segue.training.train import Training

__all__ = ["learning_rate", "optimizer", "optimizer_class", "takes"]

FINAL = 0.01
"""Share of the peak at which ``cosine`` and ``one_cycle`` end."""

RISE = 0.3
"""Share of training over which ``one_cycle`` rises (Smith & Topin 2018, arXiv:1708.07120)."""

REFUSED = {
    "lbfgs": "it asks for the loss of a batch several times in a step",
    "sparseadam": "it needs sparse gradients, and those of item vectors are dense",
    "muon": "it takes matrices alone, and a network also has norms and offsets",
}
"""Classes of ``torch.optim`` that the loop cannot step, and why."""


FUSED = ("adam", "adamw", "sgd")
"""Those that have one kernel for all parameters on every device."""


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """The class of ``torch.optim`` of that name, in small letters or as it is written there.

    Raises:
        ValueError: there is none, or the loop cannot step it.
    """
    kinds = {
        key.lower(): kind
        for key, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    if (reason := REFUSED.get(name.lower())) is not None:
        raise ValueError(f"cannot be used here: {reason}")
    if name.lower() not in kinds:
        raise ValueError(f"unknown{suggest(name.lower(), kinds.keys() - REFUSED.keys())}")
    return kinds[name.lower()]


def takes(name: str) -> list[str]:
    """Of the settings ``betas``, ``momentum`` and ``weight_decay`` those that this optimiser looks at."""
    found = inspect.signature(optimizer_class(name)).parameters
    return [setting for setting in ("betas", "momentum", "weight_decay") if setting in found]


def optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimiser named in the settings; only matrices decay, and item vectors with them."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    kind: Callable[..., torch.optim.Optimizer] = optimizer_class(training.optimizer)
    more: dict[str, Any] = {name: getattr(training, name) for name in takes(training.optimizer)}
    if training.optimizer.lower() in FUSED:
        more["fused"] = True
    return kind(groups, lr=training.learning_rate, **more)


def learning_rate(training: Training, epoch: float, steps_down: int) -> float:
    """The learning rate after ``epoch`` epochs (fractions count), ``plateau`` having stepped down so many times."""
    share = min(epoch / training.epochs, 1.0)
    factors: dict[str, Callable[[], float]] = {
        "constant": lambda: 1.0,
        "step": lambda: training.step_factor ** (int(epoch) // training.step_epochs),
        "cosine": lambda: _cosine(share),
        "one_cycle": lambda: _cosine(1 - share / RISE) if share < RISE else _cosine((share - RISE) / (1 - RISE)),
        "plateau": lambda: training.step_factor**steps_down,
    }
    rising = min(1.0, epoch / training.warmup) if training.warmup else 1.0
    return training.learning_rate * rising * factors[training.schedule]()


def _cosine(share: float) -> float:
    """From 1 down to ``FINAL`` along half a cosine."""
    return FINAL + (1 - FINAL) * (1 + math.cos(math.pi * share)) / 2
