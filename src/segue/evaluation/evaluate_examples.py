"""Evaluate predicted probabilities of labeled examples.

Shapes: T examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from segue.core.examples.fields import Examples
from segue.core.model import ExampleModel, Validate
from segue.evaluation import click_metrics
from segue.evaluation.auc_variance import auc_estimate
from segue.evaluation.bootstrap import Estimate, estimate_values

__all__ = ["EXAMPLE_METRICS", "evaluate_predictions", "example_losses", "make_example_validator"]

EXAMPLE_METRICS = ("auc", "log_loss", "average_precision", "calibration_error", "f1", "uauc", "gauc")
"""Metrics of labeled examples; ``uauc`` and ``gauc`` only where users are known."""

MIN_PROBABILITY = 1e-7
"""Probabilities are at least this far from 0 and 1 in the logarithmic loss, as float32 sigmoids reach both."""


def evaluate_predictions(
    labels_T: NDArray[Any],
    probabilities_T: NDArray[Any],
    users_T: NDArray[Any] | None = None,
    threshold: float = 0.5,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Compute all metrics of predicted probabilities.

    The interval of ``auc`` is DeLong's, that of ``log_loss`` is a bootstrap over examples and that of ``uauc`` over
    users. Other metrics have no interval; its ends are NaN.

    Args:
        threshold: probability from which an example is predicted as positive, for ``f1``; choose it on validation.

    Raises:
        ValueError: a label is not 0 or 1, all labels are equal, or a probability is outside 0 to 1.
    """
    found: dict[str, Estimate] = {"auc": auc_estimate(labels_T, probabilities_T)}
    found |= estimate_values({"log_loss": example_losses(labels_T, probabilities_T)}, seed)
    values = {
        "average_precision": click_metrics.average_precision(labels_T, probabilities_T),
        "calibration_error": click_metrics.calibration_error(labels_T, probabilities_T),
        "f1": click_metrics.f1(labels_T, probabilities_T, threshold),
    }
    if users_T is not None:
        _, areas_U, counts_U = click_metrics.user_aucs(users_T, labels_T, probabilities_T)
        if len(areas_U):
            found |= estimate_values({"uauc": areas_U}, seed)
            values["gauc"] = float(np.average(areas_U, weights=counts_U))
    return found | {name: Estimate(value, np.nan, np.nan) for name, value in values.items()}


def example_losses(labels_T: NDArray[Any], probabilities_T: NDArray[Any]) -> NDArray[np.float64]:
    """Return the negative log-likelihood of each label, ``(T,)``, in nats."""
    p_T = np.clip(np.asarray(probabilities_T, np.float64), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    losses: NDArray[np.float64] = -np.log(np.where(np.asarray(labels_T) > 0, p_T, 1 - p_T))
    return losses


def make_example_validator(valid: Examples) -> Validate:
    """Return a function that computes AUC and logarithmic loss on examples.

    Raises:
        ValueError: all labels are equal.
    """
    labels_T = valid.labels
    if labels_T is None or labels_T.min() == labels_T.max():
        raise ValueError("validation: all labels are equal or missing, expected positive and negative ones")

    def validate(model: Any) -> Mapping[str, float]:
        assert isinstance(model, ExampleModel)
        p_T = expit(model.predict_logits(valid).astype(np.float64))
        return {"auc": click_metrics.auc(labels_T, p_T), "log_loss": float(example_losses(labels_T, p_T).mean())}

    return validate
