"""Variance of the AUC (DeLong): brute force, and coverage in a simulated world."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segue.evaluation.auc_variance import auc_difference, auc_estimate
from segue.evaluation.click_metrics import auc
from segue.evaluation.evaluate_examples import evaluate_predictions, example_losses

TRUE_AUC = 0.7602499
"""Of normal scores whose means differ by one standard deviation: the normal distribution at 1 / sqrt(2)."""


def world(rng: Any, size: int = 120) -> tuple[Any, Any, Any]:
    """Return labels, and correlated scores of two equally good models."""
    labels = rng.integers(2, size=size)
    labels[:2] = 0, 1
    common = rng.normal(size=size)
    first, second = (labels + np.sqrt(0.5) * common + np.sqrt(0.5) * rng.normal(size=size) for _ in range(2))
    return labels, first, second


def brute_force(labels: Any, scores: list[Any]) -> Any:
    """Return the covariance of areas from all pairs of positive and negative examples."""
    placements = []
    for values in scores:
        pairs = values[labels == 1][:, None] - values[labels == 0][None]
        placements.append((pairs > 0) + 0.5 * (pairs == 0))
    positive, negative = (np.stack([one.mean(axis) for one in placements]) for axis in (1, 0))
    return np.cov(positive) / positive.shape[1] + np.cov(negative) / negative.shape[1]


@pytest.mark.parametrize("decimals", [0, 6])  # with and without ties
def test_intervals_are_those_of_all_pairs(decimals: int) -> None:
    labels, first, second = world(np.random.default_rng(0), 60)
    first, second = first.round(decimals), second.round(decimals)
    covariance = brute_force(labels, [first, second])
    found = auc_estimate(labels, first)
    assert found.mean == pytest.approx(auc(labels, first))
    half = 1.959964 * np.sqrt(covariance[0, 0])
    assert (found.low, found.high) == pytest.approx((found.mean - half, min(1, found.mean + half)))
    difference, p = auc_difference(labels, first, second)
    assert difference.mean == pytest.approx(auc(labels, first) - auc(labels, second))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert difference.high - difference.low == pytest.approx(2 * 1.959964 * np.sqrt(variance))
    assert (p < 0.05) == (difference.low > 0 or difference.high < 0)


def test_coverage_and_false_positives_in_a_known_world() -> None:
    rng = np.random.default_rng(1)
    covered, rejected = 0, 0
    for _ in range(200):
        labels, first, second = world(rng)
        found = auc_estimate(labels, first)
        covered += found.low <= TRUE_AUC <= found.high
        rejected += auc_difference(labels, first, second)[1] < 0.05
    assert 0.915 < covered / 200 < 0.985
    assert 0.015 < rejected / 200 < 0.09


def test_equal_and_perfect_models() -> None:
    labels = np.array([0, 0, 1, 1])
    assert auc_difference(labels, np.arange(4), np.arange(4))[1] == 1
    found, p = auc_difference(labels, np.arange(4), -np.arange(4))
    assert (found.mean, p) == (1, 0)
    assert str(auc_estimate(labels, np.arange(4))) == "1.0000 [1.0000, 1.0000]"
    with pytest.raises(ValueError, match="all 3 are equal"):
        auc_estimate(np.ones(3), np.arange(3))


def test_all_metrics_of_predictions() -> None:
    labels, first, _ = world(np.random.default_rng(2))
    p = 1 / (1 + np.exp(-first))
    found = evaluate_predictions(labels, p, np.arange(120) % 6, threshold=0.6)
    assert list(found) == ["auc", "log_loss", "uauc", "average_precision", "calibration_error", "f1", "gauc"]
    assert found["log_loss"].mean == pytest.approx(example_losses(labels, p).mean())
    assert found["log_loss"].low < found["log_loss"].mean < found["log_loss"].high
    assert np.isnan(found["f1"].low)
    assert found["f1"] != evaluate_predictions(labels, p, threshold=0.5)["f1"]
    assert "uauc" not in evaluate_predictions(labels, p)
    assert "uauc" not in evaluate_predictions(labels, p, np.arange(120))  # no user has both labels
    assert example_losses(np.array([1, 0]), np.array([0.0, 1.0])).tolist() == pytest.approx([16.118, 16.118], abs=0.01)
