"""Evaluate and compare click-through models on a table of labeled examples.

Shapes: T examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.config import suggest
from segue.core.examples.click_model import ClickModel
from segue.core.examples.fields import MISSING, UNKNOWN, Examples, fields_of_kind
from segue.core.messages import warn
from segue.core.model import ExampleModel
from segue.data.examples.table import ExampleTable
from segue.evaluation.auc_variance import auc_difference
from segue.evaluation.bootstrap import Estimate
from segue.evaluation.evaluate_examples import evaluate_predictions, example_losses
from segue.evaluation.significance import PairedTest, compare_all, holm_correction

__all__ = ["ClickComparison", "compare_click_models", "evaluate_click_model", "predict_table"]


@dataclass(frozen=True)
class ClickComparison:
    """Metrics of models on the same examples, and paired tests of their differences."""

    metrics: Mapping[str, Mapping[str, Estimate]]
    """By model and metric."""
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


def evaluate_click_model(model: ClickModel, table: ExampleTable, seed: int = 0) -> dict[str, Estimate]:
    """Compute all metrics of a model on labeled examples.

    See :mod:`segue.evaluation.evaluate_examples`.


    Args:
        seed: of the bootstrap intervals.

    Raises:
        ValueError: a column is missing, a cell does not fit its column, or all labels are equal.
    """
    examples = _encode(model, table, needs_labels=True)
    assert examples.labels is not None
    return evaluate_predictions(examples.labels, _predict(model, examples), examples.users, model.threshold, seed)


def predict_table(model: ClickModel, table: ExampleTable) -> pl.DataFrame:
    """Return the rows with the columns ``probability`` and ``prediction``.

    A prediction is whether the probability reaches the threshold of the model.


    Raises:
        ValueError: a column is missing, a cell does not fit its column, or the table has a column of these names.
    """
    if taken := [name for name in ("probability", "prediction") if name in table.frame.columns]:
        raise ValueError(f"{table.name}: got a column '{taken[0]}', which is the name of a result; rename it")
    probabilities_T = _predict(model, _encode(model, table, needs_labels=False))
    results = {"probability": probabilities_T, "prediction": probabilities_T >= model.threshold}
    return table.frame.with_columns(**{name: pl.Series(values) for name, values in results.items()})


def compare_click_models(
    models: Mapping[str, ClickModel], table: ExampleTable, baseline: str | None = None, seed: int = 0
) -> ClickComparison:
    """Compare models on the same labeled examples.

    Args:
        models: two or more, by name.
        baseline: compare every other model with this one; ``None``: every pair.
        seed: of the intervals and of the randomization test.

    Raises:
        ValueError: fewer than two models, an unknown ``baseline``, or models with different columns of labels.
    """
    if len(models) < 2:
        raise ValueError(f"models: got {len(models)}, expected at least 2 to compare")
    if baseline is not None and baseline not in models:
        raise ValueError(f"baseline: unknown '{baseline}'{suggest(baseline, models)}")
    labels = {name: one.encoder.label for name, one in models.items()}
    if len(set(labels.values())) > 1:
        raise ValueError(f"models: got the columns of labels {labels}, expected the same one for all models")
    probabilities: dict[str, NDArray[np.float64]] = {}
    metrics: dict[str, Mapping[str, Estimate]] = {}
    labels_T: NDArray[Any] = np.zeros(0)
    for name, model in models.items():
        examples = _encode(model, table, needs_labels=True)
        assert examples.labels is not None
        labels_T, probabilities[name] = examples.labels, _predict(model, examples)
        metrics[name] = evaluate_predictions(labels_T, probabilities[name], examples.users, model.threshold, seed)
    losses = {name: -example_losses(labels_T, p_T) for name, p_T in probabilities.items()}
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


def _encode(model: ClickModel, table: ExampleTable, needs_labels: bool) -> Examples:
    table = table.without_parts()
    with table.located():
        examples = model.encoder.encode(table.frame, needs_labels)
    if not len(examples):
        raise ValueError(f"table: {table.name} has no rows, expected at least one")
    categories = fields_of_kind(examples.fields, "category")
    for at, field in enumerate(categories):
        codes_T = examples.codes[:, at]
        known_T = codes_T[codes_T != MISSING]
        if len(known_T) and (known_T == UNKNOWN).all():
            warn(f"column '{field.name}' of {table.name}: none of its values is known from training")
    return examples


def _predict(model: ClickModel, examples: Examples) -> NDArray[np.float64]:
    assert isinstance(model.model, ExampleModel)
    return model.probabilities(model.model.predict_logits(examples))
