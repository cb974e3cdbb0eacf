"""Training any model, known only by its key, small enough for a test."""

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
    "width": 16,
    "layers": 1,
    "blocks": 1,
    "heads": 2,
    "max_length": 24,
    "dropout": 0.0,
    "last_share": 0.5,
    "segment": 8,
    "memory": 8,
    "neighbours": 20,
    "sweeps": 10,
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "decay": 1.0,
}
"""Settings for worlds of a few dozen items; each is used by the models and loops that have it."""


def small(kind: type[S], wanted: Mapping[str, Any]) -> S:
    """Settings of ``kind`` with those of ``wanted``, over those of ``SMALL``, that it has and accepts."""
    values: dict[str, Any] = {}
    for key, value in {**SMALL, **wanted}.items():
        if key in kind.model_fields:
            try:
                kind.model_validate({**values, key: value})
            except ValueError:
                continue
            values[key] = value
    return kind(**values)


def train_small(key: str, data: Dataset, seed: int = 0, **wanted: Any) -> Model:
    """The model ``key`` trained with small settings; ``wanted`` are settings of the model or of the training."""
    from segue.training.train import Training, train

    config = small(model_class(key).Config, wanted)
    return train(key, config, small(Training, wanted), data, Run(seed), None)
