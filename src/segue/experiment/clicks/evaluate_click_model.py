"""Evaluate and compare click-through models on a table of labeled examples.

Shapes: T examples, M models of one kind, such as those of several seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from segue.core.config import suggest
from segue.core.events import Scores
from segue.core.examples.click_model import ClickModel
from segue.core.examples.unknown_values import UnknownValues
from segue.core.messages import warn
from segue.core.model import ExampleModel
from segue.data.examples.table import ExampleRows
from segue.evaluation.auc_variance import auc_difference
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.evaluate_examples import (
    evaluate_predictions,
    evaluate_repeated,
    example_losses,
    reliability_table,
)
from segue.evaluation.significance import PairedTest, compare_all, holm_correction
from segue.experiment.clicks.encoded_rows import encode_rows

__all__ = ["ClickComparison", "ClickEvaluation", "compare_click_models", "evaluate_click_model", "predict_table"]


@dataclass(frozen=True, eq=False, repr=False)
class ClickEvaluation(Mapping[str, Estimate]):
    """Metrics of a click-through model by name, and its reliability."""

    metrics: Mapping[str, Estimate]
    rows: int
    """Number of examples."""
    reliability: pl.DataFrame
    """Predicted probabilities and observed shares of positive examples: one row per bin, with ``rows``, ``predicted``,
    ``observed``, and ``low`` and ``high``, the 95 % interval of ``observed``."""
    uncalibrated: pl.DataFrame | None
    """The same before calibration; ``None``: the model is not calibrated."""

    def __getitem__(self, name: str) -> Estimate:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def __repr__(self) -> str:
        texts = (f"{name}={one.mean:.4f}" for name, one in self.metrics.items())
        return f"ClickEvaluation({', '.join(texts)}, rows={self.rows})"

    @property
    def reliability_curves(self) -> dict[str, pl.DataFrame]:
        """The reliability of the model, and of the model before calibration, by name."""
        if self.uncalibrated is None:
            return {"not calibrated": self.reliability}
        return {"before calibration": self.uncalibrated, "calibrated": self.reliability}


@dataclass(frozen=True)
class ClickComparison:
    """Metrics of models on the same examples, and paired tests of their differences."""

    metrics: Mapping[str, Mapping[str, Estimate]]
    """By model and metric; means over the seeds of a model."""
    tests: Mapping[str, tuple[PairedTest, ...]]
    """By metric, ``auc`` (DeLong) and ``log_loss`` (paired randomization test). A difference above 0 means that the
    first model is better. Holm's correction is over the pairs of models, for each metric."""

    @property
    def table(self) -> pl.DataFrame:
        """One row per model and metric, with the mean and its interval."""
        rows = [
            {"model": model, "metric": metric, "mean": one.mean, "low": one.low, "high": one.high}
            for model, found in self.metrics.items()
            for metric, one in found.items()
        ]
        return pl.DataFrame(rows)

    @property
    def test_table(self) -> pl.DataFrame:
        """One row per metric and pair of models."""
        names = ("first", "second", "difference", "low", "high", "p", "p_holm", "significant")
        rows = [
            {"metric": metric, **{name: getattr(test, name) for name in names}}
            for metric, tests in self.tests.items()
            for test in tests
        ]
        return pl.DataFrame(rows)


def evaluate_click_model(model: ClickModel, table: ExampleRows, seed: int = 0) -> ClickEvaluation:
    """Compute all metrics of a model on labeled examples.

    See :mod:`segue.evaluation.evaluate_examples`.


    Args:
        seed: of the bootstrap intervals.

    Raises:
        ValueError: a column is missing, a cell does not fit its column, or all labels are equal.
    """
    found = _PredictedRows(model, table)
    probabilities_T = model.probabilities(found.logits_T)
    metrics = evaluate_predictions(found.labels_T, probabilities_T, found.users_T, model.threshold, seed)
    before = None if model.calibration is None else reliability_table(found.labels_T, expit(found.logits_T))
    return ClickEvaluation(metrics, len(found.labels_T), reliability_table(found.labels_T, probabilities_T), before)


def predict_table(model: ClickModel, table: ExampleRows) -> Iterator[pl.DataFrame]:
    """Yield the rows with the columns ``probability`` and ``prediction``.

    A prediction is whether the probability reaches the threshold of the model.


    Raises:
        ValueError: a column is missing, a cell does not fit its column, or the table has a column of these names.
    """
    if taken := [name for name in ("probability", "prediction") if name in table.columns]:
        raise ValueError(f"{table.name}: got a column '{taken[0]}', which is the name of a result; rename it")
    if not len(table):
        raise ValueError(f"table: {table.name} has no rows, expected at least one")
    unknown = UnknownValues(model.encoder, table.name)
    for part in table.tables():
        examples = encode_rows(model.encoder, part.without_parts(), needs_labels=False)
        unknown.update(part.frame, examples)
        assert isinstance(model.model, ExampleModel)
        probabilities_T = model.probabilities(model.model.predict_logits(examples))
        results = {"probability": probabilities_T, "prediction": probabilities_T >= model.threshold}
        yield part.frame.with_columns(**{name: pl.Series(values) for name, values in results.items()})
    for note in unknown.notes():
        warn(note)


def compare_click_models(
    models: Mapping[str, ClickModel | Sequence[ClickModel]],
    table: ExampleRows,
    baseline: str | None = None,
    seed: int = 0,
) -> ClickComparison:
    """Compare models on the same labeled examples.

    Args:
        models: two or more, by name; several models of one name, such as those of several seeds, are averaged: the
            areas under the curve, and the losses of each example.
        baseline: compare every other model with this one; ``None``: every pair.
        seed: of the intervals and of the randomization test.

    Raises:
        ValueError: fewer than two models, an unknown ``baseline``, or models with different columns of labels.
    """
    if len(models) < 2:
        raise ValueError(f"models: got {len(models)}, expected at least 2 to compare")
    if baseline is not None and baseline not in models:
        raise ValueError(f"baseline: unknown '{baseline}'{suggest(baseline, models)}")
    members = {name: [one] if isinstance(one, ClickModel) else list(one) for name, one in models.items()}
    labels = {name: one.encoder.label for name, repeated in members.items() for one in repeated}
    if len(set(labels.values())) > 1:
        raise ValueError(f"models: got the columns of labels {labels}, expected the same one for all models")
    probabilities: dict[str, NDArray[np.float64]] = {}
    metrics: dict[str, Mapping[str, Estimate]] = {}
    labels_T: NDArray[Any] = np.zeros(0)
    for name, repeated in members.items():
        found = [_PredictedRows(model, table) for model in repeated]
        labels_T, users_T = found[0].labels_T, found[0].users_T
        pairs = zip(repeated, found, strict=True)
        probabilities[name] = np.stack([model.probabilities(one.logits_T) for model, one in pairs])
        thresholds = [model.threshold for model in repeated]
        metrics[name] = evaluate_repeated(labels_T, probabilities[name], users_T, thresholds, seed)
    losses = {
        name: -np.mean([example_losses(labels_T, p_T) for p_T in p_MT], axis=0) for name, p_MT in probabilities.items()
    }
    tests = {"auc": _auc_tests(labels_T, probabilities, baseline), "log_loss": compare_all(losses, baseline, seed)}
    return ClickComparison(metrics, tests)


def _auc_tests(
    labels_T: NDArray[Any], probabilities: Mapping[str, NDArray[np.float64]], baseline: str | None
) -> tuple[PairedTest, ...]:
    pairs = list(combinations(probabilities, 2))
    if baseline is not None:
        pairs = [(name, baseline) for name in probabilities if name != baseline]
    tests = []
    for first, second in pairs:
        found, p = auc_difference(labels_T, probabilities[first], probabilities[second])
        tests.append(PairedTest(first, second, found.mean, found.low, found.high, p, np.nan, p, len(labels_T)))
    corrected = holm_correction([test.p for test in tests])
    return tuple(replace(test, p_holm=p) for test, p in zip(tests, corrected, strict=True))


class _PredictedRows:
    """Logits of labeled rows, with their labels and users."""

    def __init__(self, model: ClickModel, table: ExampleRows) -> None:
        encoder, table = model.encoder, table.without_parts()
        if not len(table):
            raise ValueError(f"table: {table.name} has no rows, expected at least one")
        assert isinstance(model.model, ExampleModel)
        labels: list[Scores] = []
        logits: list[Scores] = []
        users: list[pl.Series] = []
        unknown = UnknownValues(encoder, table.name)
        for part in table.tables():
            examples = encode_rows(encoder, part)
            unknown.update(part.frame, examples)
            assert examples.labels is not None
            labels.append(examples.labels)
            logits.append(model.model.predict_logits(examples))
            if encoder.user in part.columns:
                users.append(part.frame[encoder.user])
        for note in unknown.notes():
            warn(note)
        self.labels_T: NDArray[Any] = np.concatenate(labels)
        self.logits_T: NDArray[Any] = np.concatenate(logits)
        self.users_T = encoder.rank_users(pl.concat(users)) if users else None
