"""The loss as a model sees it: the function that is named in the settings, with its settings and its negatives."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segue.core.network import Loss
from segue.core.registry import functions
from segue.core.seen_items import Seen
from segue.core.types import Dataset
from segue.nn.losses import losses, negative_samplers
from segue.training.train import Training

__all__ = ["loss_of", "names_of", "samples"]


def loss_of(training: Training, data: Dataset, device: str) -> Loss:
    """The loss of ``training``; where it samples, negatives are drawn anew for each batch."""
    function = functions(losses)[training.loss]
    settings = _given(function, training)
    scale = 1.0 / training.temperature
    draw = None
    if samples(training.loss):
        counts_I = torch.from_numpy(np.bincount(data.histories.items, minlength=data.n_items)).to(device)
        sampler = functions(negative_samplers)[training.sampler]
        draw = sampler(counts_I, **_given(sampler, training))

    def loss(
        hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor, seen: Seen | None = None
    ) -> Tensor:
        if scale != 1.0:
            hidden_MD, bias_I = hidden_MD * scale, None if bias_I is None else bias_I * scale
        asked = hidden_MD, vectors_ID, bias_I, targets_M
        drawn = () if draw is None else (draw(training.negatives, *asked),)
        value: Tensor = function(*asked, *drawn, seen, **settings)
        return value

    return loss


def samples(loss: str) -> bool:
    """Whether the loss of that name takes negatives."""
    return "drawn" in inspect.signature(functions(losses)[loss]).parameters


def names_of(function: Callable[..., Any]) -> list[str]:
    """What stands behind the ``*`` of a loss or sampler: settings of the training."""
    found = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in found if parameter.kind is parameter.KEYWORD_ONLY]


def _given(function: Callable[..., Any], training: Training) -> dict[str, Any]:
    return {name: getattr(training, name) for name in names_of(function)}
