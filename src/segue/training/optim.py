"""Optimizers and learning-rate schedules.

A schedule is a pure function of the progress in epochs; only ``plateau`` also depends on validation, through the number
of reductions so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from segue.training.settings import Training
from segue.training.settings_checks import optimizer_class, supported_settings

__all__ = ["LAZY", "build_optimizer", "learning_rate"]

FINAL_LR_FRACTION = 0.01
"""Final learning rate of ``cosine`` and ``one_cycle``, as a fraction of the peak."""

WARMUP_FRACTION = 0.3
"""Fraction of training in which ``one_cycle`` rises (Smith & Topin 2018, arXiv:1708.07120)."""

FUSED = ("adam", "adamw", "sgd")
"""Optimizers that have a fused kernel on every device."""

LAZY = ("adam", "adamw", "sgd", "rmsprop")
"""Optimizers that can update some rows of a table alone: weights do not depend on each other, and state starts at 0."""


def build_optimizer(
    model: nn.Module, training: Training, lr_factors: Mapping[str, float] = MappingProxyType({})
) -> torch.optim.Optimizer:
    """Create the configured optimizer.

    Weight decay applies to matrices, including embeddings, and not to vectors. The parameters of a group share the
    ``lr_factor`` on the learning rate; that of the first group is 1.

    Args:
        lr_factors: by name of parameter; all others have 1.
    """
    parameters = [(p, lr_factors.get(name, 1.0)) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p, own_factor in parameters if own_factor == factor and (p.dim() >= 2) == is_matrix],
            "weight_decay": training.weight_decay if is_matrix else 0.0,
            "lr_factor": factor,
        }
        for factor in dict.fromkeys([1.0, *(factor for _, factor in parameters)])
        for is_matrix in (True, False)
    ]
    kind: Callable[..., torch.optim.Optimizer] = optimizer_class(training.optimizer)
    options: dict[str, Any] = {name: getattr(training, name) for name in supported_settings(training.optimizer)}
    if training.optimizer.lower() in FUSED:
        options["fused"] = True
    return kind(groups, lr=training.learning_rate, **options)


def learning_rate(training: Training, epoch: float, n_reductions: int) -> float:
    """Compute the learning rate.

    Args:
        epoch: epochs completed, including the fraction of the current one.
        n_reductions: reductions by ``plateau`` so far.
    """
    progress = min(epoch / training.epochs, 1.0)
    factors: dict[str, Callable[[], float]] = {
        "constant": lambda: 1.0,
        "step": lambda: training.lr_step_factor ** (int(epoch) // training.lr_step_epochs),
        "cosine": lambda: _cosine(progress),
        "one_cycle": lambda: (
            _cosine(1 - progress / WARMUP_FRACTION)
            if progress < WARMUP_FRACTION
            else _cosine((progress - WARMUP_FRACTION) / (1 - WARMUP_FRACTION))
        ),
        "plateau": lambda: training.lr_step_factor**n_reductions,
    }
    warmup = min(1.0, epoch / training.warmup) if training.warmup else 1.0
    return training.learning_rate * warmup * factors[training.schedule]()


def _cosine(progress: float) -> float:
    """Decrease from 1 to ``FINAL_LR_FRACTION`` along half a cosine."""
    return FINAL_LR_FRACTION + (1 - FINAL_LR_FRACTION) * (1 + math.cos(math.pi * progress)) / 2
