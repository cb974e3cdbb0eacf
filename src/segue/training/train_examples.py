"""Train click-through models on tables of labeled examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from segue.core.config import Settings, parse
from segue.core.examples.click_model import ClickModel
from segue.core.examples.encoder import fit_encoder
from segue.core.examples.fields import Examples
from segue.core.examples.settings import ExampleSettings
from segue.core.model import Validate
from segue.core.run import Run
from segue.training.settings import Training
from segue.training.train import train

if TYPE_CHECKING:
    from segue.training.callbacks import Callback

__all__ = ["train_examples"]

DEFAULT_METRIC = "auc"
"""Validation metric that chooses the best epoch, unless the training settings name ``log_loss``."""


def train_examples(
    key: str,
    table: pl.DataFrame,
    valid: pl.DataFrame | None = None,
    *,
    examples: ExampleSettings | Mapping[str, Any] | None = None,
    config: Settings | Mapping[str, Any] | None = None,
    training: Training | None = None,
    run: Run | None = None,
    make_validator: Callable[[Examples], Validate] | None = None,
    callbacks: Iterable[Callback] = (),
) -> ClickModel:
    """Train the model ``key`` on a table of labeled examples.

    Everything that encodes the columns is learned from ``table`` alone.

    Args:
        table: one row per example, with a column of labels.
        valid: further rows, which choose the best epoch; ``None``: no validation.
        examples: how columns are encoded.
        make_validator: returns a function that computes metrics of a model on examples; required with ``valid``.

    Raises:
        ValueError: the model cannot be trained on examples, a setting is unknown, a column is missing, a cell does not
            fit its column, or labels are not 0 and 1.
    """
    settings = examples if isinstance(examples, ExampleSettings) else parse(ExampleSettings, examples or {}, "examples")
    training = training or Training(metric=DEFAULT_METRIC, batch_size=4_096)
    if training.metric is None:
        training = training.model_copy(update={"metric": DEFAULT_METRIC})
    encoder = fit_encoder(table, settings)
    validate = None
    if valid is not None:
        assert make_validator is not None, "a validation table needs a validator"
        validate = make_validator(encoder.encode(valid))
    model = train(key, config or {}, training, encoder.encode(table), run or Run(), validate, callbacks)
    return ClickModel(key, model, encoder, metadata={"settings": settings.model_dump(mode="json")})
