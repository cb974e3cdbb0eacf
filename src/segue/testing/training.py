"""Train any model by its key with small settings for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from segue.core.config import Settings
from segue.core.model import Model
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset

__all__ = ["SMALL", "small", "train_small"]

S = TypeVar("S", bound=Settings)

SMALL: Mapping[str, Any] = {
    "embedding_dim": 16,
    "num_layers": 1,
    "num_blocks": 1,
    "num_heads": 2,
    "max_length": 24,
    "dropout": 0.0,
    "mask_last_prob": 0.5,
    "segment_length": 8,
    "memory_length": 8,
    "k": 20,
    "iterations": 10,
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "learning_rate_decay": 1.0,
}
"""Settings for worlds of a few dozen items; each applies to the models and training loops that have it."""


def small(kind: type[S], overrides: Mapping[str, Any]) -> S:
    """Create settings of ``kind`` from ``SMALL`` and ``overrides``.

    Only settings that ``kind`` has and accepts are used.
    """
    values: dict[str, Any] = {}
    for key, value in {**overrides, **SMALL, **overrides}.items():  # choices first: others depend on them
        if key in kind.model_fields:
            try:
                kind.model_validate({**values, key: value})
            except ValueError:
                continue
            values[key] = value
    return kind(**values)


def train_small(key: str, data: Dataset, seed: int = 0, **overrides: Any) -> Model:
    """Train the model ``key`` with small settings.

    ``overrides`` are settings of the model or of training.
    """
    from segue.training.train import Training, train

    config = small(model_class(key).Config, overrides)
    return train(key, config, small(Training, overrides), data, Run(seed), None)
