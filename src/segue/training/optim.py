"""Optimisers and learning-rate schedules.

A schedule is a pure function of how far training is, in epochs; only ``plateau`` also looks at validation, through the
number of steps it has taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from segue.training.train import Training

__all__ = ["learning_rate", "optimizer"]

FINAL = 0.01
"""Share of the peak at which ``cosine`` and ``one_cycle`` end."""

RISE = 0.3
"""Share of training over which ``one_cycle`` rises (Smith & Topin 2018, arXiv:1708.07120)."""


def optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimiser named in the settings; only matrices decay, and item vectors with them."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[training.optimizer](groups, lr=training.learning_rate, betas=(0.9, 0.98), fused=True)


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
