"""One door to training: a model's key, its settings, the data; a trained model comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from segue.core.config import Settings, parse
from segue.core.model import Model, Solver, Validate
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset

__all__ = ["Training", "train"]


class Training(Settings):
    """How a network is trained; models that solve for themselves ignore it."""

    epochs: Annotated[int, Gt(0)] = 100
    """Passes over the training data at most."""
    batch_size: Annotated[int, Gt(0)] = 128
    """Sequences in a batch."""
    loss: Literal["cross_entropy", "sampled_softmax", "bce", "gbce"] = "cross_entropy"
    """Over the whole catalogue (``cross_entropy``) or over sampled negatives."""
    negatives: Annotated[int, Gt(0)] = 256
    """Negatives drawn uniformly for each batch, where the loss samples."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam, or Adam with decoupled weight decay."""
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decay of matrices and vectors per step, times the learning rate for ``adamw``; norms and offsets have none."""
    schedule: Literal["constant", "step", "cosine", "one_cycle", "plateau"] = "constant"
    """How the learning rate moves over training."""
    warmup: Annotated[float, Ge(0)] = 0.0
    """Epochs over which the learning rate rises to its peak, before the schedule."""
    step_epochs: Annotated[int, Gt(0)] = 10
    """Epochs between two steps of ``step``, or without a new best before ``plateau`` steps."""
    step_factor: Annotated[float, Gt(0), Lt(1)] = 0.5
    """What a step of ``step`` or ``plateau`` multiplies the learning rate by."""
    clip_norm: Annotated[float, Ge(0)] = 1.0
    """Bound of the gradient's norm; 0: none."""
    patience: Annotated[int, Gt(0)] = 10
    """Validations without a new best before training stops early."""
    metric: str = "ndcg@10"
    """Validation metric that chooses the best model."""
    validate_every: Annotated[int, Gt(0)] = 1
    """Epochs between validations."""
    checkpoint_seconds: Annotated[float, Gt(0)] = 300.0
    """Seconds between checkpoints within an epoch; there is always one after it."""


def train(
    key: str,
    config: Settings | Mapping[str, Any],
    training: Training,
    data: Dataset,
    run: Run,
    validate: Validate | None = None,
) -> Model:
    """Train the model ``key`` on ``data``; goes on from the run's checkpoint where there is one.

    Args:
        config: the model's settings, or the values that differ from its defaults.
        validate: gives validation metrics of the model as it is; ``None`` trains for all epochs.

    Raises:
        ValueError: an unknown model or setting, or a loss that is no longer a number.
        Interrupted: someone asked to stop; the checkpoint is written.
    """
    kind = model_class(key)
    settings = config if isinstance(config, Settings) else parse(kind.Config, config, "model")
    if data.histories.size == 0:
        raise ValueError("nothing to train on: the training part of the data has no events")
    if issubclass(kind, Solver):
        model = kind(settings, data.domain)
        model.fit(data, run, validate)
        return model
    from segue.training.loop import fit

    return fit(kind, settings, training, data, run, validate)
