"""Evaluate predicted probabilities of labeled examples.

Shapes: T examples, M models, U users, B bins of probability.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from segue.core.examples.fields import Examples
from segue.core.model import ExampleModel, Validate
from segue.evaluation import click_metrics
from segue.evaluation.auc_variance import mean_auc_estimate
from segue.evaluation.bootstrap import CONFIDENCE, Estimate, estimate_values

__all__ = [
    "EXAMPLE_METRICS",
    "evaluate_predictions",
    "evaluate_repeated",
    "example_losses",
    "make_example_validator",
    "make_row_validator",
    "reliability_table",
    "score_rows",
]

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
        users_T: user of each example; rows of NaN are left out of the metrics per user.
        threshold: probability from which an example is predicted as positive, for ``f1``; choose it on validation.

    Raises:
        ValueError: a label is not 0 or 1, all labels are equal, or a probability is outside 0 to 1.
    """
    return evaluate_repeated(labels_T, np.asarray(probabilities_T)[None], users_T, (threshold,), seed)


def evaluate_repeated(
    labels_T: NDArray[Any],
    probabilities_MT: NDArray[Any],
    users_T: NDArray[Any] | None,
    thresholds: Sequence[float],
    seed: int = 0,
) -> dict[str, Estimate]:
    """Compute the mean of all metrics over models, such as those of several seeds.

    Intervals are those of :func:`evaluate_predictions`, of the mean over the models; they are over examples, not over
    seeds.

    Args:
        thresholds: that of each model.

    Raises:
        ValueError: as :func:`evaluate_predictions`.
    """
    models = list(zip(probabilities_MT, thresholds, strict=True))
    losses_MT = np.stack([example_losses(labels_T, p_T) for p_T, _ in models])
    found: dict[str, Estimate] = {"auc": mean_auc_estimate(labels_T, probabilities_MT)}
    found |= estimate_values({"log_loss": losses_MT.mean(0)}, seed)
    single = {
        "average_precision": [click_metrics.average_precision(labels_T, p_T) for p_T, _ in models],
        "calibration_error": [click_metrics.calibration_error(labels_T, p_T) for p_T, _ in models],
        "f1": [click_metrics.f1(labels_T, p_T, threshold) for p_T, threshold in models],
    }
    if users_T is not None:
        is_known_T = (
            ~np.isnan(users_T) if np.issubdtype(users_T.dtype, np.floating) else np.ones(len(users_T), np.bool_)
        )
        known = users_T[is_known_T], labels_T[is_known_T]
        by_user = [click_metrics.user_aucs(*known, p_T[is_known_T])[1:] for p_T, _ in models]
        if len(by_user[0][0]):
            found |= estimate_values({"uauc": np.mean([areas_U for areas_U, _ in by_user], axis=0)}, seed)
            single["gauc"] = [float(np.average(areas_U, weights=counts_U)) for areas_U, counts_U in by_user]
    return found | {name: Estimate(float(np.mean(values)), np.nan, np.nan) for name, values in single.items()}


def reliability_table(labels_T: NDArray[Any], probabilities_T: NDArray[Any], bins: int = 15) -> pl.DataFrame:
    """Return predicted probabilities and observed shares of positive examples.

    One row per bin, in ascending order, with the columns ``rows``, ``predicted`` (mean probability), ``observed``
    (share of positive examples), and ``low`` and ``high``, the 95 % interval of ``observed`` (Wilson 1927,
    doi:10.1080/01621459.1927.10502953). Bins are those of :func:`segue.evaluation.click_metrics.reliability`.
    """
    rows_B, predicted_B, observed_B = click_metrics.reliability(labels_T, probabilities_T, bins).T
    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    center_B = (observed_B + z**2 / (2 * rows_B)) / (1 + z**2 / rows_B)
    variance_B = observed_B * (1 - observed_B) / rows_B + z**2 / (4 * rows_B**2)
    half_B = z / (1 + z**2 / rows_B) * np.sqrt(variance_B)
    low_B, high_B = np.maximum(0.0, center_B - half_B), np.minimum(1.0, center_B + half_B)
    columns = {"rows": rows_B.astype(np.int64), "predicted": predicted_B, "observed": observed_B}
    return pl.DataFrame({**columns, "low": low_B, "high": high_B})


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
    return make_row_validator(valid.labels, lambda model: model.predict_logits(valid))


def make_row_validator(labels_T: NDArray[Any] | None, predict: Callable[[Any], NDArray[Any]]) -> Validate:
    """Return a function that computes AUC and logarithmic loss of predicted rows.

    Args:
        predict: returns the logits of a model, ``(T,)``.

    Raises:
        ValueError: all labels are equal.
    """
    if labels_T is None or not len(labels_T) or labels_T.min() == labels_T.max():
        raise ValueError("validation: all labels are equal or missing, expected positive and negative ones")

    def validate(model: Any) -> Mapping[str, float]:
        assert isinstance(model, ExampleModel)
        return score_rows(labels_T, predict(model))

    return validate


def score_rows(labels_T: NDArray[Any], logits_T: NDArray[Any]) -> dict[str, float]:
    """Return AUC and mean logarithmic loss of logits.

    Rows of both labels are among them.
    """
    p_T = expit(logits_T.astype(np.float64))
    return {"auc": click_metrics.auc(labels_T, p_T), "log_loss": float(example_losses(labels_T, p_T).mean())}
