"""One door to training: a model's key, its settings, the data; a trained model comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationInfo, field_validator, model_validator

from segue.core.config import Settings, parse
from segue.core.model import Model, Solver, Validate
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset

__all__ = ["DEPENDENT", "Training", "train"]

DEPENDENT = (
    "label_smoothing",
    "focal_gamma",
    "pairwise_share",
    "calibration",
    "score_penalty",
    "negatives",
    "sampler",
    "sampler_alpha",
    "sampler_share",
    "sampler_pool",
    "betas",
    "momentum",
    "weight_decay",
)
"""Settings that not every loss, sampler or optimiser looks at; one that is set for nothing is refused."""


class Training(Settings):
    """How a network is trained; models that solve for themselves ignore it."""

    epochs: Annotated[int, Gt(0)] = 100
    """Passes over the training data at most."""
    batch_size: Annotated[int, Gt(0)] = 128
    """Sequences in a batch; of models of who had what, users, or as many pairs as so many users have on average."""
    accumulate: Annotated[int, Gt(0)] = 1
    """Batches whose gradients make one step of the optimiser, each batch counting by its targets: as one batch of so
    many times the size, in the memory of one. Negatives are drawn for each batch."""
    loss: str = "cross_entropy"
    """Name of a loss: over the whole catalogue (``cross_entropy``, ``focal``), over sampled negatives
    (``sampled_softmax``, ``nll``, ``bce``, ``gbce``, ``bpr``, ``bpr_max``) or over both (``cross_entropy_pairwise``,
    ``sampled_softmax_pairwise``). Some models have a loss of their own, and then none is named here."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """What scores are divided by before the loss. The order of answers is that of the scores as they are; so are their
    probabilities, which are those of temperature 1."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of each target that is spread over the catalogue, where cross-entropy is over the whole of it."""
    focal_gamma: Annotated[float, Gt(0)] = 2.0
    """How much less ``focal`` counts a target that is already found."""
    pairwise_share: Annotated[float, Ge(0), Le(1)] = 0.5
    """Share of the pairwise loss in the losses ``..._pairwise``."""
    calibration: Annotated[float, Ge(0), Le(1)] = 0.75
    """Of ``gbce``: 0 is plain BCE, 1 makes the scores estimate true probabilities."""
    score_penalty: Annotated[float, Ge(0)] = 1.0
    """Of ``bpr_max``: weight of the negatives' squared scores."""
    negatives: Annotated[int, Gt(0)] = 256
    """Negatives drawn for each batch and shared by its targets, where the loss samples."""
    sampler: str = "uniform"
    """Where negatives come from: ``uniform``, ``popularity``, ``in_batch`` (targets of the batch), ``mixed`` (both of
    ``in_batch`` and ``uniform``) or ``hard`` (those scored highest of a larger pool)."""
    sampler_alpha: Annotated[float, Ge(0)] = 0.75
    """Of ``popularity``: power of an item's count; 0 is even, 1 as often as in the data."""
    sampler_share: Annotated[float, Ge(0), Le(1)] = 0.5
    """Of ``mixed``: share of the negatives that are targets of the batch."""
    sampler_pool: Annotated[float, Ge(1)] = 4.0
    """Of ``hard``: size of the pool, as a multiple of ``negatives``."""
    optimizer: str = "adam"
    """``adam``, ``adamw`` (decoupled weight decay), ``sgd``, ``rmsprop``, or any other class of ``torch.optim``."""
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.98)
    """Decay per step of the running means of the gradient and of its square, in the family of Adam."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Decay per step of the running sum of gradients, of ``sgd`` and ``rmsprop``."""
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
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Decay per step of a running mean of the weights, which is validated and kept in their place; 0: none. It is less
    in the first steps: after n steps no more than (1 + n) / (10 + n)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products in training; weights, the loss and what follows are float32 in any case."""
    patience: Annotated[int, Gt(0)] = 10
    """Validations without a new best before training stops early."""
    metric: str | None = None
    """Validation metric that chooses the best model; none: the model's own, which is ``ndcg@10``, or ``rmse`` where it
    learns from values."""
    validate_every: Annotated[int, Gt(0)] = 1
    """Epochs between validations."""
    checkpoint_seconds: Annotated[float, Gt(0)] = 300.0
    """Seconds between checkpoints within an epoch; there is always one after it."""

    @field_validator("loss", "sampler", "optimizer")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        if name != cls.model_fields[str(info.field_name)].default:
            from segue.training.settings_checks import known  # which needs torch

            known(str(info.field_name), name)
        return name

    @model_validator(mode="after")
    def _used(self) -> Self:
        if any(getattr(self, name) != type(self).model_fields[name].default for name in DEPENDENT):
            from segue.training.settings_checks import unused

            if faults := unused(self):
                raise ValueError("\n".join(faults))
        return self


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

    chosen = training if training.metric else training.model_copy(update={"metric": kind.chooser})
    return fit(kind, settings, chosen, data, run, validate)
