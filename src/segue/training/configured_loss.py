"""Turn the loss of the training settings into a function of a batch.

The function includes the settings and the negatives of the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segue.core.examples.fields import Examples
from segue.core.examples.stream import ExampleStream
from segue.core.network import Loss
from segue.core.registry import exported_functions
from segue.core.seen_items import SeenItems
from segue.core.types import Dataset
from segue.nn.losses import negative_samplers
from segue.training.settings import Training
from segue.training.settings_checks import is_sampled, loss_function, setting_names

__all__ = ["build_loss"]


def build_loss(training: Training, data: Dataset | Examples | ExampleStream, device: str) -> Loss:
    """Return the loss of ``training``.

    A sampled loss draws new negatives for every batch.

    Raises:
        ValueError: the loss is a custom function of which only the name is known.
    """
    function = loss_function(training.loss)
    settings = _settings(function, training)
    scale = 1.0 / training.temperature
    sample = None
    if is_sampled(training.loss) and not isinstance(data, Examples | ExampleStream):
        counts_I = torch.from_numpy(np.bincount(data.histories.items, minlength=data.n_items)).to(device)
        sampler = exported_functions(negative_samplers)[training.sampler]
        sample = sampler(counts_I, **_settings(sampler, training))

    def loss(
        hidden_MD: Tensor, vectors_ID: Tensor, bias_I: Tensor | None, targets_M: Tensor, seen: SeenItems | None = None
    ) -> Tensor:
        if scale != 1.0:
            hidden_MD, bias_I = hidden_MD * scale, None if bias_I is None else bias_I * scale
        batch = hidden_MD, vectors_ID, bias_I, targets_M
        negatives = () if sample is None else (sample(training.num_negatives, *batch),)
        value: Any = function(*batch, *negatives, seen, **settings)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss '{training.loss}': returned {got}, expected a tensor with one value, the mean loss")
        return value

    return loss


def _settings(function: Callable[..., Any], training: Training) -> dict[str, Any]:
    fields = type(training).model_fields
    return {name: getattr(training, name) for name in setting_names(function) if name in fields}
