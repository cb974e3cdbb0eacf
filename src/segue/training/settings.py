"""Settings of the training of networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationInfo, ValidatorFunctionWrapHandler, field_validator, model_validator

from segue.core.config import Choices, Search, Settings

__all__ = ["CHOICE_DEPENDENT_SETTINGS", "CustomLoss", "Training"]

CHOICE_DEPENDENT_SETTINGS = (
    "label_smoothing",
    "focal_gamma",
    "pairwise_weight",
    "calibration",
    "score_penalty",
    "num_negatives",
    "sampler",
    "sampler_alpha",
    "in_batch_fraction",
    "hard_pool_factor",
    "betas",
    "momentum",
    "weight_decay",
)
"""Settings that only some losses, samplers or optimizers use; setting one that is not used is an error. Listed here,
and not derived from the signatures, because those need torch."""

STEP_SCHEDULES = ("step", "plateau")
"""Schedules that use ``lr_step_epochs`` and ``lr_step_factor``."""

LOSS_PARAMETERS = ("hidden_MD", "vectors_ID", "bias_I", "targets_M", "seen")


class CustomLoss(str):
    """Name of a user-defined loss function, with the function itself.

    The name has the form ``module:function``.

    Raises:
        ValueError: the function does not take the positional parameters of a loss.
    """

    function: Callable[..., Any]

    def __new__(cls, function: Callable[..., Any]) -> Self:
        """Name the function."""
        parameters = inspect.signature(function).parameters.values()
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        expected = len(LOSS_PARAMETERS) + ("negatives" in positional)
        name = getattr(function, "__qualname__", type(function).__qualname__)
        if len(positional) != expected and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            raise ValueError(
                f"'{name}' takes ({', '.join(positional)}), expected five positional parameters "
                f"({', '.join(LOSS_PARAMETERS)}), or six with 'negatives' before the last"
            )
        loss = super().__new__(cls, f"{getattr(function, '__module__', '')}:{name}")
        loss.function = function
        return loss


class Training(Settings):
    """Settings of the training of a network.

    Models that are not networks use only ``metric``; the others are then rejected.
    """

    epochs: Annotated[int, Gt(0)] = 100
    """Maximum number of passes over the training data."""
    batch_size: Annotated[int, Gt(0), Choices((32, 64, 128, 256))] = 128
    """Sequences per batch. For models of user-item pairs: users, or as many pairs as that many users have on
    average."""
    gradient_accumulation: Annotated[int, Gt(0)] = 1
    """Number of batches per optimizer step, weighted by their number of targets. The result is that of one batch of
    that many times the size, in the memory of a single batch, except that negatives are drawn for each batch.
    """
    loss: str = "cross_entropy"
    """Name of a loss over the whole catalog (``cross_entropy``, ``focal``), over sampled negatives
    (``sampled_softmax``, ``nll``, ``bce``, ``gbce``, ``bpr``, ``bpr_max``) or over both (``cross_entropy_pairwise``,
    ``sampled_softmax_pairwise``); in Python also a function with the same signature. Models with a loss of their own
    ignore it, and setting it is then an error."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Divisor of the scores in the loss. Recommendations are ranked by the undivided scores, and their probabilities
    are those of temperature 1."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Fraction of each target that is spread over the catalog, for cross-entropy over the whole catalog."""
    focal_gamma: Annotated[float, Gt(0)] = 2.0
    """Exponent of ``focal``: how strongly well-predicted targets are down-weighted."""
    pairwise_weight: Annotated[float, Ge(0), Le(1)] = 0.5
    """Weight of the pairwise part in the losses ``..._pairwise``."""
    calibration: Annotated[float, Ge(0), Le(1)] = 0.75
    """Parameter t of ``gbce``: 0 is plain BCE, 1 makes the scores estimate true probabilities."""
    score_penalty: Annotated[float, Ge(0)] = 1.0
    """Weight of the negatives' squared scores in ``bpr_max``."""
    num_negatives: Annotated[int, Gt(0)] = 256
    """Negatives drawn for each batch and shared by its targets, for sampled losses."""
    sampler: str = "uniform"
    """Distribution of the negatives: ``uniform``, ``popularity``, ``in_batch`` (targets of the batch), ``mixed``
    (``in_batch`` and ``uniform``) or ``hard`` (the highest-scoring ones of a larger pool)."""
    sampler_alpha: Annotated[float, Ge(0)] = 0.75
    """Exponent of the item counts in ``popularity``: 0 is uniform, 1 is proportional to the counts."""
    in_batch_fraction: Annotated[float, Ge(0), Le(1)] = 0.5
    """Fraction of the negatives of ``mixed`` that are targets of the batch."""
    hard_pool_factor: Annotated[float, Ge(1)] = 4.0
    """Pool size of ``hard``, as a multiple of ``num_negatives``."""
    optimizer: str = "adam"
    """``adam``, ``adamw`` (decoupled weight decay), ``sgd``, ``rmsprop``, or any other class of ``torch.optim``."""
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] = (0.9, 0.98)
    """Decay rates per step of the first and second moments of the gradient, for optimizers of the Adam family."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Momentum of ``sgd`` and ``rmsprop``."""
    learning_rate: Annotated[float, Gt(0), Search(3e-4, 0.01, log=True)] = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Weight decay of matrices and embeddings per step, times the learning rate for ``adamw``; norms and biases have
    none."""
    schedule: Literal["constant", "step", "cosine", "one_cycle", "plateau"] = "constant"
    """Learning-rate schedule."""
    warmup: Annotated[float, Ge(0)] = 0.0
    """Epochs over which the learning rate rises linearly to the schedule."""
    lr_step_epochs: Annotated[int, Gt(0)] = 10
    """Epochs between two reductions of ``step``, or validations without improvement before ``plateau`` reduces."""
    lr_step_factor: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Factor by which ``step`` or ``plateau`` reduces the learning rate."""
    clip_norm: Annotated[float, Ge(0)] = 1.0
    """Maximum norm of the gradient; 0: no clipping."""
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Decay per step of an exponential moving average of the weights, which is validated and saved in place of the
    weights; 0: none. After n steps at most (1 + n) / (10 + n)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products in training; weights, losses and running sums are always float32."""
    patience: Annotated[int, Gt(0)] = 10
    """Validations without improvement before training stops early."""
    metric: str | None = None
    """Validation metric that selects the best epoch; none: the model's own, which is ``ndcg@10``, or ``rmse`` for
    models of explicit feedback."""
    validate_every: Annotated[int, Gt(0)] = 1
    """Epochs between validations."""
    checkpoint_seconds: Annotated[float, Gt(0)] = 300.0
    """Seconds between checkpoints within an epoch; every epoch ends with one."""

    @field_validator("loss", "sampler", "optimizer", mode="wrap")
    @classmethod
    def _exists(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
        field = str(info.field_name)
        if field == "loss" and (callable(value) or isinstance(value, CustomLoss)):
            return value if isinstance(value, CustomLoss) else CustomLoss(value)
        name: str = handler(value)
        is_custom = field == "loss" and ":" in name  # read from the settings of a stored run
        if name != cls.model_fields[field].default and not is_custom:
            from segue.training.settings_checks import validate_choice  # needs torch

            validate_choice(field, name)
        return name

    @model_validator(mode="after")
    def _all_used(self) -> Self:
        if self.schedule not in STEP_SCHEDULES and (
            errors := [
                f"{name}: got {value!r}, but the schedule '{self.schedule}' does not use it; used by "
                f"{', '.join(STEP_SCHEDULES)}"
                for name in ("lr_step_epochs", "lr_step_factor")
                if (value := getattr(self, name)) != type(self).model_fields[name].default
            ]
        ):
            raise ValueError("\n".join(errors))
        if any(getattr(self, name) != type(self).model_fields[name].default for name in CHOICE_DEPENDENT_SETTINGS):
            from segue.training.settings_checks import unused_settings  # needs torch

            if errors := unused_settings(self):
                raise ValueError("\n".join(errors))
        return self
